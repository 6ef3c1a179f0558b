"""Sequences filled by copies, and users who ask through the real scheduler, on a tiny model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from time import perf_counter

import numpy as np
import pytest
import tiny
from architectures import write
from given_roofs import GIVEN
from hypothesis import given
from hypothesis import strategies as st

from pyllm import LLM
from pyllm.bench.concurrency import depths
from pyllm.bench.concurrency.arrivals import Asked, Users, arrivals, closed_loop, figures, open_loop
from pyllm.bench.concurrency.depths import copied, filled, step_times
from pyllm.bench.concurrency.sessions import Memory
from pyllm.engine.machine.fit import needs
from pyllm.models.cache.spec import CacheSpec

ROWS = 4


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("model")
    path = tiny.write(folder / "tiny.gguf", n_ctx=1024)
    if request.param == "gemma3":
        path = write(folder, "gemma3", "f32")
    with LLM(path, n_ctx=ROWS * 1024, sequences=2 * ROWS, n_threads=2) as llm:
        yield llm


def test_copies_read_alike(llm: LLM) -> None:
    tokens = np.random.default_rng(0).integers(0, llm.config.n_vocab, 192).tolist()
    first = filled(llm, tokens)
    other = copied(llm, first, tokens)
    assert first.tokens == other.tokens == tokens
    assert not set(first.tables[0].pages[:3]) & set(other.tables[0].pages[:3]), "each has pages of its own"
    a, b = (llm.stepper.decode(sequence, 5).copy() for sequence in (first, other))
    np.testing.assert_array_equal(a, b)
    for sequence in (first, other):
        sequence.rewind(0)


def test_times_of_steps(llm: LLM) -> None:
    free = [pool.free for pool in llm.pools]
    found = step_times(llm, 640, [1, 3], GIVEN)
    assert [(p["sequences"], p["depth"]) for p in found] == [(1, 644), (3, 644)]
    for p in found:
        assert 0 < p["low"] <= p["seconds"] <= p["high"] <= p["p99"] * 1.5 and p["bus"] > 0 < p["unit"]
    assert found[1]["k"] == pytest.approx(3 * found[0]["k"]) and found[1]["weights"] == found[0]["weights"]
    assert [pool.free for pool in llm.pools] == free
    assert len(step_times(llm, 64, [1], None, until=0.0)) == 1, "one round in any case"


def test_a_closed_loop(llm: LLM) -> None:
    users = Users(llm, 3, 400, 16, 8, seed=0)
    try:
        assert [len(tokens) for tokens in users.conversations] == [384] * 3
        found = closed_loop(users, rounds=2, until=math.inf)
        reused = [r.timings.reused_n for r in users.scheduler.running]
    finally:
        users.close()
    assert found is not None and found["answers"] >= 6
    assert found["tokens_per_s"] == pytest.approx(found["answers_per_s"] * 8, rel=0.7)
    assert 0 < found["itl_p50"] <= found["itl_p99"] and 0 < found["ttft_p50"] <= found["ttft_p99"]
    assert all(n >= 384 for n in reused), "conversations are in the prefix cache"


def test_arrivals_at_random(llm: LLM) -> None:
    users = Users(llm, 2, 80, 16, 4, seed=0)
    try:
        found = open_loop(users, arrivals(200.0, 15, seed=1), until=math.inf)
        assert found is not None and found["answers"] == 12 and not users.under_way
        assert open_loop(users, [0.0, 3600.0], until=perf_counter() + 0.05) is None, "time ran out"
    finally:
        users.close()


def test_a_whole_prompt_where_nothing_is_held(llm: LLM) -> None:
    users = Users(llm, 1, 100, 5000, 4, seed=0)
    try:
        users.ask(0, perf_counter())
        while not users.step():
            pass
        assert users.conversations == [[]] and users.turn == 100
    finally:
        users.close()


@given(st.floats(0.1, 1000), st.integers(1, 200), st.integers(0, 9))
def test_arrivals_follow_their_seed(rate: float, count: int, seed: int) -> None:
    found = arrivals(rate, count, seed)
    assert found == arrivals(rate, count, seed) and found == sorted(found) and len(found) == count
    assert np.mean(np.diff(arrivals(rate, 4000, seed))) == pytest.approx(1 / rate, rel=0.1)


def test_figures_count_what_lies_within() -> None:
    asked = [Asked(0, 0.0, [1.0, 2.0, 3.0]), Asked(1, 2.5, [4.0, 4.5]), Asked(2, 3.0, [])]
    found = figures(asked, 1.5, 4.5, 3)
    assert found is not None and found["tokens_per_s"] == pytest.approx(4 / 3) and found["first_tokens"] == 1
    assert found["itl_p50"] == pytest.approx(0.75) and found["ttft_p50"] == 1.5
    assert figures(asked, 1.5, 4.5, 2) is None and figures([], 0, 1, 9) is None


@given(st.integers(1, 2000), st.integers(1, 64), st.sampled_from(["f16", "q4_0"]))
def test_sessions_are_the_most_that_fit(llm: LLM, depth: int, mib: int, cache_type: str) -> None:
    memory, cache = Memory(llm._opened.gguf, llm.config), CacheSpec(cache_type, cache_type)
    least = needs(llm._opened.gguf, llm.config, 64, cache).total
    room = least + (mib << 20)
    n = memory.sessions(cache, depth, room)
    assert memory.taken(cache, depth, n) <= room or n == 0
    assert memory.taken(cache, depth, n + 1) > room


def test_pages_are_whole() -> None:
    assert [depths.whole_pages(n) for n in (1, 64, 127, 512)] == [64, 64, 64, 512]
