"""What an answer is and what it took, as plain records; measures only this process's memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

Stop = Literal["eog", "limit", "context", "interrupt"]
"""Why an answer ends: an end-of-generation token, the limit on tokens, a full context, or somebody stopped it."""


@dataclass(frozen=True)
class Piece:
    """A piece of the answer: whole characters, perhaps none; the last one says why it is the last."""

    text: str
    stop: Stop | None = None
    token: int | None = None  # that it came with


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
        """Tokens of the prompt per second."""
        return self.prompt_n / self.prompt if self.prompt else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens of the answer per second."""
        return self.decoded_n / self.decode if self.decode else 0.0

    @property
    def depth(self) -> float:
        """How many tokens were in the cache when one was decoded, on average."""
        return self.attended_n / self.decoded_n if self.decoded_n else 0.0


@dataclass(frozen=True)
class Bytes:
    """The memory that an answer took and moved. Weights, K and V are per decoded token, at the answer's mean depth."""

    weights: int
    k: int
    v: int
    kv_cache: int  # the whole cache
    gb_per_s: float
    peak: int  # the most that this process held at once


@dataclass(frozen=True)
class Completion:
    """An answer as a whole."""

    text: str
    tokens: tuple[int, ...]  # of the answer, without the token that ended it
    prompt_tokens: int
    stop: Stop | None
    seed: int  # that gives the same answer again
    timings: Timings
    bytes: Bytes


def peak_memory() -> int:
    """Return the most bytes of RAM that this process held at once."""
    try:
        import resource
    except ImportError:
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
