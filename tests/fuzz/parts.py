"""Takes a GGUF apart into pairs, tensors and data, and puts it together again, with anything wrong in it.

It is written from the format's description and not from pyllm's reader, which it is made to test.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the value types of a fixed size."""
STRING, ARRAY = 8, 9
ALIGNMENT = 32


@dataclass(frozen=True)
class Pair:
    """A pair of metadata; `value` is its bytes: of an array with type and count, of a string with its length."""

    key: bytes
    kind: int
    value: bytes

    def raw(self) -> bytes:
        return string(self.key) + u32(self.kind) + self.value


@dataclass(frozen=True)
class Info:
    """A tensor's description; `ne` has the contiguous size first."""

    name: bytes
    ne: tuple[int, ...]
    kind: int
    offset: int

    def raw(self) -> bytes:
        return string(self.name) + u32(len(self.ne)) + b"".join(map(u64, self.ne)) + u32(self.kind) + u64(self.offset)


@dataclass(frozen=True)
class Parts:
    """A whole file."""

    pairs: tuple[Pair, ...]
    infos: tuple[Info, ...]
    data: bytes

    def raw(self) -> bytes:
        head = self.head()
        return head + bytes(-len(head) % ALIGNMENT) + self.data

    def head(self) -> bytes:
        counts = b"GGUF" + u32(3) + u64(len(self.infos)) + u64(len(self.pairs))
        return counts + b"".join([pair.raw() for pair in self.pairs] + [info.raw() for info in self.infos])

    def with_pair(self, key: bytes, kind: int, value: bytes) -> Parts:
        """Return the parts with a pair in the place of the first of the same key, or at the end."""
        new, at = Pair(key, kind, value), next((i for i, p in enumerate(self.pairs) if p.key == key), len(self.pairs))
        return replace(self, pairs=(*self.pairs[:at], new, *self.pairs[at + 1 :]))


def u32(n: int) -> bytes:
    return struct.pack("<I", n & 0xFFFFFFFF)


def u64(n: int) -> bytes:
    return struct.pack("<Q", n & 0xFFFFFFFFFFFFFFFF)


def string(raw: bytes) -> bytes:
    return u64(len(raw)) + raw


def strings(value: bytes) -> list[bytes]:
    """Return the strings of an array's bytes."""
    (n,), at, found = struct.unpack_from("<Q", value, 4), 12, []
    for _ in range(n):
        (size,) = struct.unpack_from("<Q", value, at)
        found.append(value[at + 8 : at + 8 + size])
        at += 8 + size
    return found


def array(kind: int, items: list[bytes]) -> bytes:
    """Return an array's bytes; items: the bytes of each element, of a string without its length."""
    return u32(kind) + u64(len(items)) + b"".join(map(string, items) if kind == STRING else items)


class Reader:
    """Reads an undamaged file, and notes where the integers are that say how to read it."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 8
        self.fields: list[tuple[int, int]] = [(4, 4)]  # (position, bytes) of each integer that matters
        n_infos, n_pairs = self.integer(8), self.integer(8)
        pairs = tuple(self.pair() for _ in range(n_pairs))
        infos = tuple(self.info() for _ in range(n_infos))
        self.head = self.at
        self.parts = Parts(pairs, infos, raw[-(-self.at // ALIGNMENT) * ALIGNMENT :])

    def integer(self, size: int) -> int:
        self.fields.append((self.at, size))
        self.at += size
        return int.from_bytes(self.raw[self.at - size : self.at], "little")

    def text(self) -> bytes:
        size = self.integer(8)
        self.at += size
        return self.raw[self.at - size : self.at]

    def pair(self) -> Pair:
        key, kind = self.text(), self.integer(4)
        start = self.at
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            kind_of, n = self.integer(4), self.integer(8)
            if kind_of == STRING:
                for _ in range(n):
                    self.text()
            else:
                self.at += n * SIZES[kind_of]
        else:
            self.integer(SIZES[kind])
        return Pair(key, kind, self.raw[start : self.at])

    def info(self) -> Info:
        name, n = self.text(), self.integer(4)
        ne = tuple(self.integer(8) for _ in range(n))
        return Info(name, ne, self.integer(4), self.integer(8))
