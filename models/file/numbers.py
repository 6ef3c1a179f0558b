"""Whether the numbers in a GGUF file are numbers: NaN and infinity in values and in the scales of blocks.

Looks at every block once, a piece of the file at a time; where a type's floats are, the table of formats tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels.formats.table import FORMATS
from .gguf import GGUF, Tensor

PIECE = 8 << 20  # bytes that are looked at together

# name -> (the integer of a float's bits, those that are all ones in NaN and infinity)
_FLOATS: dict[str, tuple[str, int]] = {
    "f64": ("<u8", 0x7FF0_0000_0000_0000),
    "f32": ("<u4", 0x7F80_0000),
    "f16": ("<u2", 0x7C00),
    "bf16": ("<u2", 0x7F80),
    "e8m0": ("u1", 0xFF),  # a power of two, the scale of an mxfp4 block
}


@dataclass(frozen=True)
class Bad:
    """A tensor with numbers that are none."""

    tensor: str
    type: str
    count: int  # of them: values, or scales
    first: int  # which value, or which block, is the first


def is_checked(type: str) -> bool:
    """Whether it is known where the type's floats are, or that it has none."""
    return type in FORMATS or type in _FLOATS or type in ("i8", "i16", "i32", "i64")


def scan(g: GGUF, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Bad]:
    """The tensors that are not all numbers; progress: (bytes looked at, all)."""
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
    """(blocks before, how many floats of each block are none) for each piece of the tensor."""
    nbytes, floats = _floats(tensor.type)
    if not floats:
        return
    blocks = tensor.data.reshape(-1, nbytes)
    step = PIECE // nbytes
    for at in range(0, len(blocks), step):
        piece = blocks[at : at + step]
        none = np.zeros(len(piece), np.uint8)
        for kind, offset in floats:
            none += _is_none(piece, kind, offset)
        yield at, none


def _floats(type: str) -> tuple[int, list[tuple[str, int]]]:
    """The bytes of a block, and the floats in it: (kind, where)."""
    if type in _FLOATS:
        return np.dtype(_FLOATS[type][0]).itemsize, [(type, 0)]
    layout = FORMATS[type].layout if type in FORMATS else None
    if layout is None:
        return 1, []
    scale = ("e8m0" if layout.exponent else "f16", layout.d)
    return layout.nbytes, [scale, ("f16", layout.m)] if layout.has_min else [scale]


def _is_none(blocks: npt.NDArray[np.uint8], kind: str, offset: int) -> npt.NDArray[np.bool_]:
    bits, ones = _FLOATS[kind]
    dtype = np.dtype(bits)
    value = blocks[:, offset : offset + dtype.itemsize].view(dtype)[:, 0] if dtype.itemsize > 1 else blocks[:, offset]
    mask = dtype.type(ones)
    found: npt.NDArray[np.bool_] = (value & mask) == mask
    return found
