"""How many prompt tokens a step may take in beside decode rows, by the times of the steps before; runs nothing."""

from __future__ import annotations

SHARE = 0.2
"""Weight of a new measurement in the running means."""
FIRST = 32
"""Prompt tokens beside decode rows as long as nothing was measured."""
LEAST = 4
"""Prompt tokens beside decode rows at least, so that a prompt always goes on."""

FREE = 0.02
"""Share of a step's time that its prompt tokens take at least: clocks are not exact, and nothing is free."""


class Budget:
    """Keeps a step with prompt tokens within `most` times the time of one without; None: no limit.

    What it learns is a time for each prompt token beside others and one for a step without prompts.
    """

    def __init__(self, most: float | None) -> None:
        self._most = most
        self._fixed: dict[int, float] = {}  # seconds of pure decode steps, by rows
        self._token = 0.0  # seconds of a prompt token beside others

    def tokens(self, rows: int, room: int) -> int:
        """Return how many prompt tokens to take in beside `rows` decode rows; room: the most that a step can take."""
        if not rows or self._most is None:
            return room
        decode = self._decode(rows)
        if not decode or not self._token:
            return min(FIRST, room)
        return max(min(LEAST, room), min(room, int((self._most - 1) * decode / self._token)))

    def measured(self, rows: int, tokens: int, seconds: float) -> None:
        """Learn from a step of `rows` decode rows and `tokens` prompt tokens."""
        if rows and not tokens:
            self._fixed[rows] = _mean(self._fixed.get(rows, 0.0), seconds)
        elif tokens >= LEAST:
            rest = seconds - self._decode(max(rows, 1))  # a prompt alone reads the weights too
            self._token = _mean(self._token, max(rest, FREE * seconds) / tokens)

    def _decode(self, rows: int) -> float:
        """Return the seconds of a decode step: those of the nearest number of rows that was measured."""
        if not self._fixed:
            return 0.0
        return self._fixed[min(self._fixed, key=lambda n: abs(n - rows))]


def _mean(before: float, new: float) -> float:
    return new if not before else before + SHARE * (new - before)
