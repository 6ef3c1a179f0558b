"""The read bandwidth that the engine's own threads reach: the ceiling that decode is compared with."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np

from ...engine.machine.fit import free_memory
from ...engine.machine.host import last_level_cache
from ...kernels.lang.buffers import aligned
from ...kernels.plan import Plan, Team
from ...kernels.roofs import read_loop

CHUNK = 256 << 10  # bytes that a thread takes at a time
SMALLEST = 512 << 20
PASSES = 8


def buffer_bytes() -> int:
    """Return four times the last-level cache, so that little stays there, but at most a quarter of free memory."""
    wanted = max(SMALLEST, 4 * last_level_cache())
    return max(CHUNK, min(wanted, free_memory()[0] // 4) // CHUNK * CHUNK)


def touched(team: Team, nbytes: int, chunk: int = CHUNK) -> np.ndarray:
    """Return memory whose pages the team wrote, so that they are near its threads.

    Pages that nobody wrote would all be the same page of zeros.
    """
    data, plan = aligned(nbytes), Plan()
    plan.add("fill", read_loop.fill, items=nbytes // chunk, data=data, chunk=chunk, passes=1, sums=0)
    team.run(plan)
    return data


class Reader:
    """A buffer that a team reads again and again."""

    def __init__(self, team: Team, nbytes: int, chunk: int = CHUNK) -> None:
        assert nbytes % chunk == 0 and chunk % read_loop.STEP == 0
        self.nbytes, self._team = nbytes, team
        self._sums = aligned(64 * team.threads).view(np.float32)
        self._read, data = Plan(), touched(team, nbytes, chunk)
        self._read.add("read", read_loop.read, items=nbytes // chunk, data=data, chunk=chunk, passes=1, sums=self._sums)

    def read(self) -> float:
        """Read it all once and return the sum of what was read, which is 1 for each four bytes."""
        self._sums[:] = 0
        self._team.run(self._read)
        return float(self._sums.sum())


def ceiling(team: Team, nbytes: int | None = None) -> float:
    """Return the bytes per second that the team reads: the median of a few passes over more than a cache holds."""
    reader = Reader(team, nbytes or buffer_bytes())
    reader.read()
    seconds = []
    for _ in range(PASSES):
        begin = perf_counter()
        reader.read()
        seconds.append(perf_counter() - begin)
    Reader(team, read_loop.STEP, read_loop.STEP)  # a team keeps the plan it ran last: let go of the large buffer
    return reader.nbytes / median(seconds)
