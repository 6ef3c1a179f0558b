"""Decodes tensor types that pyllm cannot multiply into blocks that it can, once, when a model is loaded.

They become q8_0, which is small enough to be read fast, and whose error (0.5 % of a value) is negligible beside that of
one to three bits; activations are rounded to 8 bits too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ...kernels.formats.table import FORMATS, Format
from ..file.header import Tensor

F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]

DECODED = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "tq1_0", "tq2_0", "nvfp4")
"""The types that the package gguf decodes."""

WIDE = FORMATS["q8_0"]

READABLE = (*FORMATS, *DECODED)
"""The types of tensors that a model may have."""

PIECE = 1 << 20
"""Values that a thread decodes at once."""


def held_as(type: str) -> Format:
    """Return the format that a tensor of a READABLE type has in memory."""
    return FORMATS.get(type, WIDE)


def held_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor in tiles, without the rows that pad the last one."""
    fmt, rows = held_as(tensor.type), math.prod(tensor.shape[:-1])
    if fmt.layout is None or tensor.type not in READABLE:
        return tensor.data.nbytes
    layout = fmt.layout
    return rows * tensor.shape[-1] // layout.size * (layout.scale_bytes + layout.size * fmt.bits // 8)


def held(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of a model's tensors in memory; embedding rows stay in the file, unless they are decoded."""
    total = sum(map(held_bytes, tensors.values()))
    table = tensors.get("token_embd.weight")
    if table is not None and table.type in DECODED and "output.weight" not in tensors:
        total += held_bytes(table)  # it is held twice, in tiles and as rows
    return total


def decode(type: str, rows: U8Array) -> F32Array:
    """Decode rows of blocks of a READABLE type to float32."""
    if type in FORMATS:
        return FORMATS[type].decode(rows)
    from gguf import GGMLQuantizationType, quants  # takes 0.2 s; few models need it

    found: F32Array = quants.dequantize(rows, GGMLQuantizationType[type.upper()])
    return found


def blocks(type: str, rows: U8Array, threads: int) -> U8Array:
    """Convert rows of blocks of a type to blocks of `held_as(type)`."""
    if type in FORMATS or not len(rows):
        return rows
    step = max(1, PIECE // (rows.shape[1] * 4))  # a byte holds about 4 values
    with ThreadPoolExecutor(threads) as pool:
        pieces = (rows[first : first + step] for first in range(0, len(rows), step))
        return np.concatenate(list(pool.map(lambda piece: WIDE.encode(decode(type, piece)), pieces)))


def note(tensors: Iterable[Tensor]) -> str:
    """Return a message that names the decoded types of a model and their memory; "" if it has none."""
    found = [tensor for tensor in tensors if tensor.type in DECODED]
    if not found:
        return ""
    types = ", ".join(dict.fromkeys(tensor.type for tensor in found))
    before, after = sum(t.data.nbytes for t in found), sum(held_bytes(t) for t in found)
    return (
        f"{types}: decoded to {WIDE.name} while loading, {after / 2**20:.0f} MiB of memory for {before / 2**20:.0f} MiB"
    )
