"""The vocabulary against NumPy: one kernel says every verb once, and the tests look at what it wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyllm.kernels.formats.table import FORMATS
from pyllm.kernels.formats.words import load_words
from pyllm.kernels.lang import memory, simd
from pyllm.kernels.lang.dot import STORED_BIAS, dot_words
from pyllm.kernels.lang.jit import jit
from pyllm.kernels.lang.memory import load_f32, load_rows, splat_floats, splat_words, store_f32, store_rows
from pyllm.kernels.lang.simd import (
    absolute,
    divide,
    exp,
    first_lanes,
    fma,
    max_lanes,
    maximum,
    minimum,
    round_half_away,
    splat,
    sum_lanes,
    sum_lanes_i32,
    to_f32,
    to_i32,
    zeros_f32,
    zeros_i32,
)

Array = npt.NDArray[Any]
VECTOR = arrays(np.float32, 16, elements=st.floats(-1e6, 1e6, width=32))


def aligned_copy(x: Array) -> Array:
    """Off a cache line by one number: vectors may lie anywhere."""
    raw = np.zeros(x.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + 4
    out = raw[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    out[:] = x
    return out


# One vector -------------------------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "a + b": lambda a, b, c: a + b,
    "a - b": lambda a, b, c: a - b,
    "a * b": lambda a, b, c: a * b,
    "a * number": lambda a, b, c: a * np.float32(0.3),
    "number - a": lambda a, b, c: np.float32(2) - a,
    "divide": lambda a, b, c: a / b,
    "maximum": lambda a, b, c: np.maximum(a, b),
    "minimum": lambda a, b, c: np.minimum(a, b),
    "absolute": lambda a, b, c: np.abs(a),
    "round_half_away": lambda a, b, c: np.copysign(np.floor(np.abs(a.astype(np.float64)) + 0.5), a),
    "to_i32, to_f32": lambda a, b, c: np.trunc(a),
    "integers: a * 3 - b": lambda a, b, c: np.trunc(a) * 3 - np.trunc(b),
    "first_lanes": lambda a, b, c: np.concatenate([a[:5], b[5:]]),
    "splat": lambda a, b, c: np.full(16, a[0]),
}


@jit
def say(a, b, c, out):  # type: ignore[no-untyped-def]
    x, y, z = load_f32(a), load_f32(b), load_f32(c)
    store_f32(out, x + y)
    store_f32(out + 64, x - y)
    store_f32(out + 128, x * y)
    store_f32(out + 192, x * np.float32(0.3))
    store_f32(out + 256, np.float32(2) - x)
    store_f32(out + 320, divide(x, y))
    store_f32(out + 384, maximum(x, y))
    store_f32(out + 448, minimum(x, y))
    store_f32(out + 512, absolute(x))
    store_f32(out + 576, round_half_away(x))
    store_f32(out + 640, to_f32(to_i32(x)))
    store_f32(out + 704, to_f32(to_i32(x) * 3 - to_i32(y)))
    store_f32(out + 768, first_lanes(5, x, y))
    store_f32(out + 832, splat(memory.peek_f32(a)))
    store_f32(out + 896, fma(x, y, z))
    return sum_lanes(x), max_lanes(x), sum_lanes_i32(to_i32(x))


@settings(deadline=None, max_examples=50)
@given(a=VECTOR, b=VECTOR, c=VECTOR)
def test_arithmetic(a: Array, b: Array, c: Array) -> None:
    b[b == 0] = 1
    a, b, c = aligned_copy(a), aligned_copy(b), aligned_copy(c)
    out = aligned_copy(np.zeros((len(VERBS) + 1, 16), np.float32))
    total, top, whole = say(a.ctypes.data, b.ctypes.data, c.ctypes.data, out.ctypes.data)
    with np.errstate(over="ignore"):
        for got, (name, expected) in zip(out, VERBS.items(), strict=False):
            np.testing.assert_array_equal(got, expected(a, b, c).astype(np.float32), err_msg=name)
    exact = a.astype(np.float64) * b + c  # twice rounded where NumPy's float64 was not exact: allow a bit
    np.testing.assert_allclose(out[-1], exact.astype(np.float32), rtol=1.2e-7, atol=0)
    assert abs(total - a.sum(dtype=np.float64)) <= 1e-6 * np.abs(a).sum(dtype=np.float64)
    assert top == a.max()
    assert whole == np.trunc(a).sum(dtype=np.int64)


def test_fma_rounds_once() -> None:
    a = np.full(16, 1 + 2.0**-12, np.float32)
    c = -(a * a)  # what a rounded product would give
    out = np.zeros((len(VERBS) + 1, 16), np.float32)
    say(a.ctypes.data, a.ctypes.data, c.ctypes.data, out.ctypes.data)
    assert (out[-1] == np.float32(2.0**-24)).all()


@jit
def halves_away(x, n, out):  # type: ignore[no-untyped-def]
    for i in range(0, 4 * n, 64):
        store_f32(out + i, round_half_away(load_f32(x + i)))


def test_round_half_away_just_below_a_half() -> None:
    x = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(0)), 1.5, 2.5, 126.5, 8388609.0, 0.0, -0.0], np.float32)
    x = np.concatenate([x, -x])
    out = np.zeros_like(x)
    halves_away(x.ctypes.data, 16, out.ctypes.data)
    half = np.array([1, 0, 2, 3, 127, 8388609, 0, 0], np.float32)
    np.testing.assert_array_equal(out, np.concatenate([half, -half]))


@jit
def exps(x, n, out):  # type: ignore[no-untyped-def]
    for i in range(0, 4 * n, 64):
        store_f32(out + i, exp(load_f32(x + i)))


def exp_of(x: Array) -> Array:
    out = np.zeros_like(x)
    exps(x.ctypes.data, len(x), out.ctypes.data)
    return out


def test_exp_is_good_to_two_ulp() -> None:
    x = np.linspace(-87.29, 88, 1 << 16, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(exp_of(x) - exact) / np.spacing(exact.astype(np.float32))) <= 2


def test_exp_at_the_ends() -> None:
    x = np.zeros(16, np.float32)
    x[:6] = -np.inf, -88, -1e30, 0, -0.0, 1e-30
    assert exp_of(x).tolist() == [0, 0, 0] + [1] * 13
    x[:] = 88
    assert np.isfinite(exp_of(x)).all()
    x[:] = np.inf  # held at e^88: what it divides is 0 nearly
    assert (exp_of(x) > 1e38).all()
    x[:] = np.nan  # damage must reach the logits, where it is seen
    assert np.isnan(exp_of(x)).all()


@jit
def lanes(n, out):  # type: ignore[no-untyped-def]
    store_f32(out, first_lanes(n, splat(1.0), splat(-np.inf)))


@pytest.mark.parametrize("n", [-48, -1, 0, 1, 15, 16, 17, 1 << 20])
def test_first_lanes(n: int) -> None:
    out = np.zeros(16, np.float32)
    lanes(n, out.ctypes.data)
    np.testing.assert_array_equal(out, np.where(np.arange(16) < n, 1, -np.inf))


# Groups of vectors ------------------------------------------------------------------------------------------------


@jit
def groups(a, stride, b, out, out_stride):  # type: ignore[no-untyped-def]
    rows = load_rows(a, stride, 3)
    one = load_f32(b)
    rows = fma(rows, one, splat_floats(a, stride, 3)) + zeros_f32(3)
    rows = rows + to_f32(splat_words(b, 4, 3) * 0 + zeros_i32(3))
    store_rows(out, out_stride, exp(minimum(rows * 0.5, one)))


def test_a_group_is_its_vectors() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 20), dtype=np.float32), rng.standard_normal(16, dtype=np.float32)
    out = np.zeros((3, 24), np.float32)
    groups(a.ctypes.data, a.strides[0], b.ctypes.data, out.ctypes.data, out.strides[0])
    expected = np.exp(np.minimum((a[:, :16] * b + a[:, :1]) / 2, b))
    np.testing.assert_allclose(out[:, :16], expected, rtol=1e-6)
    assert not out[:, 16:].any()


# Half precision ---------------------------------------------------------------------------------------------------


@jit
def widen(kind, x, n, out):  # type: ignore[no-untyped-def]
    for i in range(n // 16):
        store_f32(out + 64 * i, memory.load_f16(x + 32 * i) if kind == 0 else memory.load_bf16(x + 32 * i))


@jit
def narrow(kind, x, n, out):  # type: ignore[no-untyped-def]
    for i in range(n // 16):
        if kind == 0:
            memory.store_f16(out + 32 * i, load_f32(x + 64 * i))
        else:
            memory.store_bf16(out + 32 * i, load_f32(x + 64 * i))


@jit
def one_by_one(x, n, out):  # type: ignore[no-untyped-def]
    """Halves to f32 and back."""
    for i in range(n):
        memory.poke_f16(out + 2 * i, memory.peek_f16(x + 2 * i))


def _converted(verb: Any, fmt: str, x: Array, dtype: Any) -> Array:
    out = np.zeros(len(x), dtype)
    verb(["f16", "bf16"].index(fmt), x.ctypes.data, len(x), out.ctypes.data)
    return out


@pytest.mark.parametrize("fmt", ["f16", "bf16"])
def test_every_half_widens_as_in_numpy(fmt: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    got = _converted(widen, fmt, bits, np.float32)
    expected = FORMATS[fmt].decode(bits.view(np.uint8))
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(got[number].view(np.uint32), expected[number].view(np.uint32))
    assert np.isnan(got[~number]).all()


@pytest.mark.parametrize("fmt", ["f16", "bf16"])
def test_narrowing_rounds_as_in_numpy(fmt: str) -> None:
    numbers = FORMATS[fmt].decode(np.arange(1 << 16, dtype=np.uint16).view(np.uint8))
    numbers = np.sort(numbers[np.isfinite(numbers)])
    ties = ((numbers[:-1].astype(np.float64) + numbers[1:]) / 2).astype(np.float32)
    near = [np.nextafter(ties, np.float32(s * np.inf)) for s in (1, -1)]
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    special = np.array([np.inf, -np.inf, np.nan, 65504, 65519.996, 65520, 1e-45, 3.4e38], np.float32)
    x = np.concatenate([numbers, ties, *near, bits.view(np.float32), special])
    x = np.resize(x, -(-len(x) // 16) * 16)
    got = _converted(narrow, fmt, x, np.uint16)
    expected = FORMATS[fmt].encode(x).view(np.uint16)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(got[number], expected[number])
    assert np.isnan(FORMATS[fmt].decode(got[~number].view(np.uint8))).all()


def test_single_halves_go_there_and_back() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[~np.isnan(bits.view(np.float16))]
    out = np.zeros_like(bits)
    one_by_one(bits.ctypes.data, len(bits), out.ctypes.data)
    np.testing.assert_array_equal(out, bits)


# Memory -----------------------------------------------------------------------------------------------------------


@jit
def move(x, out):  # type: ignore[no-untyped-def]
    memory.poke_i64(out, memory.peek_i64(x))
    memory.poke_i32(out + 8, memory.peek_i32(x + 8))
    memory.poke_u16(out + 12, memory.peek_u16(x + 12))
    memory.poke_u16(out + 14, memory.peek_u16(x + 14))
    memory.poke_f32(out + 16, memory.peek_f32(x + 16))
    store_f32(out + 20, memory.load_i8_f32(x))
    memory.store_low_bytes(out + 84, simd.low_nibbles_i32(memory.load_u8_i32(x)))
    memory.store_low_bytes(out + 100, simd.high_nibbles_i32(memory.load_u8_i32(x)))
    memory.store_low_bytes(out + 116, memory.load_u8_i32(x))
    return memory.peek_u16(x + 12)


def test_numbers_in_memory() -> None:
    x = np.random.default_rng(1).integers(128, 256, 20, dtype=np.uint8)
    x[16:20] = np.array([1.5], np.float32).view(np.uint8)
    out = np.zeros(132, np.uint8)
    assert move(x.ctypes.data, out.ctypes.data) == x[12:14].view(np.uint16)[0]
    np.testing.assert_array_equal(out[:20], x)
    np.testing.assert_array_equal(out[20:84].view(np.float32), x[:16].view(np.int8))
    np.testing.assert_array_equal(out[84:].reshape(3, 16), [x[:16] & 15, x[:16] >> 4, x[:16]])


# The int8 dot product ---------------------------------------------------------------------------------------------


@jit
def dots(acc, w, x, stride, out):  # type: ignore[no-untyped-def]
    """Of 32 columns by a row, of the middle eight by three rows at once."""
    start = zeros_i32(1) + to_i32(load_f32(acc))
    store_rows(out, 64, to_f32(dot_words(start, load_words("q8_0", w), 0, 8, x, stride)))
    store_rows(out + 64, 64, to_f32(dot_words(zeros_i32(3), load_words("q8_0", w), 3, 2, x, stride)))


def _dots(w: Array, x: Array) -> tuple[Array, Array]:
    """Got and expected, for full-range weights w (16, 32) int8 and activations x (3, 32) int8."""
    stored = (w.astype(np.int64) + STORED_BIAS).astype(np.uint8)
    lines = np.ascontiguousarray(stored.reshape(16, 8, 4).transpose(1, 0, 2))
    acc, out = np.arange(16, dtype=np.float32), np.zeros((4, 16), np.float32)
    dots(acc.ctypes.data, lines.ctypes.data, x.ctypes.data, x.strides[0], out.ctypes.data)
    biased, x = w.astype(np.int64) + STORED_BIAS, x.astype(np.int64)
    return out, np.stack([biased @ x[0] + acc, *(biased[:, 12:20] @ x[:, 12:20].T).T])


@settings(deadline=None, max_examples=50)
@given(w=arrays(np.int8, (16, 32)), x=arrays(np.int8, (3, 32), elements=st.integers(-127, 127)))
def test_dot_words(w: Array, x: Array) -> None:
    np.testing.assert_array_equal(*_dots(w, x))


@pytest.mark.parametrize("w", [-128, -127, 127])
@pytest.mark.parametrize("x", [-127, 127])
def test_dot_words_does_not_saturate(w: int, x: int) -> None:
    np.testing.assert_array_equal(*_dots(np.full((16, 32), w, np.int8), np.full((3, 32), x, np.int8)))
