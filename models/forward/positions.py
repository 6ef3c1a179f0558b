"""Tables over all positions of rope's cosines and sines and of the queries' scales; knows no layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..config import Config, Rope

if TYPE_CHECKING:
    from .weights import Weights

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]


class RopeFactors:
    """The divisors of each pair's speed, if a file has them. Attributes carry GGUF's names."""

    def __init__(self, w: Weights, c: Config) -> None:
        pairs = max((layer.rope.dim for layer in c.layers if layer.rope), default=0) // 2
        self.rope_freqs = w.positive("rope_freqs.weight", pairs) if w.has("rope_freqs.weight") else None
        self.rope_factors_long: F32Array | None = None
        self.rope_factors_short: F32Array | None = None
        if w.has_all("rope_factors_long.weight", "rope_factors_short.weight"):
            self.rope_factors_long = w.positive("rope_factors_long.weight", pairs)
            self.rope_factors_short = w.positive("rope_factors_short.weight", pairs)

    def of(self, rope: Rope, n_ctx: int) -> F32Array | None:
        """Return the factors for a context of n_ctx positions: (rope.dim / 2,); None if the file has none."""
        if self.rope_freqs is not None:
            return self.rope_freqs
        return self.rope_factors_long if n_ctx > rope.n_ctx_orig else self.rope_factors_short


class Positions:
    """The tables of a model over `n_ctx` positions."""

    def __init__(self, c: Config, factors: RopeFactors, n_ctx: int) -> None:
        ropes = {layer.rope for layer in c.layers if layer.rope}
        self.turns = {rope: turns(rope, factors.of(rope, n_ctx), n_ctx) for rope in ropes}
        at = np.arange(n_ctx)
        warmth = 1 + c.temperature_scale * np.log1p(at // c.temperature_length)
        scales = {layer.scale for layer in c.layers}
        self.scales: dict[float, F32Array] = {scale: (scale * warmth).astype(np.float32) for scale in scales}
        """By a layer's scale: the factor of the queries at each position, (n_ctx,)."""


def turns(rope: Rope, factors: F32Array | None, n_ctx: int) -> F32Array:
    """Return the cosine and sine of each pair's angle at each position, times magnitude: (n_ctx, rope.dim / 2, 2)."""
    angle = np.arange(n_ctx)[:, None] * speeds(rope, factors)
    out = np.empty((*angle.shape, 2), np.float32)
    np.cos(angle, out=out[..., 0])
    np.sin(angle, out=out[..., 1])
    out *= np.float32(rope.magnitude)
    return out


def speeds(rope: Rope, factors: F32Array | None) -> F64Array:
    """Return the angle in radians that each pair turns from one position to the next: (rope.dim / 2,)."""
    pair = np.arange(rope.dim // 2)
    speed: F64Array = rope.base ** (-2 * pair / rope.dim)
    if factors is not None:
        speed = speed / factors
    if rope.scaling != "yarn":
        stretched: F64Array = speed / rope.factor
        return stretched

    def pair_of(turns: float) -> float:
        """Return the pair that makes this many turns in n_ctx_orig positions, not rounded to a whole one."""
        return float(rope.dim * np.log(rope.n_ctx_orig / (turns * 2 * np.pi)) / (2 * np.log(rope.base)))

    first = max(0.0, np.floor(pair_of(rope.beta_fast)))
    last = min(rope.dim - 1.0, np.ceil(pair_of(rope.beta_slow)))
    slow = np.clip((pair - first) / max(0.001, last - first), 0, 1)
    mixed: F64Array = speed * (1 - slow) + speed / rope.factor * slow
    return mixed
