"""The loops that tell how many multiply-adds a core can do: they do what they say, and are not optimized away."""

from __future__ import annotations

import numpy as np
import pytest
import rig

from pyllm.kernels.lang import cpu
from pyllm.kernels.plan import now
from pyllm.kernels.roofs import peak


def test_paths() -> None:
    assert cpu.DOT in peak.INT8 and "portable" in peak.INT8 and peak.PATHS[-1] == "f32"
    assert ("amx" in peak.PATHS) == cpu.AMX


@pytest.mark.parametrize("path", peak.PATHS)
def test_every_multiply_add_is_done(path: str) -> None:
    kernel, macs = peak.peak(path)
    data, sums = rig.zeros(peak.ROOM, dtype=np.int8), rig.zeros(2 * peak.SUMS // 4, dtype=np.int32)
    floats = path == "f32"
    (data.view(np.float32) if floats else data)[:] = 1
    args = kernel.record(data=data, sums=sums)

    def ticks(items: int) -> int:
        begin = now()
        kernel.run(args, 0, items, 1)
        return int(now() - begin)

    assert ticks(1) > 0 and not sums[: peak.SUMS // 4].any(), "each thread has sums of its own"
    if path != "amx":  # whose sums stay in its tiles
        total = (sums.view(np.float32) if floats else sums).astype(np.float64).sum()
        assert total == macs
    assert min(ticks(20) for _ in range(5)) > 5 * min(ticks(1) for _ in range(5)), "the loop is there"
