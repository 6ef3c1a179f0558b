"""Products of float32 activations: each format against float64, and the same bits however rows are taken."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import rig

from pyllm.kernels.formats import tiles
from pyllm.kernels.formats.table import FORMATS, Format
from pyllm.kernels.ops import exact, experts, tile_dot

FORMAT = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS.keys())


def product(
    fmt: Format, raw: np.ndarray, x: np.ndarray, at_once: int = tile_dot.MANY, to: np.ndarray | None = None,
    bias: np.ndarray | None = None, scale: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """The kernel's scale * (W x + bias), or that added to `to`."""
    (rows, n), outputs, n_tiles = x.shape, len(raw), -(-len(raw) // 16)
    pairs = -(-n_tiles // 2)
    numbers, y = rig.zeros(rows + tile_dot.MANY, n), rig.zeros(rows, 32 * pairs)
    numbers[:rows], numbers[rows:] = x, np.nan
    if to is not None:
        y[:, :outputs] = to
    rig.run(
        exact.linear_exact(fmt.name, at_once), -(-rows // exact.EXACT_CHUNK) * pairs, weights=rig.packed(raw, fmt, n),
        x=numbers, y=y, rows=np.array([rows]), tiles=n_tiles, tile_bytes=tiles.tile_bytes(fmt, n), columns=n,
        x_stride=numbers.strides[0], y_stride=y.strides[0], bias=0 if bias is None else bias, scale=scale,
        add=int(to is not None), scratch=rig.zeros(exact.SCRATCH, dtype=np.uint8),
    )  # fmt: skip
    return y[:, :outputs]


def sample(fmt: Format, rows: int, outputs: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    raw = fmt.encode(rng.standard_normal((outputs, n), dtype=np.float32))
    return raw, rng.standard_normal((rows, n), dtype=np.float32)


@FORMAT
def test_product(fmt: Format) -> None:
    for rows, outputs, blocks in ((1, 16, 1), (3, 33, 2), (9, 48, 3), (exact.EXACT_CHUNK + 5, 40, 2)):
        raw, x = sample(fmt, rows, outputs, max(96, fmt.size) * blocks, rows)
        w = fmt.decode(raw)
        size = np.abs(x) @ np.abs(w).T
        y = product(fmt, raw, x)
        assert (np.abs(y - naive.linear(w, x)) < 1e-6 * size).all()
        for at_once in (1, 2, 4):
            np.testing.assert_array_equal(product(fmt, raw, x, at_once), y)
        np.testing.assert_array_equal(product(fmt, raw, x[: rows // 2 + 1]), y[: rows // 2 + 1])


@FORMAT
def test_weights_are_those_of_the_file(fmt: Format) -> None:
    """Products with unit vectors, over random bytes whose halves are finite."""
    n = max(32, fmt.size)
    raw = np.random.default_rng(0).integers(0, 0x7C, (32, fmt.row_bytes(n)), dtype=np.uint8)
    w = fmt.decode(raw)
    got = product(fmt, raw, np.eye(n, dtype=np.float32)).T
    np.testing.assert_allclose(got, w, rtol=3e-7, atol=2e-7 * np.abs(w).max())


@FORMAT
def test_bias_scale_and_adding(fmt: Format) -> None:
    raw, x = sample(fmt, 3, 33, max(64, fmt.size))
    bias, to = rig.zeros(48), np.ones((3, 33), np.float32)
    bias[:33] = np.arange(33)
    y = product(fmt, raw, x)
    np.testing.assert_allclose(product(fmt, raw, x, bias=bias), y + bias[:33], rtol=1e-6)
    got = product(fmt, raw, x, to=to, bias=bias, scale=0.25)
    np.testing.assert_allclose(got, (y + bias[:33]) / 4 + 1, rtol=1e-6, atol=1e-6)


def test_infinity_becomes_nan() -> None:
    raw, x = sample(FORMATS["f32"], 2, 16, 32)
    x[1, 3] = np.inf
    y = product(FORMATS["f32"], raw, x)
    assert np.isfinite(y[0]).all() and np.isnan(y[1]).all()


@FORMAT
def test_rows_by_expert(fmt: Format) -> None:
    """Spans of several lengths, one longer than a chunk; what lies between them is not written."""
    n, outputs, lengths = max(64, fmt.size), 32, (exact.EXACT_CHUNK + 3, 1, 9)
    rows = sum(lengths)
    raw, x = sample(fmt, rows, outputs * 4, n)
    spans = np.zeros(4, experts.SPAN)
    spans["expert"][:3], spans["rows"][:3] = (3, 0, 2), lengths
    spans["first"][:3] = np.cumsum((0, *lengths))[:3]
    numbers, y, bias = rig.zeros(rows + tile_dot.MANY, n), rig.zeros(rows + 1, outputs), rig.zeros(outputs * 4)
    numbers[:rows], y[rows], bias[:] = x, 7, np.arange(outputs * 4)
    rig.run(
        exact.project_exact(fmt.name), 4 * outputs // 32, weights=rig.packed(raw, fmt, n), bias=bias, x=numbers, y=y,
        x_stride=numbers.strides[0], y_stride=y.strides[0], spans=spans, tiles=outputs // 16,
        tile_bytes=tiles.tile_bytes(fmt, n), columns=n, scratch=rig.zeros(exact.SCRATCH, dtype=np.uint8),
    )  # fmt: skip
    whole = product(fmt, raw, x, bias=bias)
    for expert, first, count in spans[:3].tolist():
        own = slice(first, first + count)
        np.testing.assert_array_equal(y[own], whole[own, expert * outputs : (expert + 1) * outputs])
    assert (y[rows] == 7).all()
