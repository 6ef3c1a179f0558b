"""Writes the header of a GGUF with the metadata of another, copied as bytes, so that nothing is lost.

`gguf.py` describes the format. The other file's header must have been read and checked (`header.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value by its type
_STRING, _ARRAY = 8, 9


def pairs(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each metadata pair of a file: its key, and its type and value as bytes."""
    with path.open("rb") as f:
        f.seek(16)
        for _ in range(_number(f, _U64)):
            key = f.read(_number(f, _U64)).decode()
            start = f.tell()
            _skip(f, _number(f, _U32))
            end = f.tell()
            f.seek(start)
            yield key, f.read(end - start)


def _number(f: IO[bytes], kind: struct.Struct) -> int:
    return int(kind.unpack(f.read(kind.size))[0])


def _skip(f: IO[bytes], kind: int) -> None:
    if kind == _STRING:
        f.seek(_number(f, _U64), 1)
    elif kind == _ARRAY:
        kind, count = _number(f, _U32), _number(f, _U64)
        if kind == _STRING:
            for _ in range(count):
                _skip(f, kind)
        else:
            f.seek(count * _SIZES[kind], 1)
    else:
        f.seek(_SIZES[kind], 1)


def whole(value: int) -> bytes:
    """Return a u32 as type and value, in the bytes of `pairs`."""
    return _U32.pack(4) + _U32.pack(value)


Info = tuple[str, tuple[int, ...], int, int]
"""A tensor's name, shape with rows first, ggml type, and bytes."""


def write_header(out: IO[bytes], metadata: Mapping[str, bytes], tensors: Iterable[Info], alignment: int) -> None:
    """Write the header. metadata: from `pairs`; the tensors must follow in order, each padded to `alignment`."""
    tensors = list(tensors)
    out.write(b"GGUF" + _U32.pack(3) + _U64.pack(len(tensors)) + _U64.pack(len(metadata)))
    for key, value in metadata.items():
        out.write(_text(key) + value)
    offset = 0
    for name, shape, kind, nbytes in tensors:
        sizes = b"".join(_U64.pack(n) for n in reversed(shape))
        out.write(_text(name) + _U32.pack(len(shape)) + sizes + _U32.pack(kind) + _U64.pack(offset))
        offset += nbytes + padding(nbytes, alignment)
    out.write(bytes(padding(out.tell(), alignment)))


def padding(nbytes: int, alignment: int) -> int:
    """Return how many zeros pad `nbytes` to a multiple of the alignment."""
    return -nbytes % alignment


def _text(text: str) -> bytes:
    raw = text.encode()
    return _U64.pack(len(raw)) + raw
