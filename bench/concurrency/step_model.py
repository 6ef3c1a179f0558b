"""A decode step's time by sequences and depth, fitted to points, and what another machine would make of it.

Computes only. A step of B sequences with L tokens each takes a + b*B + e*B*L seconds: a is a pass over the weights, b
what each row adds, e what each token in the cache adds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np

from ...models.errors import UsageError

SATURATED = 0.9
"""The share of the most tokens/s from which on more sequences are not worth their latency."""


@dataclass(frozen=True)
class Point:
    """A measured step."""

    sequences: int
    depth: int
    seconds: float


@dataclass(frozen=True)
class StepModel:
    """The seconds of a decode step: a + b*B + e*B*L, for B sequences with L tokens each."""

    a: float
    b: float
    e: float

    def seconds(self, sequences: float, depth: float) -> float:
        return self.a + self.b * sequences + self.e * sequences * depth

    def saturation(self, depth: int) -> float:
        """Return the sequences that give SATURATED of the most tokens/s at this depth."""
        each = self.b + self.e * depth
        return SATURATED / (1 - SATURATED) * self.a / each if each else math.inf

    def within(self, latency: float, depth: int) -> float:
        """Return the sequences whose step takes `latency` seconds, or less than 1 if one takes longer."""
        each = self.b + self.e * depth
        return (latency - self.a) / each if each else math.inf if self.a <= latency else 0.0

    def error(self, point: Point) -> float:
        """Return by which share of the measured time the model is off."""
        return abs(self.seconds(point.sequences, point.depth) / point.seconds - 1)


def split(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Return the points to fit, and those kept out to check the fit: a diagonal of the grid, in which each third lies.

    Points of the fewest sequences and of the least and the greatest depth are kept for the fit where that is possible.
    """
    rows = sorted({p.sequences for p in points})
    depths = sorted({p.depth for p in points})
    out = [p for p in points if (rows.index(p.sequences) + depths.index(p.depth)) % 3 == 2]
    seen = [p for p in points if p not in out]
    enough = len(seen) >= 3 and len({p.depth for p in seen}) > 1 and len({p.sequences for p in seen}) > 1
    return (seen, out) if enough else (list(points), [])


def fit(points: Sequence[Point]) -> StepModel:
    """Return the model with the least squares of relative errors, and no negative part; raises ValueError for none.

    With a single depth b and e cannot be told apart: only what they are together is right then.
    """
    if not points:
        raise ValueError("no points to fit")
    t = np.array([p.seconds for p in points])
    columns = np.array([[1.0, p.sequences, p.sequences * p.depth] for p in points]) / t[:, None]
    best, least = np.zeros(3), math.inf
    for n in (3, 2, 1):  # least squares without negative parts, by all sets of parts that may be positive
        for chosen in map(list, combinations(range(3), n)):
            scale = columns[:, chosen].max(axis=0)
            if not scale.all():
                continue
            part = columns[:, chosen] / scale
            found = np.linalg.lstsq(part, np.ones(len(t)), rcond=None)[0]
            rest = float(((part @ found - 1) ** 2).sum())
            if (found >= 0).all() and rest < least - 1e-12:
                best, least = np.zeros(3), rest
                best[chosen] = found / scale
    return StepModel(*map(float, best))


@dataclass(frozen=True)
class Checked:
    """A model with its errors, as shares of the measured times: at the points of the fit, and at those kept out."""

    model: StepModel
    seen: tuple[float, ...]
    unseen: tuple[float, ...]
    depths: int  # of the points of the fit; with a single one, b and e are not told apart

    @classmethod
    def of(cls, points: Sequence[Point]) -> Checked:
        """Fit a model to some of the points, and check it at the others."""
        seen, out = split(points)
        model = fit(seen)
        return cls(model, tuple(map(model.error, seen)), tuple(map(model.error, out)), len({p.depth for p in seen}))

    @property
    def summary(self) -> dict[str, float | None]:
        """Return the median and the largest error of both."""
        found: dict[str, float | None] = {}
        for name, errors in (("seen", self.seen), ("unseen", self.unseen)):
            found[f"{name}_median"] = median(errors) if errors else None
            found[f"{name}_max"] = max(errors) if errors else None
        return found


@dataclass(frozen=True)
class Machine:
    """What a prediction needs to know of a machine."""

    cores: int
    bandwidth: float  # bytes per second that its bus delivers
    memory: int  # bytes

    @classmethod
    def parse(cls, text: str) -> Machine:
        """Return the machine that "16c,60G,32G" describes: cores, GB/s of the bus, memory. Raises UsageError."""
        match = re.fullmatch(r"(\d{1,4})c,\s*(\d+(?:\.\d+)?)G,\s*(\d+(?:\.\d+)?)([GT])", text.strip(), re.ASCII)
        if match is None or len(text) > 40 or not int(match[1]) or not float(match[2]) or not float(match[3]):
            raise UsageError(
                f"--machine {text[:40]!r}: must be cores, GB/s of the memory bus and memory, such as 16c,60G,32G"
            )
        return cls(int(match[1]), float(match[2]) * 1e9, int(float(match[3]) * (1 << (30 if match[4] == "G" else 40))))

    def __str__(self) -> str:
        return f"{self.cores} cores, {self.bandwidth / 1e9:g} GB/s, {self.memory / (1 << 30):g} GiB"


@dataclass(frozen=True)
class Elsewhere:
    """A step on another machine, computed.

    Arithmetic takes the time that it takes here, divided by the ratio of cores, and nothing is faster than its bytes
    over the bus allow. What the bus costs here counts as arithmetic too, so this rather overstates the time.
    """

    model: StepModel
    weights: float  # bytes that a step reads once
    token: float  # bytes of K and V that it reads for each token in the cache
    cores: int  # of the machine that was measured
    there: Machine

    def parts(self, sequences: float, depth: float) -> tuple[float, float, float]:
        """Return the seconds of a step, those of its arithmetic, and those of its bytes."""
        ratio = self.cores / self.there.cores
        rows = (self.model.a + self.model.b * sequences) * ratio, self.weights / self.there.bandwidth
        cached = self.model.e * sequences * depth * ratio, sequences * depth * self.token / self.there.bandwidth
        return max(rows) + max(cached), rows[0] + cached[0], rows[1] + cached[1]

    def seconds(self, sequences: float, depth: float) -> float:
        return self.parts(sequences, depth)[0]

    def most(self, depth: int, latency: float | None, limit: int) -> int:
        """Return the sequences up to `limit` that give SATURATED of the tokens/s of many, within the latency."""
        peak = 1e6 / self.seconds(1e6, depth)
        for n in range(1, limit + 1):
            if latency is not None and self.seconds(n, depth) > latency:
                return n - 1
            if n / self.seconds(n, depth) >= SATURATED * peak:
                return n
        return limit
