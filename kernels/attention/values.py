"""The weighted sums of V: one formula, for decode and prefill, so that both give the same bits; knows no softmax.

Where the CPU multiplies bytes, a quantized V is not decoded (see integer_values.py); else sums are of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import overload

from ..formats.table import FORMATS
from ..formats.tiles import ROWS
from ..lang import cpu
from ..lang.memory import load_f16, load_rows, prefetch, splat_floats, store_f32, store_rows
from ..lang.simd import fma, spread_sum, zeros_f32
from ..pages import TILES, V_SCALES, block_bytes, load_v, seen_scales
from ..shapes import PAGE
from .integer_values import integer_adder, integer_loader
from .softmax import SCORE_ROW

_OPTIONS: dict[str, Any] = {"forceinline": True, "error_model": "numpy"}


def as_integers(fmt: str) -> bool:
    """Tell whether V of a format is summed as integers here."""
    return FORMATS[fmt].layout is not None and cpu.DOT in ("avx512vnni", "neon")


def add_page(fmt, n, many, a, v, numbers, seen, at, tokens, weights, room, sums, stride, k_next, v_next):
    """Add a V page's tokens times their weights to the sums of n query vectors of a block, from vector `at` on.

    fmt, n, many: constants. a: the ATTEND record. v: the page. seen: the tokens from the page's first one on that the
    block's first row sees; each later one sees one more. tokens: those of the page that a row of the block sees;
    beyond them anything may be there, and the last vectors may lie beyond the last row. numbers: what `load_page` made
    of them; in decode, if not `many` and not `as_integers`, those of the page. weights: [n][PAGE] float32, at most 1;
    room: as much for each 32 columns. sums: `stride` bytes apart. k_next, v_next: pages to prefetch, unless `many`,
    while the sums keep the core busy: the hardware cannot guess them.
    """
    raise NotImplementedError("only inside of kernels")


def load_page(fmt, a, v, tokens, to):
    """Write the numbers of a V page's first tokens, before their scales, as float32 [tokens][v_columns] to `to`.

    As integers, they are written as words instead (see integer_values.py).
    """
    raise NotImplementedError("only inside of kernels")


def add_floats(fmt, n, many, a, v, numbers, seen, at, tokens, weights, room, sums, stride, k_next, v_next):
    """Do as `add_page`, but with float32 on every CPU; numbers: of `load_floats`, if `many`."""
    raise NotImplementedError("only inside of kernels")


def load_floats(fmt, a, v, tokens, to):
    """Do as `load_page`, but write float32 on every CPU."""
    raise NotImplementedError("only inside of kernels")


@overload(add_page, prefer_literal=True, jit_options=_OPTIONS)
def _add_page(fmt, n, many, a, v, numbers, seen, at, tokens, weights, room, sums, stride, k_next, v_next):
    if not all(isinstance(constant, types.Literal) for constant in (fmt, n, many)):
        return None  # Numba asks again with literals
    made = integer_adder if as_integers(fmt.literal_value) else _adder
    return made(fmt.literal_value, n.literal_value, many.literal_value)


@overload(add_floats, prefer_literal=True, jit_options=_OPTIONS)
def _add_floats(fmt, n, many, a, v, numbers, seen, at, tokens, weights, room, sums, stride, k_next, v_next):
    if not all(isinstance(constant, types.Literal) for constant in (fmt, n, many)):
        return None
    return _adder(fmt.literal_value, n.literal_value, many.literal_value)


def _adder(name: str, count: int, floats: bool) -> Callable[..., Any]:
    layout, size = FORMATS[name].layout, 128 if floats else block_bytes(FORMATS[name])
    scaled, has_min, held = layout is not None, layout is not None and layout.has_min, "f32" if floats else name

    def add(fmt, n, many, a, v, numbers, seen, at, tokens, weights, room, sums, stride, k_next, v_next):
        blocks, step = a.v_columns // 32, 4 * a.v_columns if floats else a.v_row
        begin = max(0, seen + at // a.group - a.window)
        end = min(tokens, seen + (at + count - 1) // a.group)
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
                    m = seen_scales(v + (blocks + b) * V_SCALES, t, begin, end)
                    share = fma(load_rows(weights + 64 * t, SCORE_ROW, count), m, share)
                share = spread_sum(share)
                low, high = low + share, high + share
            for t in range(begin, end):  # sums += weight * 32 columns of the token
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
    return (integer_loader if as_integers(fmt.literal_value) else _loader)(fmt.literal_value)


@overload(load_floats, prefer_literal=True, jit_options=_OPTIONS)
def _load_floats(fmt, a, v, tokens, to):
    return _loader(fmt.literal_value) if isinstance(fmt, types.StringLiteral) else None


def _loader(name: str) -> Callable[..., Any]:
    size = block_bytes(FORMATS[name])

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
