"""Memory for kernels: aligned to cache lines, in huge pages where the system offers them; offsets. NumPy only."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

LINE = 64
"""Bytes of a cache line."""


def offsets(record: np.dtype[Any]) -> tuple[int, ...]:
    """Return the bytes before each field of a record, in the record's order, for kernels that read it by address."""
    assert record.fields is not None
    return tuple(record.fields[name][1] for name in record.names or ())


def address(array: npt.NDArray[Any]) -> int:
    """Return where an array's numbers are, which must be plain numbers.

    Unlike `array.ctypes.data` this leaves no cycle to the garbage collector. For records NumPy runs Python code here,
    and swallows what a signal raises in it.
    """
    found: int = array.__array_interface__["data"][0]
    return found


def aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    """Return zeroed bytes that start at a cache line. The system provides a large piece only as it is touched."""
    if nbytes < 1 << 21:
        raw = np.zeros(nbytes + LINE, np.uint8)
        return raw[-raw.ctypes.data % LINE :][:nbytes]
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
    # Private, because Linux makes no huge pages of shared memory, which is mmap's default.
    anonymous = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    anonymous.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(anonymous, np.uint8)
