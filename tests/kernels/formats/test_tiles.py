"""Into tiles and back: the canonical bytes, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import rig
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.kernels.formats import tiles
from pyllm.kernels.formats.table import FORMATS, Format
from pyllm.kernels.lang.dot import STORED_BIAS

FORMAT = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS.keys())


def random_blocks(fmt: Format, rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, fmt.row_bytes(columns)), dtype=np.uint8)


@FORMAT
@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 50), blocks=st.integers(1, 9), seed=st.integers(0, 99))
def test_any_bytes_come_back(fmt: Format, rows: int, blocks: int, seed: int) -> None:
    n = max(32, fmt.size) * blocks
    raw = random_blocks(fmt, rows, n, seed)
    packed = rig.packed(raw, fmt, n)
    assert packed.shape == (-(-rows // 16), tiles.tile_bytes(fmt, n))
    np.testing.assert_array_equal(tiles.unpack(packed, fmt, rows, n), raw)


@FORMAT
def test_tiles_cost_no_more_than_blocks(fmt: Format) -> None:
    """But for the scales of super-blocks, which are bytes where the file has fewer bits."""
    assert fmt.size > 32 or tiles.tile_bytes(fmt, 128) == 16 * fmt.row_bytes(128)
    assert tiles.tile_bytes(fmt, 2048) <= 1.04 * 16 * fmt.row_bytes(2048)
    assert tiles.scale_bytes(fmt, 3 * max(32, fmt.size)) % 64 == 0


@FORMAT
def test_lines_hold_columns(fmt: Format) -> None:
    """A line of a tile's numbers is a column (of floats) or some bits of 4 columns and of others, of 16 rows."""
    n = max(64, fmt.size)
    raw = random_blocks(fmt, 16, n, 0)
    tile = rig.packed(raw, fmt, n)[0][tiles.scale_bytes(fmt, n) :]
    if fmt.layout is None:
        words = raw.reshape(16, n, fmt.nbytes)[:, 1]
        np.testing.assert_array_equal(tile[16 * fmt.nbytes :][: 16 * fmt.nbytes].reshape(16, -1), words)
        return
    integers = fmt.layout.split(raw).q.reshape(16, n) ^ np.uint8(STORED_BIAS if fmt.bits == 8 else 0)
    lines = tile.reshape(-1, 16, 4)[fmt.bits : 2 * fmt.bits]  # of the second block of 32
    first = tiles.planes(fmt.bits)[0]
    mask = np.uint8((1 << first) - 1)
    np.testing.assert_array_equal(lines[1] & mask, integers[:, 36:40] & mask)
    if first < 8:
        last = integers[:, 64 - 4 * first :][:, :4] & mask
        np.testing.assert_array_equal(lines[0] >> np.uint8(8 - first), last)
    if first != fmt.bits:
        np.testing.assert_array_equal(lines[first] & 1, integers[:, 32:36] >> np.uint8(first) & 1)
