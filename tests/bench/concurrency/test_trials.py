"""What a study of concurrency measures: every trial once, the most telling first, and nothing that has no room."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.bench.concurrency.instrument import Pace
from pyllm.bench.concurrency.trials import LOADS, VISITS, Options, Trial, busiest, counts, paths, trials
from pyllm.models.cache.spec import CacheSpec

ALL = ("f16", "q8_0", "q5_1", "q4_0", "q2_1")
TYPES = st.integers(2, len(ALL)).map(lambda n: ALL[:n])
DEPTHS = st.lists(st.sampled_from([64, 512, 1024, 2048, 8192]), min_size=1, unique=True).map(sorted)


def options(types: Sequence[str] = ALL[:3], depths: Sequence[int] = (512, 2048), most: int = 8) -> Options:
    return Options(tuple(types), tuple(depths), "auto", 1 << 30, most, None, 64, 64, 0, 2)


@given(TYPES)
def test_both_paths_go_down_a_step_at_a_time(types: tuple[str, ...]) -> None:
    for path in paths(types).values():
        assert (
            path[0] == (types[0], types[0]) and path[-1] == (types[-1], types[-1]) and len(path) == 2 * len(types) - 1
        )
        for before, after in pairwise(path):
            moved = [types.index(b) - types.index(a) for a, b in zip(before, after, strict=True)]
            assert sorted(moved) == [0, 1]
    k, v = paths(types).values()
    assert [pair[0] for pair in k] == [pair[1] for pair in v] and k[1][0] == types[1]


@given(st.integers(0, 600))
def test_counts_double_up_to_the_most(most: int) -> None:
    found = counts(most)
    assert found == sorted(set(found)) and (found[-1] == most if most else not found)
    assert all(b <= 2 * a for a, b in pairwise(found)) and found[:1] == [1][: bool(most)]


@settings(deadline=None, max_examples=8)
@given(TYPES, DEPTHS, st.integers(0, 20))
def test_every_trial_once_it_can_be(types: tuple[str, ...], depths: list[int], room: int) -> None:
    asked = options(types, depths, 16)

    def of(cache: CacheSpec, depth: int) -> int:
        return min(16, room * 512 // depth)

    results: dict[str, dict[str, float]] = {}
    order = list[Trial]()
    while new := list({t.key: t for t in trials(asked, of, results) if t.key not in results}.values()):
        order += new
        results |= {t.key: {"answers_per_s": 1 + t.load} for t in new}
    assert len({t.key for t in order}) == len(order)
    for cache in asked.caches:
        assert Trial("loss", cache) in order
        for depth in depths:
            there = [t for t in order if (t.cache, t.depth) == (cache, depth)]
            n = counts(of(cache, depth))
            assert [t.kind for t in there].count("steps") == (VISITS if n else 0)
            assert sorted(t.load for t in there if t.kind == "closed") == n
            assert sorted(t.load for t in there if t.kind == "poisson") == (sorted(LOADS) if n else [])
            assert busiest(results, cache, depth, 16) == ((n[-1], 1 + n[-1]) if n else None)
    ends = {asked.cache(types[0], types[0]), asked.cache(types[-1], types[-1])}
    if of(asked.caches[0], asked.main):
        assert {t.cache for t in order[:2]} == ends and {t.depth for t in order[:2]} == {asked.main}
    closed = [t.depth for t in order if t.kind == "closed"]
    assert not closed or closed[0] == asked.main or not of(asked.caches[0], asked.main)


def test_a_pace_is_learnt() -> None:
    pace, small, large = Pace(), Trial("steps", CacheSpec(), 512), Trial("steps", CacheSpec(), 8192)
    assert pace.expected(small) == 0
    pace.took(small, 3)
    assert pace.expected(small) == 3 and pace.expected(large) > 3
    assert pace.expected(Trial("closed", CacheSpec(), 512, 4)) == 0
