"""Statistics of logits, compared with their formulas written out token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.bench.quality.divergence import Divergence, log_softmax, mean_error, perplexity, statistics


def rows(seed: int, n: int = 40, vocab: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (n, vocab)).astype(np.float32)


def divergence(a: int, b: int, n: int = 40) -> Divergence:
    targets = np.random.default_rng(9).integers(0, 50, n)
    return Divergence.of(log_softmax(rows(a, n)), log_softmax(rows(b, n)), targets)


def test_a_run_does_not_diverge_from_itself() -> None:
    same = statistics(divergence(1, 1))
    assert same["kld_mean"] == same["kld_max"] == same["delta_p_rms"] == same["ln_ppl_ratio"] == 0
    assert same["same_top"] == 1 and same["ppl"] == same["ppl_reference"]


def test_by_hand() -> None:
    p, q, targets = rows(1).astype(float), rows(2).astype(float), np.random.default_rng(9).integers(0, 50, 40)
    kld, nll, delta, same = [], [], [], 0
    for x, y, target in zip(p, q, targets, strict=True):
        px, py = np.exp(x) / np.exp(x).sum(), np.exp(y) / np.exp(y).sum()
        kld.append(sum(a * math.log(a / b) for a, b in zip(px, py, strict=True)))
        nll.append(-math.log(py[target]))
        delta.append(py[target] - px[target])
        same += px.argmax() == py.argmax()
    got = statistics(divergence(1, 2))
    n = len(kld)
    assert got["kld_mean"] == pytest.approx(sum(kld) / n, rel=1e-5)
    assert got["kld_error"] == pytest.approx(np.std(kld, ddof=1) / math.sqrt(n), rel=1e-4)
    assert got["kld_max"] == pytest.approx(max(kld), rel=1e-5)
    assert got["kld_percentiles"]["99"] == pytest.approx(np.percentile(kld, 99), rel=1e-5)
    assert got["ppl"] == pytest.approx(math.exp(sum(nll) / n), rel=1e-5)
    assert got["ppl_error"] == pytest.approx(got["ppl"] * np.std(nll, ddof=1) / math.sqrt(n), rel=1e-4)
    assert got["delta_p_mean"] == pytest.approx(sum(delta) / n, rel=1e-4)
    assert got["delta_p_rms"] == pytest.approx(math.sqrt(sum(d * d for d in delta) / n), rel=1e-4)
    assert got["same_top"] == same / n


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_divergence_is_never_negative(a: int, b: int) -> None:
    assert divergence(a, b, 8).kld.min() >= -1e-6


def test_pieces_joined_are_the_whole() -> None:
    whole, targets = divergence(1, 2), np.random.default_rng(9).integers(0, 50, 40)
    a, b = log_softmax(rows(1)), log_softmax(rows(2))
    parts = [Divergence.of(a[i : i + 7], b[i : i + 7], targets[i : i + 7]) for i in range(0, 40, 7)]
    assert statistics(Divergence.joined(parts)) == statistics(whole)


def test_one_token_has_no_error() -> None:
    assert mean_error(np.array([2.0])) == (2.0, 0.0)
    assert perplexity(np.array([0.0])) == {"ppl": 1.0, "ppl_error": 0.0, "nll": 0.0, "nll_error": 0.0}
    assert statistics(divergence(1, 2, 1))["same_top_error"] == 0


def test_extreme_logits_stay_finite() -> None:
    logits = np.array([[1e4, -1e4, 0.0]], np.float32)
    logp = log_softmax(logits)
    assert np.isfinite(logp).all() and logp[0, 0] == 0
