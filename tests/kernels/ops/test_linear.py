"""Linear layers: each format, for a row and for many, against a float64 product of the decoded blocks."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import rig
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.kernels.formats import tiles
from pyllm.kernels.formats.layout import Numbers
from pyllm.kernels.formats.table import FORMATS, Format
from pyllm.kernels.ops import embed, linear, tile_dot
from pyllm.kernels.shapes import CHUNK, MOST_ROWS, Shape

FORMAT = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS.keys())
MANY = pytest.mark.parametrize("many", [False, True], ids=["one", "many"])


def product(
    fmt: Format, many: bool, raw: np.ndarray, x: np.ndarray, to: np.ndarray | None = None,
    bias: np.ndarray | None = None, scale: float = 1.0, shape: Shape = linear.SHAPE,
) -> np.ndarray:  # fmt: skip
    """The kernel's scale * (W x + bias), or that added to `to`."""
    (rows, n), outputs, n_tiles = x.shape, len(raw), -(-len(raw) // 16)
    room = rows + MOST_ROWS
    y = rig.zeros(room, n_tiles * 16)
    if to is not None:
        y[:rows, :outputs] = to
    numbers, meta = rig.zeros(room, n), rig.zeros(room, n // 32, 4, dtype=np.int32)
    numbers[:rows] = x
    if fmt.bits:
        numbers = rig.zeros(room, n, dtype=np.int8)
        numbers[:rows], meta[:rows] = rig.activations(x)
    rig.run(
        linear.linear(fmt.name, shape.rows if many else 1), -(-rows // shape.chunk) * n_tiles, chunk=shape.chunk,
        weights=rig.packed(raw, fmt, n), x=numbers, meta=meta, y=y, rows=np.array([rows]), tiles=n_tiles,
        tile_bytes=tiles.tile_bytes(fmt, n), columns=n, x_stride=numbers.strides[0], meta_stride=meta.strides[0],
        y_stride=y.strides[0], bias=0 if bias is None else bias, scale=scale, add=int(to is not None),
    )  # fmt: skip
    return y[:rows, :outputs]


def sample(fmt: Format, rows: int, outputs: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of random weights, and activations with an outlier."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, n), dtype=np.float32)
    x[:, rng.integers(n)] *= 20
    return fmt.encode(rng.standard_normal((outputs, n), dtype=np.float32)), x


def bias_rounding(fmt: Format, raw: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return a bound on what rounding the bias of stored integers costs, (rows, outputs); 0 where there is none.

    With a bias, a block's product is fma(d * -sum, bias, d * dot), where dot includes bias * sum: d * -sum and d * dot
    are each rounded in float32, by 2^-24 of bias * |d * sum| at most, and the weight's scale follows. Groups of 16 take
    the bias off in integers, without an error.
    """
    layout = fmt.layout
    if layout is None or layout.group == 16:
        return np.zeros((len(x), len(raw)))
    d, _, _, scales = layout.split(raw)
    scale = d[..., None] if scales is None else d[..., None] * layout.scale_meaning[scales[..., : layout.groups]]
    sums = naive.dequantized(x).reshape(len(x), -1, 32).sum(axis=-1)
    return 2 * 2.0**-24 * tile_dot.zero_of(layout) * (np.abs(sums) @ np.abs(scale.reshape(len(raw), -1)).T)


@FORMAT
@MANY
@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 20), outputs=st.integers(1, 50), blocks=st.integers(1, 7), seed=st.integers(0, 99))
def test_product(fmt: Format, many: bool, rows: int, outputs: int, blocks: int, seed: int) -> None:
    raw, x = sample(fmt, rows, outputs, max(32, fmt.size) * blocks, seed)
    w = fmt.decode(raw)
    seen = naive.dequantized(x) if fmt.bits else x
    atol = 1e-6 * (np.abs(seen) @ np.abs(w).T).max()  # rounding of float32 sums
    atol += bias_rounding(fmt, raw, x).max()
    np.testing.assert_allclose(product(fmt, many, raw, x), naive.linear(w, seen), rtol=1e-5, atol=atol)


@FORMAT
@MANY
def test_more_rows_than_a_chunk_and_adding(fmt: Format, many: bool) -> None:
    raw, x = sample(fmt, CHUNK + 9, 33, max(64, fmt.size), 0)
    to = np.random.default_rng(1).standard_normal((len(x), 33), dtype=np.float32)
    y = product(fmt, many, raw, x)
    np.testing.assert_allclose(product(fmt, many, raw, x, to), y + to, rtol=1e-6, atol=1e-6)
    for some in (1, 7, 8, 64):
        np.testing.assert_array_equal(product(fmt, many, raw, x[:some]), y[:some])


@FORMAT
@MANY
def test_bias_and_scale(fmt: Format, many: bool) -> None:
    raw, x = sample(fmt, 3, 33, max(64, fmt.size), 0)
    bias, to = rig.zeros(48), np.ones((3, 33), np.float32)
    bias[:33] = np.arange(33)
    y = product(fmt, many, raw, x)
    np.testing.assert_allclose(product(fmt, many, raw, x, bias=bias), y + bias[:33], rtol=1e-6)
    got = product(fmt, many, raw, x, to, bias=bias, scale=0.25)
    np.testing.assert_allclose(got, (y + bias[:33]) / 4 + 1, rtol=1e-6, atol=1e-6)


@FORMAT
def test_a_row_and_many_give_the_same_bits(fmt: Format) -> None:
    raw, x = sample(fmt, 11, 48, max(96, fmt.size), 2)
    np.testing.assert_array_equal(product(fmt, False, raw, x), product(fmt, True, raw, x))


@pytest.mark.parametrize("shape", [Shape(2, 2), Shape(3, 6), Shape(12, 36), Shape(16, 128)], ids=str)
def test_shapes_change_no_bit(shape: Shape) -> None:
    assert shape.valid
    for name in ("q4_1", "q6_k", "f16"):
        raw, x = sample(FORMATS[name], CHUNK + 9, 33, 256, 5)
        to = np.ones((len(x), 33), np.float32)
        expected = product(FORMATS[name], True, raw, x, to)
        np.testing.assert_array_equal(product(FORMATS[name], True, raw, x, to, shape=shape), expected)


@FORMAT
def test_what_int8_activations_cost(fmt: Format) -> None:
    rng = np.random.default_rng(3)
    raw, x = sample(fmt, 8, 256, 768, 3)
    x = rng.standard_normal(x.shape, dtype=np.float32)
    error = naive.nmse(product(fmt, True, raw, x), naive.linear(fmt.decode(raw), x))
    assert error < (1e-4 if fmt.bits else 1e-11)


@pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if f.bits], ids=lambda f: f.name)
def test_largest_integers(fmt: Format) -> None:
    """Blocks of the extreme integers, scales and minima with activations of the extreme integers: nothing overflows."""
    layout, blocks = fmt.layout, (16, 256 // fmt.size)
    assert layout is not None
    q = np.resize(np.array([0x00, 0x80, 0x7F, 0xFF], np.uint8) & (1 << fmt.bits) - 1, (*blocks, fmt.size))
    d, m, scales = np.ones(blocks, np.float32), np.full(blocks, 3, np.float32), None
    if layout.scales:
        scales = np.resize(
            np.array([0x80, 0x7F, 0xFF], np.uint8) & (1 << layout.scales.width) - 1, (*blocks, layout.scales.n)
        )
    raw = layout.join(Numbers(d, q, m if layout.has_min else None, scales))
    x = np.where(np.arange(256) % 2, 1, -1).astype(np.float32)[None] * [[127], [1], [-127]]
    x[1] = 127
    expected = naive.linear(fmt.decode(raw), x)
    np.testing.assert_allclose(
        product(fmt, True, raw, x.astype(np.float32)), expected, rtol=0 if fmt.size == 32 else 1e-6
    )


@FORMAT
def test_rows_of_an_embedding(fmt: Format) -> None:
    n = 3 * max(32, fmt.size)
    raw = np.random.default_rng(0).integers(0, 128, (9, fmt.row_bytes(n)), dtype=np.uint8)
    tokens, x = np.array([8, 0, 8, 3]), rig.zeros(4, n)
    rig.run(embed.embed(fmt.name), 4, raw=raw, row_bytes=raw.shape[1], tokens=tokens, x=x, n=n, scale=1.0)
    np.testing.assert_array_equal(x, fmt.decode(raw)[tokens])
