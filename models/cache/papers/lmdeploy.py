"""LMDeploy's quant_policy 4 and 8 (docs/en/quantization/kv_quant.md of InternLM/lmdeploy, no paper).

K and V alike: a scale and a zero point for each token and head, and no tokens in 16 bits. pyllm's policies keep at
least one full page as it was.
"""

from __future__ import annotations

from ..rounding import SCALES, F32Array, by_range

BITS, SINK, TAIL = (4, 8), 0, 0


def bits(side: str, heads: int, head_dim: int, n: int = BITS[0]) -> float:
    """Return the bits of a value: its integer, and its share of a scale and a zero point for each head."""
    return n + SCALES / head_dim


def policy(k: F32Array, v: F32Array, layer: int, position: int, n: int = BITS[0]) -> tuple[F32Array, F32Array]:
    """Return K and V of a page as they would be read back."""
    return by_range(k, 2, n), by_range(v, 2, n)
