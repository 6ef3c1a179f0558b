"""Predicts how long a study's cells take, from those that were measured; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence

from .cells import Cell
from .tasks import TASKS

SHORT = {"questions": 128, "sums": 256}
"""Tokens of a sample of the tasks that do not fill their context."""
FAR = 4096
"""Tokens of context at which a token takes about twice as long as at none."""
UNKNOWN = {"attention": 4.0, "norms": 4.0, "generate": 20.0}
"""Seconds of a token of these measures by those of one that is scored, until one was measured."""


class Pace:
    """What a token of each measure took, and what it took to open a cache, at worst of the last two groups."""

    def __init__(self) -> None:
        self._tokens: dict[str, list[float]] = {}  # seconds of a token, by measure
        self._opening: list[float] = []  # seconds for each cache: most of it compiles kernels

    def fitting(self, group: Sequence[Cell], left: float) -> list[Cell]:
        """Return as many cells of a group, from the first on, as there is time for; one of a new measure."""
        most = len(group) if _name(group[0]) in self._tokens else 1
        fits = (n for n in range(most, 0, -1) if self.predicted(group[:n]) <= left)
        return list(group[: next(fits, 0)]) if left > 0 else []

    def predicted(self, group: Sequence[Cell]) -> float:
        """Return the seconds that the cells of a group take, measured side by side; 0 while nothing is known."""
        return self._token(_name(group[0])) * work(group) + max(self._opening[-2:], default=0.0) * len(group)

    def learn(self, group: Sequence[Cell], opening: float, measuring: float) -> None:
        """Take in the seconds that a group took: to open its caches, and to measure it."""
        self._tokens.setdefault(_name(group[0]), []).append(measuring / work(group))
        self._opening.append(opening / len(group))

    def _token(self, name: str) -> float:
        """Return the seconds of a token; for a new measure, from those of the others."""
        if name in self._tokens:
            return max(self._tokens[name][-2:])
        factor = UNKNOWN.get(name, 1.0)
        return max((factor / UNKNOWN.get(n, 1.0) * found[-1] for n, found in self._tokens.items()), default=0.0)


def _name(cell: Cell) -> str:
    return "score" if cell.measure == "layer" else cell.measure


def work(group: Sequence[Cell]) -> float:
    """Return the tokens that all caches of a group and the reference take in; in long contexts they count for more."""
    cell = group[0]
    tokens = cell.context if cell.task not in TASKS or TASKS[cell.task].fills else SHORT[cell.task]
    return (1 + len(group)) * cell.samples * tokens * (1 + tokens / FAR)
