"""The token loop: a prompt goes in, pieces of text come out, and the clock is kept; knows no terminal and no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from .machine.progress import Progress, silent

if TYPE_CHECKING:
    from ..models.text.tokenizer import Tokenizer
    from .sampler import Sampler
    from .session import Session

Stop = Literal["eog", "limit", "context", "interrupt"]


@dataclass(frozen=True)
class Piece:
    """A piece of the answer: whole characters, perhaps none; the last one says why it is the last."""

    text: str
    stop: Stop | None = None


@dataclass
class Timings:
    """What an answer took. Printing the pieces is not in it: the clock stands while the caller has them."""

    load: float = 0.0  # seconds, of the model
    prompt_n: int = 0  # tokens of the prompt that went through the model
    reused_n: int = 0  # and those that were in the cache already
    prompt: float = 0.0  # seconds for prompt_n
    first: float = 0.0  # seconds from the prompt to the first token
    generated_n: int = 0  # tokens of the answer
    decoded_n: int = 0  # tokens of it that went through the model; the last one need not
    decode: float = 0.0  # seconds for them, sampling included
    attended_n: int = 0  # tokens whose K and V the decoded ones read, summed up

    @property
    def prompt_rate(self) -> float:
        return self.prompt_n / self.prompt if self.prompt else 0.0

    @property
    def decode_rate(self) -> float:
        return self.decoded_n / self.decode if self.decode else 0.0

    @property
    def depth(self) -> float:
        """How many tokens were in the cache when one was decoded, on average."""
        return self.attended_n / self.decoded_n if self.decoded_n else 0.0


def generate(
    session: Session,
    prompt: Sequence[int],
    sampler: Sampler,
    tokenizer: Tokenizer,
    *,
    n_predict: int = -1,
    timings: Timings | None = None,
    progress: Progress = silent,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Piece]:
    """Continues `prompt`, which must fit in the context, until an end token, n_predict tokens or a full context.

    What session and prompt have in common at the start is not computed again. Between any two tokens the session is
    whole, so that the caller may stop listening there, or ask for it through `interrupted`.
    """
    from ..models.text.tokenizer import StreamDecoder

    times = Timings() if timings is None else timings
    decoder = StreamDecoder(tokenizer)
    begin = perf_counter()
    kept = min(common_prefix(session.tokens, prompt), len(prompt) - 1)  # the last one is needed for its logits
    session.rewind(kept)
    logits = session.prefill(prompt[kept:], lambda done, total: progress("reading the prompt", done, total))
    for token in prompt[kept:]:
        sampler.accept(token)
    times.prompt_n, times.reused_n, times.prompt = len(prompt) - kept, kept, perf_counter() - begin

    stop: Stop | None = "limit" if n_predict == 0 else None
    while stop is None:
        started = perf_counter()
        token = sampler(logits)
        sampler.accept(token)
        if not times.generated_n:
            times.first = perf_counter() - begin
        if token in tokenizer.eog:
            stop = "eog"
            break
        times.generated_n += 1
        text = decoder.feed(token)
        times.decode += perf_counter() - started
        yield Piece(text)
        if times.generated_n == n_predict:
            stop = "limit"
        elif session.n_past >= session.n_ctx:
            stop = "context"
        elif interrupted():
            stop = "interrupt"
        else:
            started = perf_counter()
            logits = session.decode(token)
            times.decode += perf_counter() - started
            times.decoded_n += 1
            times.attended_n += session.n_past
    yield Piece(decoder.flush(), stop)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens at the start are the same."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
