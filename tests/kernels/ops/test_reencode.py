"""Pages encoded anew hold what the tokens would have been stored as, had they been read from the first page."""

from __future__ import annotations

import numpy as np
import pytest
import rig

from pyllm.kernels import pages
from pyllm.kernels.formats.table import CACHE_TYPES, FORMATS
from pyllm.kernels.ops.reencode import reencode, scratch_bytes
from pyllm.kernels.shapes import PAGE

HEADS, N, M = 2, 64, 96


@pytest.mark.parametrize("new", CACHE_TYPES)
@pytest.mark.parametrize("old", ["f32", "f16", "bf16", "same"])
def test_pages_encoded_anew(old: str, new: str) -> None:
    old, random = new if old == "same" else old, np.random.default_rng(5)
    before, after = FORMATS[old], FORMATS[new]
    slots, at = np.arange(3 * PAGE), {}
    for side, n in (("k", N), ("v", M)):
        x = [random.normal(size=(3 * PAGE, n)).astype(np.float32) for _ in range(HEADS)]
        x[0][70, 3] = np.nan
        at[side] = np.stack([rig.stored(each, before, slots, 3)[side == "v"] for each in x])
    to = {
        "k": rig.zeros(HEADS, 4, pages.k_page_bytes(after, N), dtype=np.uint8),
        "v": rig.zeros(HEADS, 4, pages.v_page_bytes(after, M), dtype=np.uint8),
    }
    moves = np.array([[1, 3], [2, 0]], np.int64)
    scratch = scratch_bytes(N, M)
    rig.run(
        reencode(old, old, new, new), len(moves) * HEADS,
        k_pool=at["k"], v_pool=at["v"], k_head=at["k"].strides[0], v_head=at["v"].strides[0],
        k_page=at["k"].strides[1], v_page=at["v"].strides[1], k_pool_to=to["k"], v_pool_to=to["v"],
        k_head_to=to["k"].strides[0], v_head_to=to["v"].strides[0], k_page_to=to["k"].strides[1],
        v_page_to=to["v"].strides[1], moves=moves, kv_heads=HEADS, k_columns=N, v_columns=M,
        scratch=rig.zeros(scratch, dtype=np.uint8), scratch_bytes=scratch,
    )  # fmt: skip
    for side, n, canonical in (("k", N, pages.canonical_k), ("v", M, pages.canonical_v)):
        for head in range(HEADS):
            for source, target in moves:
                given = canonical(at[side][head, source], before, n)
                found = canonical(to[side][head, target], after, n)
                if old == new:
                    np.testing.assert_array_equal(found, given)
                    continue
                expected = rig.stored(before.decode(given), after, np.arange(PAGE), 1)[side == "v"]
                np.testing.assert_array_equal(found, canonical(expected[0], after, n), err_msg=f"{side} {head}")
            untouched = to[side][head, 1]
            assert not untouched.any()
