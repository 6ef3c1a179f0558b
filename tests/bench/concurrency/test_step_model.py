"""The model of a step: what made it comes out again, noise moves it little, and another machine's limits hold."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.bench.concurrency.sessions import Limits
from pyllm.bench.concurrency.step_model import SATURATED, Checked, Elsewhere, Machine, Point, StepModel, fit, split
from pyllm.models.errors import UsageError

GRID = [(n, depth) for depth in (512, 2048, 8192) for n in (1, 2, 4, 8, 16)]
PARTS = st.builds(StepModel, st.floats(1e-4, 1), st.floats(1e-5, 0.1), st.floats(1e-9, 1e-4))


def points(model: StepModel, noise: float = 0.0) -> list[Point]:
    return [Point(n, d, model.seconds(n, d) * (1 + noise * math.cos(7 * n + d))) for n, d in GRID]


@given(PARTS)
def test_what_a_model_gives_fits_it(model: StepModel) -> None:
    found = fit(points(model))
    for n, depth in ((1, 1), (3, 5000), (64, 100)):
        assert found.seconds(n, depth) == pytest.approx(model.seconds(n, depth), rel=1e-3)


@given(PARTS, st.floats(0, 0.1))
def test_noise_moves_it_by_no_more_than_itself(model: StepModel, noise: float) -> None:
    checked = Checked.of(points(model, noise))
    assert len(checked.seen) + len(checked.unseen) == len(GRID) and len(checked.unseen) == 5
    assert max(checked.unseen) <= 4 * noise + 1e-3


@given(
    st.lists(st.builds(Point, st.integers(1, 64), st.integers(64, 9000), st.floats(1e-4, 10)), min_size=1, max_size=30)
)
def test_no_part_is_negative_and_no_point_is_lost(found: list[Point]) -> None:
    model = fit(found)
    assert min(model.a, model.b, model.e) >= 0 and model.seconds(4, 100) > 0
    seen, out = split(found)
    assert sorted(map(id, (*seen, *out))) == sorted(map(id, found)) and seen


def test_points_are_kept_out_only_where_enough_are_left() -> None:
    one_depth = [Point(n, 512, n) for n in (1, 2, 4, 8)]
    assert split(one_depth) == (one_depth, [])
    with pytest.raises(ValueError):
        fit([])


@given(PARTS, st.integers(1, 10_000))
def test_saturation_and_latency(model: StepModel, depth: int) -> None:
    n = model.saturation(depth)
    most = 1 / (model.b + model.e * depth)
    assert n / model.seconds(n, depth) == pytest.approx(SATURATED * most, rel=1e-6)
    assert model.seconds(model.within(2.0, depth), depth) == pytest.approx(2.0)


def test_a_machine_as_the_flag_says_it() -> None:
    assert Machine.parse("16c,60G,32G") == Machine(16, 60e9, 32 << 30)
    assert str(Machine.parse("2c, 12.5G, 1T")) == "2 cores, 12.5 GB/s, 1024 GiB"
    for bad in ("", "16", "16c,60,32G", "0c,60G,32G", "16c,60G", "16c,60G,32G,1", "c,G,G", "1" * 50, "１c,1G,1G"):
        with pytest.raises(UsageError, match=r"--machine .*such as 16c,60G,32G"):
            Machine.parse(bad)


@given(PARTS, st.integers(1, 64), st.integers(1, 10_000), st.floats(1e9, 1e12))
def test_another_machine(model: StepModel, cores: int, depth: int, bandwidth: float) -> None:
    """More cores and a faster bus take no longer; the bytes take at least their time; the same machine, the same."""
    there = Elsewhere(model, 1e8, 1e4, 2, Machine(cores, bandwidth, 0))
    assert there.seconds(4, depth) >= (1e8 + 4 * depth * 1e4) / bandwidth * 0.999
    faster = Elsewhere(model, 1e8, 1e4, 2, Machine(cores + 1, 2 * bandwidth, 0))
    assert faster.seconds(4, depth) <= there.seconds(4, depth)
    same = Elsewhere(model, 0, 0, 2, Machine(2, bandwidth, 0))
    assert same.seconds(4, depth) == pytest.approx(model.seconds(4, depth))
    n = there.most(depth, None, 500)
    assert 1 <= n <= 500
    assert there.most(depth, there.seconds(3, depth) * 0.999, 500) <= 2


@given(st.integers(0, 100), st.floats(0, 200), st.floats(0, 200), st.sampled_from(["units", "bus"]))
def test_the_first_limit_binds(memory: int, latency: float, saturation: float, by: str) -> None:
    limits = Limits(memory, latency, saturation, by)
    first = {"memory": memory, "latency": latency, by: saturation}
    assert first[limits.binding] == min(first.values())
    assert limits.sequences <= memory and (limits.sequences >= 1 or not memory)
    assert limits.sequences <= max(1, min(first.values()))
