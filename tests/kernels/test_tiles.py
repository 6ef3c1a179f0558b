"""Into tiles and back: the canonical bytes, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import rig
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.kernels import tiles
from pyllm.kernels.dot import STORED_BIAS
from pyllm.kernels.formats import FORMATS, Format

FORMAT = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS.keys())


def random_blocks(fmt: Format, rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, fmt.row_bytes(columns)), dtype=np.uint8)


@FORMAT
@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 50), blocks=st.integers(1, 9), seed=st.integers(0, 99))
def test_any_bytes_come_back(fmt: Format, rows: int, blocks: int, seed: int) -> None:
    raw = random_blocks(fmt, rows, 32 * blocks, seed)
    packed = rig.packed(raw, fmt, 32 * blocks)
    assert packed.shape == (-(-rows // 16), tiles.tile_bytes(fmt, 32 * blocks))
    np.testing.assert_array_equal(tiles.unpack(packed, fmt, rows, 32 * blocks), raw)


@FORMAT
def test_tiles_cost_no_more_than_blocks(fmt: Format) -> None:
    assert tiles.tile_bytes(fmt, 64) == 16 * fmt.row_bytes(64)
    assert tiles.scale_bytes(fmt, 32 * 3) % 64 == 0


@FORMAT
def test_lines_hold_columns(fmt: Format) -> None:
    """Line j of a tile's numbers is 4 columns (8 for nibbles) of 16 rows; of floats, one."""
    raw = random_blocks(fmt, 16, 64, 0)
    tile = rig.packed(raw, fmt, 64)[0][tiles.scale_bytes(fmt, 64) :]
    if fmt.bits:
        words = raw.reshape(16, 2, fmt.nbytes)[:, 1, -4 * fmt.bits :].reshape(16, -1, 4)[:, 1]
        line = tile[64 * (fmt.bits + 1) :][:64].reshape(16, 4)
        words = words ^ np.uint8(STORED_BIAS if fmt.bits == 8 else 0)
    else:
        words = raw.reshape(16, 64, fmt.nbytes)[:, 1]
        line = tile[16 * fmt.nbytes :][: 16 * fmt.nbytes].reshape(16, -1)
    np.testing.assert_array_equal(line, words)
