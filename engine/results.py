"""Plain records of an answer, and of the time and memory that it took; measures only this process's memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..kernels.plan import Cost

Stop = Literal["eog", "stop", "limit", "context", "interrupt"]
"""Why an answer ended: an end-of-generation token, a stop string, the limit on tokens, a full context, or the user."""


@dataclass(frozen=True)
class Piece:
    """A piece of the answer: whole characters, perhaps none; the last piece says why the answer ended."""

    text: str
    stop: Stop | None = None
    token: int | None = None  # the token that completed it


@dataclass
class Timings:
    """The time that an answer took, without the time in which the caller handles its pieces."""

    load: float = 0.0  # seconds to load the model
    prompt_n: int = 0  # tokens of the prompt that went through the model
    reused_n: int = 0  # tokens of the prompt that were in the cache already
    prompt: float = 0.0  # seconds for prompt_n tokens
    first: float = 0.0  # seconds from the prompt to the first token
    generated_n: int = 0  # tokens of the answer
    decoded_n: int = 0  # tokens of the answer that went through the model; the last one need not
    decode: float = 0.0  # seconds for the answer, sampling included
    requantized_n: int = 0  # tokens that came back into the cache from copies in a smaller type
    attended_n: int = 0  # tokens whose K and V the decoded ones read, summed up

    @property
    def prompt_rate(self) -> float:
        """Return the prompt's tokens per second."""
        return self.prompt_n / self.prompt if self.prompt else 0.0

    @property
    def decode_rate(self) -> float:
        """Return the answer's tokens per second."""
        return self.decoded_n / self.decode if self.decode else 0.0

    @property
    def depth(self) -> float:
        """Return how many tokens were in the cache, on average over the decoded tokens."""
        return self.attended_n / self.decoded_n if self.decoded_n else 0.0


@dataclass(frozen=True)
class Bytes:
    """The bytes that an answer took and read. Weights, K and V: read per decoded token, at the answer's mean depth."""

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
    seed: int  # the seed that gives the same answer again
    timings: Timings
    bytes: Bytes


def peak_memory() -> int:
    """Return the peak of this process's resident memory, in bytes."""
    try:
        import resource
    except ImportError:
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def moved(read: Cost, kv_bytes: int, timings: Timings) -> Bytes:
    """Return the memory of an answer, given what one of its tokens reads."""
    rate = (read.weights + read.k + read.v) * timings.decode_rate / 1e9
    return Bytes(read.weights, read.k, read.v, kv_bytes, rate, peak_memory())
