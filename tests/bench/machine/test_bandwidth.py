"""The bare read loop reads every byte once, with any number of threads; its speed is not tested."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import rig

from pyllm.bench.machine import bandwidth
from pyllm.kernels.plan import Team
from pyllm.kernels.roofs.read_loop import STEP, copy, fill, read, triad


def test_the_kernel_sums_what_it_reads() -> None:
    data = np.arange(7 * STEP // 4, dtype=np.float32)
    sums = rig.zeros(32)
    sums[0] = 3
    rig.run(read, 7, data=data, chunk=STEP, passes=2, sums=sums)
    assert sums[0] == 3 + 2 * data.sum(dtype=np.float64)
    assert not sums[1:].any()


def test_the_kernel_fills() -> None:
    data = rig.zeros(5 * STEP // 4)
    rig.run(fill, 4, data=data, chunk=STEP, passes=1, sums=0)
    assert (data[:STEP] == 1).all() and data.sum() == STEP


def test_the_kernels_move() -> None:
    arrays = rig.zeros(3, STEP)  # one item more than is moved
    arrays[1], arrays[2] = np.arange(STEP), 2
    moved = {"data": arrays, "chunk": STEP, "passes": 2, "apart": arrays.strides[0]}
    rig.run(copy, 3, **moved)
    n = 3 * STEP // 4
    assert (arrays[0, :n] == arrays[1, :n]).all() and not arrays[0, n:].any()
    rig.run(triad, 3, **moved)
    assert (arrays[0, :n] == arrays[1, :n] + 6).all() and not arrays[0, n:].any()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_team_reads_everything_once(threads: int) -> None:
    team = Team(threads)
    try:
        reader = bandwidth.Reader(team, 100 * STEP, STEP)
        assert reader.read() == reader.read() == 100 * STEP / 4
        assert bandwidth.ceiling(team, 4 * bandwidth.CHUNK) > 0
    finally:
        team.close()


def test_the_buffer_is_given_back() -> None:
    team, process = Team(2), psutil.Process()
    try:
        before = process.memory_info().rss
        bandwidth.ceiling(team, 256 << 20)
        assert process.memory_info().rss - before < 128 << 20
    finally:
        team.close()


def test_the_buffer_is_larger_than_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for cache, free, wanted in ((0, 1 << 40, 512 << 20), (1 << 30, 1 << 40, 4 << 30), (1 << 30, 1 << 30, 256 << 20)):
        monkeypatch.setattr(bandwidth, "last_level_cache", lambda cache=cache: cache)
        monkeypatch.setattr(bandwidth, "free_memory", lambda free=free: (free, ""))
        assert bandwidth.buffer_bytes() == wanted
