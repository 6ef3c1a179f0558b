"""ZipCache (He et al. 2024, arXiv 2405.14256): tokens that matter in 4 bits, the others in 2, by head.

K by channel over the tokens of a tier; V, divided by the root of its channel's largest value, by token. The last 100
tokens stay in 16 bits. Which tokens matter, the paper takes from attention weights of some queries, which a function of
K and V does not see. Here it is those whose keys are short, as these draw attention (Devoto et al. 2024, arXiv
2406.11430); `random_tokens` is the control. Scales are those of a page, where the paper has them for a whole prompt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ....kernels.shapes import PAGE
from ..rounding import SCALES, F32Array, by_range

BITS, SINK, TAIL = (4,), 0, 100
LOW, MATTER = 2, round(0.4 * PAGE)  # bits of the others; tokens of a page that matter


def bits(side: str, heads: int, head_dim: int, n: int = BITS[0]) -> float:
    """Return the bits of a value: its integer, its share of scales, and half of its token's mark, which V shares."""
    integer = (MATTER * n + (PAGE - MATTER) * LOW) / PAGE
    scales = 2 * SCALES / PAGE if side == "k" else SCALES / head_dim + 16 / PAGE
    return integer + scales + 0.5 / head_dim


def policy(k: F32Array, v: F32Array, layer: int, position: int, n: int = BITS[0]) -> tuple[F32Array, F32Array]:
    """Return K and V of a page as they would be read back."""
    shortest = np.argsort(np.linalg.norm(k, axis=2), axis=0, kind="stable")[:MATTER]
    matters = np.zeros(k.shape[:2], bool)
    np.put_along_axis(matters, shortest, True, axis=0)
    return tiers(k, v, matters, n)


def tiers(k: F32Array, v: F32Array, matters: npt.NDArray[np.bool_], n: int) -> tuple[F32Array, F32Array]:
    """Return K and V with n bits where `matters` (tokens, heads) says so, and LOW bits elsewhere."""
    new_k, new_v = np.empty_like(k), np.empty_like(v)
    scale = np.maximum(np.sqrt(np.abs(v).max(0)), 1e-9)
    for head in range(k.shape[1]):
        for tier, size in ((matters[:, head], n), (~matters[:, head], LOW)):
            new_k[tier, head] = by_range(k[tier, head], 0, size)
            new_v[tier, head] = by_range(v[tier, head] / scale[head], 1, size) * scale[head]
    return new_k, new_v
