"""A folder on the disk for the pages of sequences that wait, so that they need not be computed again.

Each is a file without a name, which the system removes when it is closed, even if the process dies. A disk that is full
or fails loses nothing: the sequence is computed again.
"""

from __future__ import annotations

import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..models.cache.store import KVCache
from .page_table import PoolFull
from .sequence import Sequence

Pages = npt.NDArray[np.uint8]


class Parking:
    """Takes the pages of sequences, `limit` bytes of all at once at most; closed with the files that it gave out."""

    def __init__(self, folder: str | Path, limit: int = 16 << 30) -> None:
        self._folder, self._limit, self.used = Path(folder), limit, 0
        self._warned = False

    def park(self, kv: KVCache, sequence: Sequence) -> Parked | None:
        """Return a copy of a sequence's pages on the disk; None, and a warning the first time, if it has no room."""
        size = sum(page[:, t].nbytes for page, t in _pages(kv, sequence))
        if self.used + size > self._limit:
            self._refuse(f"more than its limit of {self._limit:,} bytes are needed")
            return None
        try:
            file = tempfile.TemporaryFile(prefix="pyllm-parked-", dir=self._folder)  # noqa: SIM115
        except OSError as error:
            self._refuse(error.strerror or str(error))
            return None
        parked = Parked(self, file, sequence, size)
        try:
            parked.write(kv, sequence)
        except OSError as error:
            parked.close()
            self._refuse(error.strerror or str(error))
            return None
        return parked

    def _refuse(self, why: str) -> None:
        if not self._warned:
            warnings.warn(f"{self._folder}: requests that wait are computed again: {why}", RuntimeWarning, stacklevel=3)
        self._warned = True


class Parked:
    """The pages of a sequence on the disk. To be closed."""

    def __init__(self, parking: Parking, file: IO[bytes], sequence: Sequence, size: int) -> None:
        self._parking, self._file, self._size = parking, file, size
        self.tokens = list(sequence.tokens)
        self._first = [table.first for table in sequence.tables]
        self._sum = 0
        parking.used += size

    def write(self, kv: KVCache, sequence: Sequence) -> None:
        """Copy the pages that the sequence holds; raises OSError."""
        for pool, pages in _pages(kv, sequence):
            raw = np.ascontiguousarray(pool[:, pages])
            self._sum = zlib.crc32(raw.data, self._sum)
            self._file.write(raw.data)
        self._file.flush()

    def restore(self, kv: KVCache, sequence: Sequence) -> bool:
        """Give an empty sequence the tokens and pages; return False, and leave it empty, if that cannot be done."""
        n = len(self.tokens)
        try:
            for table, first in zip(sequence.tables, self._first, strict=True):
                table.begin(first)
            sequence.reserve(n)
            self._file.seek(0)
            found = 0
            for pool, pages in _pages(kv, sequence):
                raw = np.empty_like(pool[:, pages], order="C")
                if self._file.readinto(raw.data.cast("B")) != raw.nbytes:  # type: ignore[attr-defined]
                    raise OSError
                found = zlib.crc32(raw.data, found)
                pool[:, pages] = raw
            if found != self._sum:
                raise OSError
        except (OSError, PoolFull):
            sequence.rewind(0)
            return False
        sequence.extend(self.tokens)
        return True

    def close(self) -> None:
        """Remove the file."""
        if not self._file.closed:
            self._file.close()
            self._parking.used -= self._size


def _pages(kv: KVCache, sequence: Sequence) -> Iterator[tuple[Pages, Any]]:
    """Yield the pools of each layer and segment, (heads, pages, bytes of a page), and a sequence's pages."""
    for layer in kv.every:
        table = sequence.tables[layer.kind]
        held = table.pages[table.first : table.count]
        for pool, page in ((layer.k_pool, layer.k_page), (layer.v_pool, layer.v_page)):
            yield pool.reshape(-1, kv.tables[layer.kind].pool, page), held
