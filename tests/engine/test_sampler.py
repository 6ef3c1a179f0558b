"""The sampler's flags: what they do together, which values they refuse, and that a seed repeats a text."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.engine.sampler import Sampler, SamplingParams
from pyllm.models.errors import NumberError, UsageError

LOGITS = np.array([1.0, 4.0, -2.0, 3.5, 0.0, 3.9, -1.0, 2.0], np.float32)


def sampler(seed: int = 0, n_vocab: int = len(LOGITS), **params: Any) -> Sampler:
    return Sampler(SamplingParams(seed=seed, **params), n_vocab)


def test_the_defaults_are_llama_cpps() -> None:
    p = SamplingParams()
    assert (p.temperature, p.top_k, p.top_p, p.min_p) == (0.8, 40, 0.95, 0.05)
    assert (p.repeat_penalty, p.repeat_last_n) == (1.0, 64)


@pytest.mark.parametrize("temp", [0.0, -1.0])
def test_no_temperature_is_greedy(temp: float) -> None:
    assert [sampler(temperature=temp)(LOGITS) for _ in range(5)] == [1] * 5
    assert sampler(temperature=temp)(np.zeros(8, np.float32)) == 0


def test_one_candidate_is_certain() -> None:
    for params in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-9}):
        assert {sampler(seed, **params)(LOGITS) for seed in range(20)} == {1}, params


def test_filters_come_before_the_temperature() -> None:
    ids, p = sampler(top_k=3, top_p=1.0, min_p=0.0, temperature=1e9).candidates(LOGITS)
    assert ids.tolist() == [1, 3, 5]
    np.testing.assert_allclose(p, 1 / 3, rtol=1e-6)
    # top-p sums the probabilities of what top-k left: of 0.40 0.36 0.24 the first two make 0.76
    assert sampler(top_k=3, top_p=0.7, min_p=0.0).candidates(LOGITS)[0].tolist() == [1, 5]


def test_a_penalty_holds_recent_tokens_back() -> None:
    s = sampler(temperature=0.0, repeat_penalty=2.0, repeat_last_n=2)
    before = LOGITS.copy()
    chosen = []
    for _ in range(4):
        chosen.append(s(LOGITS))
        s.accept(chosen[-1])
    assert chosen == [1, 5, 3, 1]  # 4.0, 3.9, 3.5, and by then the first is no longer recent
    np.testing.assert_array_equal(LOGITS, before)
    negative = np.array([-1.0, -1.5], np.float32)
    s = sampler(n_vocab=2, temperature=0.0, repeat_penalty=2.0)
    s.accept(0)
    s.accept(0)  # counts once
    assert s(negative) == 1
    assert s(negative * np.array([1, 1.5], np.float32)) == 0


def test_a_penalty_of_all_tokens_or_none() -> None:
    for last_n, expected in ((-1, 3), (0, 1)):
        s = sampler(temperature=0.0, repeat_penalty=3.0, repeat_last_n=last_n)
        for token in [1, 5, *[2] * 100]:
            s.accept(token)
        assert s(LOGITS) == expected


@pytest.mark.parametrize("penalty", [1.0, 2.0])
def test_end_tokens_are_never_chosen(penalty: float) -> None:
    before = LOGITS.copy()
    for ignored, expected in ((True, {3}), (False, {1})):
        for params in ({"temperature": 0.0}, {"top_k": 1}):
            s = Sampler(SamplingParams(ignore_eos=ignored, repeat_penalty=penalty, **params), 8, ends={5, 1})
            s.accept(4)
            assert {s(LOGITS) for _ in range(5)} == expected
    everything = SamplingParams(ignore_eos=True, top_k=0, top_p=1.0, min_p=0.0, temperature=1e9)
    ids, p = Sampler(everything, 8, ends={5, 1}).candidates(LOGITS)
    assert {1, 5}.isdisjoint(ids[p > 0]) and np.count_nonzero(p) == 6
    np.testing.assert_array_equal(LOGITS, before)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    params=st.fixed_dictionaries({"temperature": st.floats(0.1, 3), "top_k": st.integers(0, 9)}),
)
def test_the_same_seed_gives_the_same_tokens(seed: int, params: dict[str, Any]) -> None:
    a, b = sampler(seed, **params), sampler(seed, **params)
    assert [a(LOGITS) for _ in range(20)] == [b(LOGITS) for _ in range(20)]


def test_a_random_seed_can_be_used_again() -> None:
    a, b = sampler(-1), sampler(-1)
    assert a.seed != b.seed
    assert [a(LOGITS) for _ in range(20)] == [c(LOGITS) for c in [sampler(a.seed)] for _ in range(20)]
    with pytest.raises(UsageError, match="--seed: is -2"):
        sampler(-2)


def test_draws_follow_the_probabilities() -> None:
    s, n_draws = sampler(7, top_k=5, temperature=1.3), 20_000
    ids, p = s.candidates(LOGITS)
    drawn = np.bincount([s(LOGITS) for _ in range(n_draws)], minlength=len(LOGITS))
    assert drawn.sum() == drawn[ids].sum()
    assert np.all(np.abs(drawn[ids] - n_draws * p) <= 4 * np.sqrt(n_draws * p))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperature": math.nan}, "--temp: is nan, must be a finite number"),
        ({"temperature": math.inf}, "--temp: is inf"),
        ({"top_k": -1}, "--top-k: is -1, must be 0 (all) or more"),
        ({"top_p": 1.1}, "--top-p: is 1.1, must be from 0 to 1"),
        ({"top_p": math.nan}, "--top-p: is nan"),
        ({"min_p": -0.1}, "--min-p: is -0.1"),
        ({"repeat_penalty": 0.0}, "--repeat-penalty: is 0.0"),
        ({"repeat_penalty": math.inf}, "--repeat-penalty: is inf"),
        ({"repeat_last_n": -2}, "--repeat-last-n: is -2"),
    ],
)
def test_values_without_a_meaning_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        SamplingParams(**params)
    assert message in str(error.value)


@pytest.mark.parametrize("temp", [0.0, 0.8])
@pytest.mark.parametrize("broken", [[math.nan], [math.inf], [-math.inf] * 8, [0, math.nan, 1], [math.inf, math.nan]])
def test_broken_logits_are_an_error(temp: float, broken: list[float]) -> None:
    logits = LOGITS.copy()
    logits[: len(broken)] = broken
    with pytest.raises(NumberError, match="logits that are not numbers"):
        sampler(temperature=temp)(logits)


def test_tokens_can_be_ruled_out() -> None:
    logits = np.full(100, -np.inf, np.float32)
    logits[[3, 60]] = 1, 2
    for params in ({}, {"top_k": 0, "min_p": 0.0, "top_p": 1.0}):
        s = sampler(n_vocab=100, **params)
        assert {s(logits) for _ in range(100)} == {3, 60}


def test_sampling_costs_little() -> None:
    logits = (np.random.default_rng(0).standard_normal(262_144) * 3).astype(np.float32)
    s = sampler(n_vocab=len(logits), repeat_penalty=1.1)
    s(logits)
    times = []
    for token in range(8):
        s.accept(token)
        start = time.perf_counter()
        s(logits)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.008  # some 0.8 ms on a busy machine
