"""The weighted sums of V: one formula, for decode and prefill, so that both give the same bits; knows no softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import overload

from ..formats.table import FORMATS
from ..formats.tiles import ROWS
from ..lang.memory import load_f16, load_rows, prefetch, splat_floats, store_f32, store_rows
from ..lang.simd import first_lanes, fma, splat, spread_sum, zeros_f32
from ..pages import TILES, V_SCALES, block_bytes, load_v
from ..shapes import PAGE
from .softmax import SCORE_ROW

_OPTIONS: dict[str, Any] = {"forceinline": True, "error_model": "numpy"}


def add_page(fmt, n, loaded, a, v, numbers, first, tokens, weights, room, sums, stride, k_next, v_next):
    """Add a V page's tokens `first` to `tokens` - 1 times their weights to the sums of n query vectors.

    fmt, n, loaded: constants. a: the ATTEND record. v: the page. numbers: those of the page, or, if `loaded`, what
    `load_page` made of them. weights: [n][PAGE] float32; room: as much, for weights times scales. sums: `stride` bytes
    apart. k_next, v_next: pages to prefetch, unless `loaded`, while the sums keep the core busy: the hardware cannot
    guess them.
    """
    raise NotImplementedError("only inside of kernels")


def load_page(fmt, a, v, tokens, to):
    """Write the numbers of a V page's first tokens, before their scales, as float32 [tokens][v_columns] to `to`."""
    raise NotImplementedError("only inside of kernels")


@overload(add_page, prefer_literal=True, jit_options=_OPTIONS)
def _add_page(fmt, n, loaded, a, v, numbers, first, tokens, weights, room, sums, stride, k_next, v_next):
    if not (isinstance(fmt, types.StringLiteral) and isinstance(n, types.IntegerLiteral)):
        return None  # Numba asks again with literals
    if not isinstance(loaded, types.BooleanLiteral):
        return None
    return _adder(fmt.literal_value, n.literal_value, loaded.literal_value)


def _adder(name: str, count: int, floats: bool) -> Callable[..., Any]:
    layout, size = FORMATS[name].layout, 128 if floats else block_bytes(FORMATS[name])
    scaled, has_min, held = layout is not None, layout is not None and layout.has_min, "f32" if floats else name

    def add(fmt, n, loaded, a, v, numbers, first, tokens, weights, room, sums, stride, k_next, v_next):
        blocks, step = a.v_columns // 32, 4 * a.v_columns if floats else a.v_row
        use = room if scaled else weights
        for b in range(blocks):
            if scaled:
                for t in range(TILES):  # weights times the scales of the block
                    d = load_f16(v + b * V_SCALES + t * 2 * ROWS)
                    store_rows(use + 64 * t, SCORE_ROW, load_rows(weights + 64 * t, SCORE_ROW, count) * d)
            o = sums + 128 * b
            low, high = load_rows(o, stride, count), load_rows(o + 64, stride, count)
            if has_min:  # the same for all columns of a block
                share = zeros_f32(count)
                for t in range(TILES):  # share += weights * minima of the tokens that are seen
                    m = load_f16(v + (blocks + b) * V_SCALES + t * 2 * ROWS)
                    m = first_lanes(tokens - ROWS * t, m, splat(0.0))
                    m = first_lanes(first - ROWS * t, splat(0.0), m)
                    share = fma(load_rows(weights + 64 * t, SCORE_ROW, count), m, share)
                share = spread_sum(share)
                low, high = low + share, high + share
            for t in range(first, tokens):  # sums += weight * 32 columns of the token
                if not floats:
                    prefetch(k_next + t * a.k_step)
                    prefetch(v_next + t * a.v_step)
                left, right = load_v(held, numbers + b * size + t * step)
                w = splat_floats(use + 4 * t, SCORE_ROW, count)
                low, high = fma(w, left, low), fma(w, right, high)
            k_next, v_next = k_next + PAGE * a.k_step, v_next + PAGE * a.v_step
            store_rows(o, stride, low)
            store_rows(o + 64, stride, high)

    return add


@overload(load_page, prefer_literal=True, jit_options=_OPTIONS)
def _load_page(fmt, a, v, tokens, to):
    if not isinstance(fmt, types.StringLiteral):
        return None
    name, size = fmt.literal_value, block_bytes(FORMATS[fmt.literal_value])

    def load(fmt, a, v, tokens, to):
        for t in range(tokens):
            numbers = v + a.v_scales + t * a.v_row
            for _ in range(a.v_columns // 32):  # 32 columns
                left, right = load_v(name, numbers)
                store_f32(to, left)
                store_f32(to + 64, right)
                numbers += size
                to += 128

    return load
