"""Products of many rows on the matrix unit: each format, against a float64 product of the decoded blocks."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import rig
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.kernels.formats import tiles
from pyllm.kernels.formats.table import FORMATS, Format
from pyllm.kernels.formats.widen import widen_row
from pyllm.kernels.lang import cpu
from pyllm.kernels.lang.jit import kernel, record
from pyllm.kernels.ops import linear

pytestmark = pytest.mark.skipif(not cpu.AMX, reason="this CPU has no matrix unit")
FORMAT = pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if f.name != "f16"], ids=lambda f: f.name)
ULP = 2.0**-8  # of a bfloat16, the last place beside the number


@kernel(record(x="ptr", n="int", out="ptr"))
def widen_rows(a, begin, end, thread):  # type: ignore[no-untyped-def]
    for item in range(begin, end):
        widen_row(a.x + item * a.n * 4, a.n, a.out, 0, item, a.n)


def activations(x: np.ndarray) -> np.ndarray:
    """x (rows, n) in tiles of 16 rows by 32 columns, bfloat16 as uint16; rows are padded to a multiple of 32."""
    room = -(-len(x) // 32) * 32
    out = rig.zeros(room // 16, x.shape[1] // 32, 16, 32, dtype=np.uint16)
    rig.run(widen_rows, len(x), x=np.ascontiguousarray(x, np.float32), n=x.shape[1], out=out)
    return out


def product(fmt: Format, raw: np.ndarray, x: np.ndarray, to: np.ndarray | None = None) -> np.ndarray:
    (rows, n), outputs, n_tiles = x.shape, len(raw), -(-len(raw) // 16)
    y = rig.zeros(-(-rows // 32) * 32, -(-outputs // 32) * 32)
    if to is not None:
        y[:rows, :outputs] = to
    rig.run(
        linear.linear_wide(fmt.name), -(-n_tiles // 2), weights=rig.packed(raw, fmt, n), x=activations(x), y=y,
        rows=np.array([rows]), tiles=n_tiles, tile_bytes=tiles.tile_bytes(fmt, n), columns=n, y_stride=y.strides[0],
        bias=0, scale=1.0, add=int(to is not None), scratch=rig.zeros(2, 32 * n, dtype=np.uint16), scratch_bytes=0,
    )  # fmt: skip
    return y[:rows, :outputs]


def rounded(x: np.ndarray) -> np.ndarray:
    bf16 = FORMATS["bf16"]
    return bf16.decode(bf16.encode(x)).reshape(x.shape)


def test_rows_of_activations() -> None:
    x = np.random.default_rng(0).standard_normal((19, 96), dtype=np.float32)
    x[3, 5], x[4, 6] = np.nan, np.inf
    tiles = activations(x).transpose(0, 2, 1, 3).reshape(32, 96)
    np.testing.assert_array_equal((tiles.astype(np.uint32) << 16).view(np.float32)[:19], rounded(x))


@FORMAT
def test_each_weight_is_where_it_belongs(fmt: Format) -> None:
    n = max(64, fmt.size)
    raw = fmt.encode(np.random.default_rng(1).standard_normal((48, n), dtype=np.float32))
    np.testing.assert_allclose(product(fmt, raw, np.eye(n)).T, fmt.decode(raw), rtol=ULP, atol=1e-30)


@FORMAT
@settings(deadline=None, max_examples=15)
@given(rows=st.integers(1, 70), outputs=st.integers(1, 70), blocks=st.integers(1, 7), seed=st.integers(0, 99))
def test_product(fmt: Format, rows: int, outputs: int, blocks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = max(32, fmt.size) * blocks
    raw, x = fmt.encode(rng.standard_normal((outputs, n), dtype=np.float32)), rng.standard_normal((rows, n))
    seen, to = rounded(x.astype(np.float32)), rng.standard_normal((rows, outputs), dtype=np.float32)
    w = fmt.decode(raw)
    y = product(fmt, raw, x)
    assert np.all(np.abs(y - naive.linear(w, seen)) <= ULP * (np.abs(seen) @ np.abs(w).T) + 1e-6)
    np.testing.assert_allclose(product(fmt, raw, x, to), y + to, rtol=1e-5, atol=1e-4)


def test_what_bfloat16_costs() -> None:
    """Less than activations in blocks of 8 bits (test_linear.py: 1e-4)."""
    rng = np.random.default_rng(3)
    fmt = FORMATS["q4_0"]
    raw, x = fmt.encode(rng.standard_normal((256, 768), dtype=np.float32)), rng.standard_normal((8, 768))
    assert naive.nmse(product(fmt, raw, x), naive.linear(fmt.decode(raw), x)) < 1e-5


def test_damage_is_not_hidden() -> None:
    """A scale that is no number, whatever its bits, makes its row of outputs so."""
    fmt = FORMATS["q8_0"]
    raw = fmt.encode(np.ones((48, 64), np.float32))
    for row, bits in enumerate((0x7C01, 0x7E00, 0x7FFF, 0xFFFF, 0x7C00)):
        raw[9 * row, :2] = np.frombuffer(np.uint16(bits).tobytes(), np.uint8)
    bad = ~np.isfinite(product(fmt, raw, np.ones((3, 64))))
    assert bad[:, 0:45:9].all() and bad.sum() == 15
