"""Puts NumPy arrays where kernels read them, and runs a kernel on them."""

from __future__ import annotations

from functools import cache
from typing import Any

import naive
import numpy as np
import numpy.typing as npt

from pyllm.kernels import pages
from pyllm.kernels.formats import tiles
from pyllm.kernels.formats.encode import SCRATCH
from pyllm.kernels.formats.table import Format
from pyllm.kernels.lang.buffers import aligned
from pyllm.kernels.lang.jit import Kernel, kernel, record
from pyllm.kernels.shapes import PAGE

Array = npt.NDArray[Any]


def run(kernel: Kernel, items: int, **operands: Any) -> None:
    """Run all items, last first and a few at once: they must not depend on their order."""
    args = kernel.record(**operands)
    for begin in reversed(range(0, items, 3)):
        kernel.run(args, begin, min(begin + 3, items))


def zeros(*shape: int, dtype: Any = np.float32) -> Array:
    """Return zeros that begin at a cache line, as the engine's buffers do."""
    return aligned(int(np.prod(shape)) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)


def activations(x: Array) -> tuple[Array, Array]:
    """Return x (rows, n) as int8 and META records."""
    q, d = naive.quantize_row(x)
    halves = -q.reshape(*d.shape, 2, 16).sum(axis=-1, dtype=np.int32)
    total = halves.sum(axis=-1, dtype=np.int32)
    fields = (d, d * total.astype(np.float32), total, halves[..., 1])
    return q, np.stack([np.ascontiguousarray(f).view(np.int32) for f in fields], axis=-1)


def packed(raw: Array, fmt: Format, columns: int) -> Array:
    """Return canonical blocks (rows, bytes of a row) as tiles."""
    rows = len(raw)
    n = -(-rows // tiles.ROWS)
    out = zeros(n, tiles.tile_bytes(fmt, columns), dtype=np.uint8)
    run(tiles.packer(fmt), n, raw=raw, tiles=out, **tiles.pack_operands(fmt, rows, columns))
    return out


@cache
def store(fmt: str) -> Kernel:
    """Return a kernel whose items are tokens: it stores x in K and V pages at `slots`, and reads V back to `out`."""
    store_k, store_v, load_v = pages.store_k, pages.store_v, pages.load_v
    from pyllm.kernels.lang.memory import peek_i64, store_f32

    @kernel(record(x="ptr", n="int", slots="ptr", k="ptr", k_page="int", v="ptr", v_page="int", numbers="int",
                   row="int", scratch="ptr", out="ptr"), f"store_{fmt}")  # fmt: skip
    def store(a, begin, end, thread):  # type: ignore[no-untyped-def]
        for item in range(begin, end):
            page, slot = divmod(peek_i64(a.slots + 8 * item), PAGE)
            x, v = a.x + item * a.n * 4, a.v + page * a.v_page
            store_k(fmt, x, a.n, a.k + page * a.k_page, slot, a.scratch)
            store_v(fmt, x, a.n, v, slot, a.scratch)
            for b in range(a.n // 32):
                low, high = load_v(fmt, v + a.numbers + slot * a.row + b * (a.row // (a.n // 32)))
                store_f32(a.out + (item * a.n + 32 * b) * 4, low)
                store_f32(a.out + (item * a.n + 32 * b) * 4 + 64, high)

    return store


def stored(x: Array, fmt: Format, slots: Array, n_pages: int) -> tuple[Array, Array, Array]:
    """Return x (tokens, n) in pages: (K pages, V pages, V as load_v reads it). Unused bytes are all ones: NaN."""
    n = x.shape[1]
    k = zeros(n_pages, pages.k_page_bytes(fmt, n), dtype=np.uint8)
    v = zeros(n_pages, pages.v_page_bytes(fmt, n), dtype=np.uint8)
    k[:], v[:] = 255, 255
    out = zeros(*x.shape)
    run(store(fmt.name), len(x), x=np.ascontiguousarray(x, np.float32), n=n, slots=slots, k=k, k_page=k.shape[1],
        v=v, v_page=v.shape[1], numbers=pages.v_scale_bytes(fmt, n), row=pages.v_row_bytes(fmt, n),
        scratch=np.zeros(SCRATCH, np.uint8), out=out)  # fmt: skip
    return k, v, out
