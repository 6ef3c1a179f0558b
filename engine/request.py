"""A request to a scheduler: what was asked for, how far it is, and what a step gave to it; runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from time import perf_counter

from ..models.errors import PyllmError
from . import prefixes
from .ending import Ending
from .parking import Parked
from .results import Piece, Timings
from .sampler import Sampler, SamplingParams
from .sequence import Sequence
from .stepper import Take


@dataclass(frozen=True)
class Request:
    """A prompt, and how to continue it. Requests of a smaller priority go first; salt keeps prefixes apart."""

    prompt: Tokens[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    salt: int = 0


@dataclass(frozen=True)
class Update:
    """What a step gave to a request: a piece of its answer, or the error that ended it."""

    id: int
    piece: Piece
    error: PyllmError | None = None


class Running:
    """A request under way: its sequence while it has one, and what was generated."""

    def __init__(self, id: int, request: Request, ending: Ending) -> None:
        self.id, self.request, self.ending = id, request, ending
        self.params = request.params.seeded()  # the seed is known while it waits
        self._sampler: Sampler | None = None  # large, so it is made when the request first runs
        self.tokens = list(request.prompt)  # to take in, generated ones too
        self.sequence: Sequence | None = None
        self.published = prefixes.start(request.salt)
        self.parked: Parked | None = None  # a copy of its pages, while it waits
        self.exact = True  # whether its pages hold what they hold alone; requantized ones do not
        self.timings = Timings()
        self.arrived = self.since = perf_counter()  # since: when its last token came, or it got its sequence

    @property
    def generated(self) -> int:
        """Return the number of tokens of its answer until now."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def own(self) -> Sequence:
        """Return the sequence of a request that runs."""
        assert self.sequence is not None
        return self.sequence

    @property
    def sampler(self) -> Sampler:
        """Return the sampler of a request that has begun."""
        assert self._sampler is not None
        return self._sampler

    def begin(self, sequence: Sequence, sampler: Callable[[SamplingParams], Sampler]) -> None:
        """Begin, or begin again, with an empty sequence; sampler: makes one."""
        self.sequence, self.since = sequence, perf_counter()
        if self._sampler is None:
            self._sampler = sampler(self.params)
            for token in self.request.prompt:
                self._sampler.accept(token)

    def forget(self) -> None:
        """Remove the copy of its pages."""
        if self.parked is not None:
            self.parked.close()
            self.parked = None

    def spend(self, now: float, *, prompt: bool) -> None:
        """Count the time until now as that of its prompt or of its answer."""
        spent, self.since = now - self.since, now
        if prompt:
            self.timings.prompt += spent
        else:
            self.timings.decode += spent

    def take(self, n: int) -> Take:
        """Return the next n tokens that its sequence takes in."""
        at = self.own.n_past
        return Take(self.own, self.tokens[at : at + n], not self.decodes)

    @property
    def left(self) -> int:
        """Return how many tokens are still to take in before the next logits; 1: it generates."""
        return len(self.tokens) - (self.sequence.n_past if self.sequence else 0)

    @property
    def decodes(self) -> bool:
        """Return whether it takes in a token that it has generated itself, and nothing else."""
        return self.left == 1 and self.generated > 0

    @property
    def order(self) -> tuple[int, int]:
        """Return its place among others: by priority, then as they came."""
        return self.request.priority, self.id
