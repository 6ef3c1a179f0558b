"""A list of texts stored as one run of bytes; each becomes a Python string when it is asked for.

A vocabulary has up to 262,144 texts, of which an answer needs few; making strings of all would slow down a start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import overload

import numpy as np
import numpy.typing as npt


class Texts(Sequence[str]):
    """A list of texts; text i is the UTF-8 in `data` from offsets[i] to offsets[i + 1]."""

    def __init__(self, data: bytes, offsets: npt.NDArray[np.int64]) -> None:
        self.data, self.offsets = data, offsets

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        raw = [text.encode() for text in texts]
        return cls(b"".join(raw), np.array([0, *accumulate(map(len, raw))]))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the length of each text in bytes."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[at] for at in range(len(self))[i]]
        at = range(len(self))[i]
        return self.data[self.offsets[at] : self.offsets[at + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        data = self.data
        return (data[start:end].decode() for start, end in pairwise(self.offsets.tolist()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def find(self, wanted: Iterable[str]) -> dict[str, int]:
        """Return the index of each wanted text that is in the list, the first if it is there twice."""
        every, lengths, found = np.frombuffer(self.data, np.uint8), self.lengths, {}
        for text in wanted:
            raw = np.frombuffer(text.encode(), np.uint8)
            at = np.flatnonzero(lengths == len(raw))
            for i, byte in enumerate(raw):
                at = at[every[self.offsets[at] + i] == byte]
            if len(at):
                found[text] = int(at[0])
        return found

    def not_unicode(self) -> int | None:
        """Return the index of a text that is not UTF-8, by itself and not only with its neighbours; None if all are."""
        try:
            self.data.decode()
        except UnicodeDecodeError as e:
            return int(np.searchsorted(self.offsets, e.start, side="right")) - 1
        starts = np.flatnonzero(self.lengths)
        within = np.frombuffer(self.data, np.uint8)[self.offsets[starts]] & 0xC0 == 0x80
        return int(starts[within.argmax()]) if within.any() else None
