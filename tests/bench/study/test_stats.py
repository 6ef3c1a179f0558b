"""The statistics of a study."""

from __future__ import annotations

import pytest

from pyllm.bench.study.stats import frontier, more_bits, rank_correlation


def test_frontier() -> None:
    points = [(6.0, 0.1, "a"), (4.0, 0.2, "b"), (4.0, 0.3, "c"), (9.0, 0.15, "d"), (12.0, 0.01, "e")]
    assert [name for *_, name in frontier(points)] == ["b", "a", "e"]


def test_bits_of_which_each_quarters_the_loss() -> None:
    assert more_bits(0.164, 0.014, 0.004) == pytest.approx(0.5 * 4)  # 16 times the loss
    assert more_bits(0.05, 0.05, 0.0) == 0
    assert more_bits(0.05, 0.0041, 0.004) is None


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
