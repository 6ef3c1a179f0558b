"""Pages of sequences that wait, on the disk or aside in memory, so that they need not be computed again.

On the disk each is a file without a name, which the system removes when it is closed, even if the process dies. A disk
that is full or fails loses nothing: the sequence is computed again. Copies in a smaller type take less room, but a
sequence that goes on with one goes on with other values: its answer is not the one that it has alone.
"""

from __future__ import annotations

import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from ..kernels.formats.table import FORMATS, Format
from ..kernels.page_copies import SmallerCopy
from ..kernels.shapes import columns
from ..models.forward.model import Model
from .page_table import PoolFull
from .sequence import Sequence

Pages = npt.NDArray[np.uint8]
DISK, MEMORY = 16 << 30, 1 << 30
"""Bytes of all copies at most, where nobody says how many."""


class Parking:
    """Takes copies of the pages of sequences, `limit` bytes of all at once at most; to be closed with them."""

    def __init__(
        self,
        folder: str | Path | None = None,
        limit: int | None = None,
        *,
        cache_type: str | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """folder: on the disk; None: in memory. cache_type: of the copies, where it is smaller than that of the pages.

        warn: called once, when there was no room for the pages of a sequence; by default a RuntimeWarning.
        """
        self._folder, self.used = None if folder is None else Path(folder), 0
        self.limit = (MEMORY if folder is None else DISK) if limit is None else limit
        self._smaller = None if cache_type is None else FORMATS[cache_type]
        self._warn: Callable[[str], None] | None = warn or _warn

    def park(self, model: Model, sequence: Sequence) -> Parked | None:
        """Return a copy of a sequence's pages; None, and a warning the first time, if it has no room."""
        size = sum(side.nbytes for side in _sides(model, sequence, self._smaller))
        if self.used + size > self.limit:
            self._refuse(f"more than the limit of {self.limit:,} bytes is needed")
            return None
        try:
            parked = Parked(self, self._file(), sequence, size, self._smaller)
        except OSError as error:
            self._refuse(error.strerror or str(error))
            return None
        try:
            parked.write(model, sequence)
        except OSError as error:
            parked.close()
            self._refuse(error.strerror or str(error))
            return None
        return parked

    def _file(self) -> IO[bytes]:
        if self._folder is None:
            return BytesIO()
        return tempfile.TemporaryFile(prefix="pyllm-parked-", dir=self._folder)

    def _refuse(self, why: str) -> None:
        warn, self._warn = self._warn, None
        if warn is not None:
            where = "memory" if self._folder is None else self._folder
            warn(f"{where}: requests that wait are computed again: {why}")


class Parked:
    """A copy of the pages of a sequence. To be closed."""

    def __init__(
        self, parking: Parking, file: IO[bytes], sequence: Sequence, size: int, smaller: Format | None
    ) -> None:
        self._parking, self._file, self._size, self._smaller = parking, file, size, smaller
        self.tokens = list(sequence.tokens)
        self.exact = True  # whether the copy is the pages, byte for byte
        self._first = [table.first for table in sequence.tables]
        self._sum = 0
        parking.used += size

    def write(self, model: Model, sequence: Sequence) -> None:
        """Copy the pages that the sequence holds; raises OSError."""
        for side in _sides(model, sequence, self._smaller):
            self.exact = self.exact and side.smaller_copy is None
            raw = side.copy()
            self._sum = zlib.crc32(raw.data, self._sum)
            self._file.write(raw.data)
        self._file.flush()

    def restore(self, model: Model, sequence: Sequence) -> bool:
        """Give an empty sequence the tokens and pages; return False, and leave it empty, if that cannot be done."""
        try:
            for table, first in zip(sequence.tables, self._first, strict=True):
                table.begin(first)
            sequence.reserve(len(self.tokens))
            self._file.seek(0)
            found = 0
            for side in _sides(model, sequence, self._smaller):
                raw = np.empty(side.shape, np.uint8)
                if self._file.readinto(raw.data.cast("B")) != raw.nbytes:  # type: ignore[attr-defined]
                    raise OSError
                found = zlib.crc32(raw.data, found)
                side.paste(raw)
            if found != self._sum:
                raise OSError
        except (OSError, PoolFull):
            sequence.rewind(0)
            return False
        sequence.extend(self.tokens)
        return True

    def close(self) -> None:
        """Remove the copy."""
        if not self._file.closed:
            self._file.close()
            self._parking.used -= self._size


@dataclass(frozen=True)
class _Side:
    """The pages of K or V of a layer that a sequence holds."""

    pool: Pages  # (heads, pages, bytes of a page)
    held: Any  # numbers of pages
    smaller_copy: SmallerCopy | None  # None: they are copied as they are

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of the copy."""
        nbytes = self.smaller_copy.page_bytes if self.smaller_copy else self.pool.shape[2]
        return self.pool.shape[0], len(self.held), nbytes

    @property
    def nbytes(self) -> int:
        heads, pages, nbytes = self.shape
        return heads * pages * nbytes

    def copy(self) -> Pages:
        found = self.pool[:, self.held]
        if self.smaller_copy is None:
            return np.ascontiguousarray(found)
        return self.smaller_copy.shrink(found.reshape(-1, found.shape[2])).reshape(self.shape)

    def paste(self, copies: Pages) -> None:
        if self.smaller_copy is not None:
            copies = self.smaller_copy.restore(copies.reshape(-1, copies.shape[2]))
        self.pool[:, self.held] = copies.reshape(len(self.pool), len(self.held), -1)


def _sides(model: Model, sequence: Sequence, smaller: Format | None) -> Iterator[_Side]:
    """Yield K and V of each layer, and of each of its segments, and then the marks of its tokens."""
    every = [(at, held) for i, at in enumerate(model.config.layers) for held in model.kv.segments(i)]
    for at, layer in every:
        table, n_pages = sequence.tables[layer.kind], model.kv.tables[layer.kind].pool
        if not n_pages:  # a body that is dropped
            continue
        held = table.pages[table.first : table.count]
        k, v = (layer.k_pool.reshape(-1, n_pages, layer.k_page), layer.v_pool.reshape(-1, n_pages, layer.v_page))
        yield _Side(k, held, _smaller_copy("k", layer.k_format, smaller, at.head_dim_k))
        yield _Side(v, held, _smaller_copy("v", layer.v_format, smaller, at.head_dim_v))
    for i, pair in model.kv.marks.items():  # what a policy goes by
        for layer, marks in zip((model.kv.layers[i], model.kv.tails[i]), pair, strict=True):
            table = sequence.tables[layer.kind]
            held = table.pages[table.first : table.count]
            for numbers in (marks.mass, marks.positions):
                yield _Side(numbers.view(np.uint8).reshape(*numbers.shape[:2], -1), held, None)


def _smaller_copy(side: Literal["k", "v"], held: Format, smaller: Format | None, head_dim: int) -> SmallerCopy | None:
    """Return how pages are copied in a format; None: as they are, because there is none, or it is not smaller."""
    if smaller is None or smaller.bits_per_value >= held.bits_per_value:
        return None
    return SmallerCopy(side, held, smaller, columns(head_dim))


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)
