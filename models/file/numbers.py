"""Finds NaN and infinity in a GGUF file, in values and in the scales of blocks.

Reads every block once, a piece of the file at a time; the table of formats says where a type's floats are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels.formats.table import FORMATS
from .gguf import GGUF
from .header import Tensor

PIECE = 8 << 20  # bytes that are checked at once

# name -> (the integer type of a float's bits, the mask of bits that are all ones in NaN and infinity)
_FLOATS: dict[str, tuple[str, int]] = {
    "f64": ("<u8", 0x7FF0_0000_0000_0000),
    "f32": ("<u4", 0x7F80_0000),
    "f16": ("<u2", 0x7C00),
    "bf16": ("<u2", 0x7F80),
    "e8m0": ("u1", 0xFF),  # a power of two, the scale of an mxfp4 block
}


@dataclass(frozen=True)
class Bad:
    """A tensor with NaN or infinity."""

    tensor: str
    type: str
    count: int  # of values or scales that are NaN or infinity
    first: int  # the index of the first such value or block


def is_checked(type: str) -> bool:
    """Return whether a type can be checked: its floats are known, or it has none."""
    return type in FORMATS or type in _FLOATS or type in ("i8", "i16", "i32", "i64")


def scan(g: GGUF, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Bad]:
    """Return the tensors with NaN or infinity; progress(bytes checked, bytes in all)."""
    total, done, found = sum(tensor.data.nbytes for tensor in g.tensors.values()), 0, list[Bad]()
    for tensor in g.tensors.values():
        count, first = 0, -1
        for before, bad in _pieces(tensor):
            if bad.any():
                first = before + int(bad.argmax()) if first < 0 else first
                count += int(bad.sum())
            progress(done, total)
        done += tensor.data.nbytes
        progress(done, total)
        if count:
            found.append(Bad(tensor.name, tensor.type, count, first))
    return found


def _pieces(tensor: Tensor) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield for each piece of a tensor the index of its first block, and the NaN or infinite floats in each block."""
    nbytes, floats = _floats(tensor.type)
    if not floats:
        return
    blocks = tensor.data.reshape(-1, nbytes)
    step = PIECE // nbytes
    for at in range(0, len(blocks), step):
        piece = blocks[at : at + step]
        counts = np.zeros(len(piece), np.uint8)
        for kind, offset in floats:
            counts += _not_finite(piece, kind, offset)
        yield at, counts


def _floats(type: str) -> tuple[int, list[tuple[str, int]]]:
    """Return the bytes of a block, and the kind and byte offset of each float in it."""
    if type in _FLOATS:
        return np.dtype(_FLOATS[type][0]).itemsize, [(type, 0)]
    layout = FORMATS[type].layout if type in FORMATS else None
    if layout is None:
        return 1, []
    scale = ("e8m0" if layout.exponent else "f16", layout.d)
    return layout.nbytes, [scale, ("f16", layout.m)] if layout.has_min else [scale]


def _not_finite(blocks: npt.NDArray[np.uint8], kind: str, offset: int) -> npt.NDArray[np.bool_]:
    bits, ones = _FLOATS[kind]
    dtype = np.dtype(bits)
    value = blocks[:, offset : offset + dtype.itemsize].view(dtype)[:, 0] if dtype.itemsize > 1 else blocks[:, offset]
    mask = dtype.type(ones)
    found: npt.NDArray[np.bool_] = (value & mask) == mask
    return found
