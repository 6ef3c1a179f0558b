"""Memory for kernels: pieces are zeroed, begin at cache lines, and do not overlap."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.kernels.lang import buffers
from pyllm.kernels.lang.buffers import HUGE, LINE, Arena, address, aligned


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 3 * HUGE), max_size=12))
def test_pieces_of_an_arena(sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "_ARENA", HUGE)
        arena = Arena()
        pieces = [arena.take(n) for n in sizes]
    for i, piece in enumerate(pieces):
        assert len(piece) == sizes[i] and address(piece) % LINE == 0 and not piece[:LINE].any()
        piece[:] = i + 1
    assert all((piece == i + 1).all() for i, piece in enumerate(pieces))


@pytest.mark.parametrize("n", [0, 1, LINE, HUGE - 1, HUGE, HUGE + 5])
def test_aligned(n: int) -> None:
    piece = aligned(n)
    assert len(piece) == n and address(piece) % LINE == 0 and not piece.any()
    piece[:] = 1
