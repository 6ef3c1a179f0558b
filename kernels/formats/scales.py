"""The scale and the minimum of a group of columns in a tile (see tiles.py), as vectors of 16 rows, for each format."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import overload

from ..lang.buffers import LINE
from ..lang.jit import inline
from ..lang.memory import load_e8m0, load_f16, load_i8_f32, load_u8_i32, load_u16_i32
from ..lang.simd import high_bytes_i32, high_nibbles_i32, low_bytes_i32, low_nibbles_i32, to_f32
from .layout import Layout
from .table import FORMATS
from .tiles import ROWS

_INLINE = {"forceinline": True, "error_model": "numpy"}


def integers_at(fmt, tile, columns):
    """Return the address of the integers of a tile that is `columns` wide. fmt: a constant."""
    raise NotImplementedError("only inside of kernels")


def load_scale(fmt, tile, columns, group):
    """Return the f32x16 that the integers of a group are multiplied with. fmt: a constant."""
    raise NotImplementedError("only inside of kernels")


def load_minimum(fmt, tile, columns, group):
    """Return the f32x16 that is subtracted from the values of a group. fmt: a constant."""
    raise NotImplementedError("only inside of kernels")


def _layout(fmt: Any) -> Layout | None:
    return FORMATS[fmt.literal_value].layout if isinstance(fmt, types.StringLiteral) else None


@overload(integers_at, prefer_literal=True, jit_options=_INLINE)
def _integers_at(fmt, tile, columns):
    if (layout := _layout(fmt)) is None:
        return None
    size, step = layout.size, ROWS * layout.scale_bytes
    return lambda fmt, tile, columns: tile + (columns // size * step + LINE - 1) // LINE * LINE


@overload(load_scale, prefer_literal=True, jit_options=_INLINE)
def _load_scale(fmt, tile, columns, group):
    if (layout := _layout(fmt)) is None:
        return None
    load_d, step, up = (load_e8m0 if layout.exponent else load_f16), ROWS * layout.d_bytes, _log2(layout.groups)
    if layout.scales is None:
        return lambda fmt, tile, columns, group: load_d(tile + group * step)
    size, before, width = layout.size, ROWS * (layout.d_bytes + 2 * layout.has_min), ROWS * layout.group_bytes
    load_s = load_i8_f32 if not layout.has_min else _load_low_byte if layout.group_bytes == 2 else _load_low_nibble

    def scale(fmt, tile, columns, group):
        s = load_s(tile + columns // size * before + group * width)
        return load_d(tile + (group >> up) * step) * s

    return scale


@overload(load_minimum, prefer_literal=True, jit_options=_INLINE)
def _load_minimum(fmt, tile, columns, group):
    if (layout := _layout(fmt)) is None:
        return None
    size, up, d_step = layout.size, _log2(layout.groups), ROWS * layout.d_bytes
    m_step = ROWS * 2
    if layout.scales is None:
        return lambda fmt, tile, columns, group: load_f16(tile + columns // size * d_step + group * m_step) * -1.0
    width = ROWS * layout.group_bytes
    load_t = _load_high_byte if layout.group_bytes == 2 else _load_high_nibble

    def minimum(fmt, tile, columns, group):
        minima = tile + columns // size * d_step
        t = load_t(minima + columns // size * m_step + group * width)
        return load_f16(minima + (group >> up) * m_step) * t

    return minimum


@inline
def _load_low_nibble(address):
    return to_f32(low_nibbles_i32(load_u8_i32(address)))


@inline
def _load_high_nibble(address):
    return to_f32(high_nibbles_i32(load_u8_i32(address)))


@inline
def _load_low_byte(address):
    return to_f32(low_bytes_i32(load_u16_i32(address)))


@inline
def _load_high_byte(address):
    return to_f32(high_bytes_i32(load_u16_i32(address)))


def _log2(n: int) -> int:
    return n.bit_length() - 1
