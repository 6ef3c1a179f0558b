"""How the tokens of a decode step are split between threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyllm.models.forward.step import MAX_SPLITS, split


@given(pages=st.integers(1, 1 << 20), threads=st.integers(1, 256), kv_heads=st.integers(1, 128))
def test_parts(pages: int, threads: int, kv_heads: int) -> None:
    parts = split(pages, threads, kv_heads)
    assert 1 <= parts <= min(pages, MAX_SPLITS)
    assert parts == 1 or threads > 1
    assert parts * kv_heads >= min(threads, pages * kv_heads, MAX_SPLITS * kv_heads), "there is work for each thread"


def test_parts_become_longer_and_more() -> None:
    found = [split(pages, threads=2, kv_heads=3) for pages in (1, 16, 64, 256, 1024)]
    assert found == [1, 2, 5, 9, 18]
    assert split(256, 8, 8) < split(256, 32, 8)
