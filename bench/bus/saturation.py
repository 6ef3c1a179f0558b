"""The growth of decode's speed with the number of threads, and where it ends: found in profiles, said in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..machine.roofs import Roofs
from .profiling import Profile

ENOUGH = 0.95  # share of the best rate at which the curve has reached its top
FULL = 0.85  # share of the ceiling, what the same threads can read, at which the bus is full


@dataclass(frozen=True)
class Point:
    """Decode with one number of threads."""

    threads: int
    tokens_per_second: float
    gbps: float
    ceiling: float  # bytes per second that the same threads read at most, over as many bytes as a step


@dataclass(frozen=True)
class Curve:
    """Decode of one pair of types at one depth."""

    pair: str
    depth: int
    points: tuple[Point, ...]  # by rising number of threads

    @property
    def name(self) -> str:
        return f"{self.pair} at depth {self.depth}"

    @property
    def knee(self) -> int:
        """The smallest number of threads that is as fast as any."""
        best = max(p.tokens_per_second for p in self.points)
        return next(p.threads for p in self.points if p.tokens_per_second >= ENOUGH * best)

    def words(self, cores: int) -> str:
        """Say in a sentence what the curve shows. cores: how many this machine has."""
        at = next(p for p in self.points if p.threads == self.knee)
        share = at.gbps * 1e9 / at.ceiling
        most = self.points[-1].threads
        threads = f"{at.threads} threads" if at.threads > 1 else "1 thread"
        if len(self.points) == 1:
            return f"{self.name}: one number of threads shows no curve; use -t 1-{max(2, cores)}."
        if at.threads < most and share >= FULL:
            fill = "fill" if at.threads > 1 else "fills"
            return f"{self.name}: {threads} {fill} the bus ({share:.0%} of what they can read); more threads only wait."
        if at.threads < most:
            least = f"{self.name}: more than {threads} gain nothing"
            return f"{least}, yet they read only {share:.0%} of what they could: it is not the bus."
        seen = f"every thread up to {most} helped ({share:.0%} of what {threads} can read)"
        if share >= FULL:
            return f"{self.name}: {seen}: the bus is full with all of them."
        beyond = "; this machine has no more cores to show where it ends" if most >= cores else ""
        return f"{self.name}: {seen}; the bus is not full{beyond}."


def curves(profiles: Sequence[Profile], roofs: Roofs) -> Iterator[Curve]:
    """Yield a curve for each set of decode cases that differ only in their number of threads."""

    def rest(p: Profile) -> tuple[int, str, str]:
        return p.case.n_depth, p.case.type_k, p.case.type_v

    decode = [p for p in profiles if not p.prefill]
    for (depth, k, v), same in groupby(sorted(decode, key=rest), key=rest):
        points = [
            Point(p.case.n_threads, p.tokens_per_second, p.gbps, roofs.bandwidth(p.case.n_threads, p.streamed))
            for p in sorted(same, key=lambda p: p.case.n_threads)
        ]
        yield Curve(f"{k}/{v}", depth, tuple(points))
