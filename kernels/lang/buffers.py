"""Memory for kernels: aligned to cache lines, in huge pages where the system lends them. NumPy only."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

LINE = 64
"""Bytes of a cache line."""


def aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that begin at a cache line; a large piece is taken from the system only as it is touched."""
    if nbytes < 1 << 21:
        raw = np.zeros(nbytes + LINE, np.uint8)
        return raw[-raw.ctypes.data % LINE :][:nbytes]
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
    # Private: of memory that might be shared, which is mmap's default, Linux makes no huge pages.
    anonymous = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    anonymous.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(anonymous, np.uint8)
