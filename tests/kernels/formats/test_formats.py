"""The table of formats against gguf's own NumPy code, bit for bit."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyllm.kernels.formats.table import CACHE_TYPES, FORMATS, WEIGHT_TYPES, Format

FORMAT = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS.keys())

# A part of float32's range, so that the difference of two values is finite too; zeros and denormals are in it.
VALUES = st.floats(-(2.0**126), 2.0**126, width=32)
BLOCKS = st.integers(1, 4).flatmap(lambda n: arrays(np.float32, (n, 32), elements=VALUES))
GGMLS = [f for f in FORMATS.values() if f.ggml_id is not None]
AFFINE = [f for f in FORMATS.values() if f.ggml_id is None and f.layout and f.layout.has_min and f.size == 32]
SIMPLE = pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if f.size <= 32], ids=lambda f: f.name)

# What ggml's own quantize_row_iq4_nl_ref made of standard_normal((4, 32)) of seed 0.
IQ4_NL = """
    c3245867abc875da5dacc583554860974375c3a3092567d68b49e4616e41d2b4a6da11b07c2499576e3d3bb0b8db4ce56fe2654c98cf6d248995
    b242eabcc7d3bcc3852b704a2598"""
SMALL = arrays(np.float32, (2, 32), elements=st.floats(-4, 4, width=32))


def _type(fmt: Format) -> gguf.GGMLQuantizationType:
    assert fmt.ggml_id is not None
    return gguf.GGMLQuantizationType(fmt.ggml_id)


def _keeps_norm(fmt: Format) -> bool:
    return fmt.layout is not None and fmt.layout.deviation > 0


def _gguf_encodes(fmt: Format) -> bool:
    try:
        gguf.quants.quantize(np.zeros((1, fmt.size), np.float32), _type(fmt))
    except NotImplementedError:
        return False
    return True


EXACT = [f for f in GGMLS if f.size <= 32 and _gguf_encodes(f)]


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _scale_overflows(x: np.ndarray) -> np.ndarray:
    """Blocks whose scale may be so small that its inverse is infinite, which ggml then casts to an integer."""
    most = np.abs(x).max(axis=-1)
    return (most < 1e-30) & (most > 0)


@pytest.mark.parametrize("fmt", GGMLS, ids=lambda f: f.name)
def test_a_row_is_ggmls(fmt: Format) -> None:
    assert fmt.ggml_id is not None
    assert gguf.GGML_QUANT_SIZES[_type(fmt)] == (fmt.size, fmt.nbytes)
    assert _type(fmt).name.lower() == fmt.name
    assert [f for f in FORMATS.values() if f.ggml_id == fmt.ggml_id] == [fmt]


@FORMAT
def test_sizes(fmt: Format) -> None:
    assert fmt.row_bytes(768) == 768 * fmt.bits_per_value / 8
    assert (fmt.name in CACHE_TYPES) == fmt.for_cache
    assert (fmt.name in WEIGHT_TYPES) == (fmt.ggml_id is not None)


@pytest.mark.parametrize("fmt", AFFINE, ids=lambda f: f.name)
def test_ours(fmt: Format) -> None:
    """Two halves and 32 integers, no bit more; numbers at equal distances from the least to the largest."""
    assert fmt.bits_per_value == fmt.bits + 1
    x, steps = np.linspace(-1, 1, 32, dtype=np.float32)[None], 2**fmt.bits - 1
    got = fmt.decode(fmt.encode(x))
    np.testing.assert_allclose(got, np.rint((x + 1) / 2 * steps) / steps * 2 - 1, atol=1e-3)


@pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if _keeps_norm(f)], ids=lambda f: f.name)
def test_turbo(fmt: Format) -> None:
    """The values are those of Lloyd and Max for normal numbers, as bytes; the norm of a block is kept."""
    layout = fmt.layout
    assert layout is not None and fmt.bits_per_value == fmt.bits + 0.5
    x = np.random.default_rng(0).standard_normal((1 << 16, 32)).astype(np.float32)
    values = np.array(layout.values) / layout.deviation
    bins = np.digitize(x.ravel(), (values[1:] + values[:-1]) / 2)
    means = np.bincount(bins, x.ravel()) / np.bincount(bins)  # where a value is not its bin's mean, another is better
    np.testing.assert_allclose(values, means, atol=0.6 / layout.deviation + 0.01)
    np.testing.assert_allclose(values, -values[::-1], atol=0)
    norms = (np.linalg.norm(y, axis=-1) for y in (x, fmt.decode(fmt.encode(x))))
    np.testing.assert_allclose(*norms, rtol=2**-11)


def test_the_readme_names_each_type() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    cache, weights = (readme.partition(f"\n{start}")[2].partition("\n\n")[0] for start in ("Cache types ", "Runs: "))
    assert [name for name in CACHE_TYPES if f"`{name}`" not in cache] == []
    assert set(map(str.upper, WEIGHT_TYPES)) - set(re.findall(r"\w+", weights)) == set()


def test_iq4_nl_is_ggmls() -> None:
    x = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    assert FORMATS["iq4_nl"].encode(x).tobytes() == bytes.fromhex(IQ4_NL)


@pytest.mark.parametrize("fmt", EXACT, ids=lambda f: f.name)
@settings(deadline=None)
@given(x=BLOCKS | SMALL)
@example(x=np.zeros((1, 32), np.float32))
@example(x=np.full((1, 32), -0.0, np.float32))
@example(x=np.full((1, 32), 65504 * 127, np.float32))
@example(x=np.arange(-16, 16, dtype=np.float32).reshape(1, 32) / 2)  # halves, where roundings differ
@example(x=np.where(np.arange(32) % 2, 3, -3).astype(np.float32).reshape(1, 32))  # two largest, of both signs
def test_encode_is_ggmls(fmt: Format, x: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(x, _type(fmt)).view(np.uint8)
    got = fmt.encode(x)
    if fmt.layout:
        tiny = _scale_overflows(x)  # a power of two as a scale can be as small: there gguf's own overflows
        assert fmt.layout.exponent or not np.nan_to_num(fmt.decode(got)[tiny]).any()
        got, expected = got[~tiny], expected[~tiny]
    assert _same_bits(got, expected)


@pytest.mark.parametrize("fmt", GGMLS, ids=lambda f: f.name)
@settings(deadline=None)
@given(data=st.data())
def test_decode_is_ggmls_on_any_bytes(fmt: Format, data: st.DataObject) -> None:
    raw = data.draw(arrays(np.uint8, (2, 3 * fmt.nbytes)))
    with np.errstate(all="ignore"):
        assert _same_bits(fmt.decode(raw), gguf.quants.dequantize(raw, _type(fmt)))


@FORMAT
@pytest.mark.parametrize("shape", [(32,), (3, 64), (2, 3, 96)])
def test_shapes(fmt: Format, shape: tuple[int, ...]) -> None:
    shape = (*shape[:-1], shape[-1] * max(1, fmt.size // 32))
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    raw = fmt.encode(x)
    assert raw.dtype == np.uint8
    assert raw.shape == (*shape[:-1], fmt.row_bytes(shape[-1]))
    assert fmt.decode(raw).dtype == np.float32
    assert fmt.decode(raw).shape == shape
    assert _same_bits(fmt.encode(np.asfortranarray(x)), raw)


@FORMAT
def test_round_trip_error(fmt: Format) -> None:
    x = np.random.default_rng(0).standard_normal((64, 1024), dtype=np.float32)
    error = float(np.sqrt(np.mean((fmt.decode(fmt.encode(x)) - x).astype(np.float64) ** 2)))
    assert error <= fmt.max_error
    assert error >= fmt.max_error / 2, "the table's bound is too loose to catch an error"


@FORMAT
@settings(deadline=None)
@given(data=st.data())
def test_split_and_join_any_bytes(fmt: Format, data: st.DataObject) -> None:
    raw = data.draw(arrays(np.uint8, (2, 3 * fmt.nbytes)))
    if fmt.layout:
        with np.errstate(all="ignore"):
            numbers = fmt.layout.split(raw)
        known = np.isfinite(numbers.d) & (True if numbers.m is None else np.isfinite(numbers.m))
        again, blocks = fmt.layout.join(numbers).reshape(2, 3, -1), raw.reshape(2, 3, -1)
        np.testing.assert_array_equal(again[known], blocks[known])


@pytest.mark.parametrize(
    "fmt", [f for f in FORMATS.values() if f.size <= 32 and not _keeps_norm(f)], ids=lambda f: f.name
)
@settings(max_examples=20, deadline=None)
@given(x=SMALL)
def test_encoding_twice_changes_nothing_more(fmt: Format, x: np.ndarray) -> None:
    once = fmt.decode(fmt.encode(x))
    again = fmt.decode(fmt.encode(once))
    assert np.abs(again - once).max() <= np.abs(once).max() * 2e-3


@FORMAT
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible(fmt: Format, bad: float) -> None:
    x = np.ones((1, max(32, fmt.size)), np.float32)
    x[0, 5] = bad
    assert not np.isfinite(fmt.decode(fmt.encode(x))).all()


@pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if f.size == 256], ids=lambda f: f.name)
@pytest.mark.parametrize("x", [np.zeros(256), np.ones(256), -np.ones(256), np.full(256, 1e-12), np.arange(256) * 1e30])
def test_super_blocks_of_odd_values(fmt: Format, x: np.ndarray) -> None:
    x = x.astype(np.float32)
    with np.errstate(over="ignore"):
        d = np.float32(np.float16(np.abs(x).max()))
    got = fmt.decode(fmt.encode(x))
    if d in (0, np.inf):  # beyond the range of a scale
        assert np.isfinite(d) == np.isfinite(got).all()
        assert np.abs(np.nan_to_num(got[:1])).max() <= np.abs(x).max()
    else:
        np.testing.assert_allclose(got, x, rtol=0.04)
