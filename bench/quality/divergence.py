"""Perplexity of a run and KL divergence of two runs from their logits: llama-perplexity's statistics over arrays.

Knows no model: per-token values go in, means with their errors and percentiles come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

PERCENTILES = (0.1, 1, 5, 10, 50, 90, 95, 99, 99.9)


def log_softmax(logits: F32Array) -> F32Array:
    """Return log-probabilities over the last axis, as a new array."""
    shifted: F32Array = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def surprise(logp: F32Array, targets: Ids) -> F64Array:
    """Return -log p, in nats, of the token that follows each row."""
    return -logp[np.arange(len(targets)), targets].astype(np.float64)


@dataclass(frozen=True)
class Divergence:
    """A run compared with a reference run over the same tokens, token by token."""

    nll: F64Array  # of the token that follows
    nll_reference: F64Array
    kld: F64Array  # KL divergence of the run from the reference, in nats
    delta_p: F64Array  # probability of the following token, minus that in the reference
    same_top: npt.NDArray[np.bool_]  # whether the likeliest token is the same
    right: npt.NDArray[np.bool_]  # whether the likeliest token is the one that follows
    right_reference: npt.NDArray[np.bool_]

    @staticmethod
    def of(reference: F32Array, logp: F32Array, targets: Ids) -> Divergence:
        """Compare log-probabilities (rows, n_vocab) of both runs; targets (rows,) are the tokens that follow."""
        nll, nll_reference = surprise(logp, targets), surprise(reference, targets)
        p, q = np.exp(reference), np.exp(logp)  # q - p sums to 0, but for the rounding of both sums, which it takes off
        kld = (p * (reference - logp) + (q - p)).sum(axis=-1, dtype=np.float64)
        top, top_reference = logp.argmax(axis=-1), reference.argmax(axis=-1)
        delta_p = np.exp(-nll) - np.exp(-nll_reference)
        return Divergence(
            nll, nll_reference, kld, delta_p, top == top_reference, top == targets, top_reference == targets
        )

    @staticmethod
    def joined(parts: Sequence[Divergence]) -> Divergence:
        """Return the parts, one after the other, as one."""
        names = Divergence.__dataclass_fields__
        return Divergence(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def mean_error(x: F64Array) -> tuple[float, float]:
    """Return the mean and its standard error, as llama-perplexity computes it; the error of a single value is 0."""
    return float(x.mean()), float(x.std() / np.sqrt(max(len(x) - 1, 1)))


def perplexity(nll: F64Array) -> dict[str, float]:
    """Return the perplexity, exp of the mean, and its error to first order; nll is in nats."""
    mean, error = mean_error(nll)
    ppl = float(np.exp(mean))
    return {"ppl": ppl, "ppl_error": ppl * error, "nll": mean, "nll_error": error}


def statistics(divergence: Divergence) -> dict[str, Any]:
    """Return all that llama-perplexity reports of a divergence; shares and probabilities are from 0 to 1."""
    found: dict[str, Any] = perplexity(divergence.nll)
    reference = perplexity(divergence.nll_reference)
    found |= {"ppl_reference": reference["ppl"], "ppl_reference_error": reference["ppl_error"]}
    # Both runs see the same tokens, so their errors are correlated: take the error of the paired differences.
    found["ln_ppl_ratio"], found["ln_ppl_ratio_error"] = mean_error(divergence.nll - divergence.nll_reference)
    found["kld_mean"], found["kld_error"] = mean_error(divergence.kld)
    found["kld_max"], found["kld_min"] = float(divergence.kld.max()), float(divergence.kld.min())
    found["kld_percentiles"] = _percentiles(divergence.kld)
    found["delta_p_mean"], found["delta_p_error"] = mean_error(divergence.delta_p)
    found["delta_p_max"], found["delta_p_min"] = float(divergence.delta_p.max()), float(divergence.delta_p.min())
    found["delta_p_percentiles"] = _percentiles(divergence.delta_p)
    square, error = mean_error(divergence.delta_p**2)
    found["delta_p_rms"] = square**0.5
    found["delta_p_rms_error"] = 0.5 * error / square**0.5 if square else 0.0
    share = float(divergence.same_top.mean())
    found["same_top"] = share
    found["same_top_error"] = float(np.sqrt(share * (1 - share) / max(len(divergence.same_top) - 1, 1)))
    return found


def _percentiles(x: F64Array) -> dict[str, float]:
    return {f"{p:g}": float(value) for p, value in zip(PERCENTILES, np.percentile(x, PERCENTILES), strict=True)}
