"""The token loop: a prompt goes in, pieces of text come out, and each part is timed; knows no terminal and no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from ..models.progress import Progress, silent
from .ending import Ending
from .results import Piece, Stop, Timings

if TYPE_CHECKING:
    from ..models.text.tokenizer import Tokenizer
    from .sampler import Sampler
    from .stepper import Session


def generate(
    session: Session,
    prompt: Sequence[int],
    sampler: Sampler,
    tokenizer: Tokenizer,
    *,
    n_predict: int = -1,
    stop_strings: Sequence[str] = (),
    timings: Timings | None = None,
    progress: Progress = silent,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Piece]:
    """Continue `prompt`, which must fit in the context, until an end token or one of the others that `Ending` knows.

    The beginning that the session's tokens and the prompt have in common is not computed again. Between any two tokens
    the session is consistent, so the caller may stop iterating there, or stop the answer through `interrupted`.
    """
    times = Timings() if timings is None else timings
    ending = Ending(tokenizer, len(prompt), session.n_ctx, n_predict, stop_strings)
    begin = perf_counter()
    known = common_prefix(session.tokens, prompt[:-1])  # the last is taken in again, for its logits
    kept = session.rewind(known)
    logits = session.prefill(prompt[kept:], lambda done, _: progress("reading the prompt", kept + done, len(prompt)))
    for token in prompt:
        sampler.accept(token)
    times.prompt_n, times.reused_n, times.prompt = len(prompt) - kept, kept, perf_counter() - begin

    stop: Stop | None = "limit" if ending.empty else None
    while stop is None:
        started = perf_counter()
        token = sampler(logits)
        sampler.accept(token)
        if not times.generated_n:
            times.first = perf_counter() - begin
        piece = ending.take(token)
        stop = piece.stop
        if piece.token is None:
            break
        times.generated_n += 1
        times.decode += perf_counter() - started
        yield Piece(piece.text, token=token)
        if stop is None and interrupted():
            stop = "interrupt"
        if stop is None:
            started = perf_counter()
            logits = session.decode(token)
            times.decode += perf_counter() - started
            times.decoded_n += 1
            times.attended_n += session.n_past
    yield Piece(ending.flush(), stop)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens the two have in common at their start."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
