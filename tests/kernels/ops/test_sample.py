"""The filters against a plain sort in float64, and draws against their probabilities."""

from __future__ import annotations

import math
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyllm.kernels.ops.sample import Scratch, draw, narrow

OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.0}

# Few different values make ties, -inf rules tokens out; the first token is always possible.
VALUES = st.floats(-40, 40, width=32) | st.sampled_from([0.0, 1.0, -math.inf])
LOGITS = hnp.arrays(np.float32, st.integers(0, 200), elements=VALUES).map(lambda x: np.append(np.float32(0.5), x))


def naive_sample(
    logits: npt.NDArray[np.float32], *, top_k: int, top_p: float, min_p: float, temp: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """What llama.cpp's filters leave, likeliest first: ids and their probabilities."""
    ids = np.argsort(logits.max() - logits, kind="stable")  # equal are those whose distances are, in float32
    ids = ids[: top_k or None]
    p = _softmax(logits[ids])
    if top_p < 1:
        ids = ids[: int(np.argmax(np.append(p.cumsum(), math.inf) >= top_p)) + 1]
        p = _softmax(logits[ids])
    ids = ids[p >= min_p * p[0]]
    return ids, _softmax(logits[ids] / temp)


def _softmax(x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    e = np.exp(x.astype(np.float64) - x[0])
    return e / e.sum()


def narrowed(logits: npt.NDArray[np.float32], **flags: float) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    scratch = Scratch(len(logits))
    n = narrow(logits, float(logits.max()), scratch, **(OFF | flags))  # type: ignore[arg-type]
    weight = scratch.weight[:n].astype(np.float64)
    return scratch.ids[:n].copy(), weight / weight.sum()


@settings(deadline=None)
@given(
    logits=LOGITS,
    top_k=st.integers(0, 250),
    top_p=st.just(1.0) | st.floats(0, 1),
    min_p=st.just(0.0) | st.floats(0, 1),
    temp=st.floats(0.01, 100),
)
@example(logits=np.zeros(20, np.float32), top_k=0, top_p=0.95, min_p=0.0, temp=1.0)
@example(logits=np.append(np.float32(0), np.full(50, -np.inf, np.float32)), top_k=9, top_p=1.0, min_p=0.0, temp=0.8)
def test_filters_keep_what_a_sort_keeps(
    logits: npt.NDArray[np.float32], top_k: int, top_p: float, min_p: float, temp: float
) -> None:
    ids, p = narrowed(logits, top_k=top_k, top_p=top_p, min_p=min_p, temp=temp)
    assert np.all(np.diff(ids) > 0)
    # Where a sum comes within rounding of a bound, one token more or less is as good.
    fewest, _ = naive_sample(logits, top_k=top_k, top_p=top_p - 1e-5, min_p=min(1.0, min_p * (1 + 1e-5)), temp=temp)
    most, _ = naive_sample(logits, top_k=top_k, top_p=top_p + 1e-5, min_p=min_p * (1 - 1e-5), temp=temp)
    assert len(fewest) <= len(ids) <= len(most)
    expected = most[: len(ids)]
    assert sorted(expected) == ids.tolist()
    exact = _softmax(logits[expected] / np.float64(temp))
    np.testing.assert_allclose(p[np.searchsorted(ids, expected)], exact, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 3.0, 1e30])
@pytest.mark.parametrize("flags", [{"top_k": 40}, {"top_p": 0.90003}, {"min_p": 0.5}, {"top_k": 1000, "top_p": 0.5003}])
def test_logits_of_any_size(scale: float, flags: dict[str, float]) -> None:
    logits = (np.random.default_rng(1).standard_normal(5000) * scale).astype(np.float32)
    ids, p = narrowed(logits, **flags)
    expected, exact = naive_sample(logits, **(OFF | flags))  # type: ignore[arg-type]
    assert sorted(expected) == ids.tolist()
    np.testing.assert_allclose(np.sort(p), np.sort(exact), rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("temp", [1e-300, 1e-40, 1e40, 1e300])
def test_extreme_temperatures(temp: float) -> None:
    _, p = narrowed(np.array([1, 3, 2, -np.inf], np.float32), temp=temp)
    np.testing.assert_allclose(p, [0, 1, 0, 0] if temp < 1 else [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)


def test_draws_follow_the_probabilities() -> None:
    logits = np.array([0, 1, 2, 3, 2.5, -np.inf], np.float32)
    scratch, n_draws, rng = Scratch(len(logits)), 40_000, np.random.default_rng(0)
    n = narrow(logits, 3.0, scratch, **(OFF | {"temp": 0.7}))  # type: ignore[arg-type]
    drawn = np.bincount([draw(scratch.ids, scratch.weight, n, u) for u in rng.random(n_draws)], minlength=len(logits))
    ids, p = naive_sample(logits, **(OFF | {"temp": 0.7}))  # type: ignore[arg-type]
    assert np.all(np.abs(drawn[ids] - n_draws * p) <= 4 * np.sqrt(n_draws * p))


@settings(deadline=None)
@given(weights=hnp.arrays(np.float32, st.integers(1, 50), elements=st.just(0.0) | st.floats(2**-10, 1, width=32)))
def test_the_ends_of_chance(weights: npt.NDArray[np.float32]) -> None:
    weights[0] = 1  # the likeliest of them always has this
    ids = np.arange(10, 10 + len(weights), dtype=np.int32)
    assert draw(ids, weights, len(weights), 0.0) == 10
    assert draw(ids, weights, len(weights), math.nextafter(1, 0)) == 10 + np.flatnonzero(weights)[-1]


def test_a_large_vocabulary_is_fast() -> None:
    """Bounds of a few times what a busy machine takes: they catch a sort, not a slow day."""
    rng = np.random.default_rng(0)
    shapes = {
        "usual": (rng.standard_normal(262_144) * 3, {"top_k": 40, "top_p": 0.95, "min_p": 0.05}, 0.005),
        "open": (rng.standard_normal(262_144) * 3, {"top_p": 0.95}, 0.02),
        "equal": (np.zeros(262_144), {"top_k": 40, "top_p": 0.95, "min_p": 0.05}, 0.03),
    }
    for name, (values, flags, limit) in shapes.items():
        logits, scratch = values.astype(np.float32), Scratch(len(values))
        times = []
        for _ in range(6):
            start = time.perf_counter()
            n = narrow(logits, float(logits.max()), scratch, **(OFF | flags))  # type: ignore[arg-type]
            draw(scratch.ids, scratch.weight, n, 0.5)
            times.append(time.perf_counter() - start)
        assert min(times) < limit, name
