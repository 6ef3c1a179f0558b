"""Memory for kernels: aligned to cache lines, in huge pages where the system offers them; offsets. NumPy only."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

U8Array = npt.NDArray[np.uint8]

LINE = 64
"""Bytes of a cache line."""

HUGE = 2 << 20
"""Bytes of a huge page."""

_ARENA = 32 << 20
"""Bytes that an arena asks the system for at a time; those that nobody touches take no memory."""


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


def aligned(nbytes: int) -> U8Array:
    """Return zeroed bytes that start at a cache line. The system provides a large piece only as it is touched."""
    if nbytes >= HUGE:
        return _mapped(nbytes)
    raw = np.zeros(nbytes + LINE, np.uint8)
    return raw[-raw.ctypes.data % LINE :][:nbytes]


class Arena:
    """Zeroed memory for pieces that are freed together, one after the other in huge pages: a small piece alone gets
    none, and what reads all pieces in turn then waits for the addresses of small pages."""

    def __init__(self) -> None:
        self._free = np.empty(0, np.uint8)

    def take(self, nbytes: int) -> U8Array:
        """Return bytes that start at a cache line."""
        size = -(-nbytes // LINE) * LINE
        if size > len(self._free):
            self._free = _mapped(max(size, _ARENA))
        piece, self._free = self._free[:nbytes], self._free[size:]
        return piece


def _mapped(nbytes: int) -> U8Array:
    """Return bytes that start at a huge page, where the system has such."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
    # Private, because Linux makes no huge pages of shared memory, which is mmap's default.
    anonymous = mmap.mmap(-1, nbytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    anonymous.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(anonymous, np.uint8)
    return whole[-address(whole) % HUGE :][:nbytes]
