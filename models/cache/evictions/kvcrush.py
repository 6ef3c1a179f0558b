"""KVCrush (Jha et al. 2025, arXiv 2503.00022), over H2O: most of what stays drew most attention, and a quarter stands
for the rest.

Of the rest, each token has a signature, a bit for each KV head: whether it is among the head's upper half. Tokens are
told apart by how many bits differ from those that most have, and of each distance some stay, in proportion. The choice
is the same for all heads of a layer. OpenVINO's form does this by blocks of tokens; here it is by token.
"""

from __future__ import annotations

import numpy as np

from ....kernels.shapes import PAGE
from ..seen import F32Array, Seen

KEEP, SINK, TAIL, ROWS = 960, 0, 64, "all"
STANDS = 0.25  # share of the body that stands for the rest


def score(seen: Seen) -> F32Array:
    """Return what each token is worth. Heads choose alike, so they hold the same tokens in the same places."""
    mass, tokens = seen.mass, seen.mass.shape[1]
    rank = (-mass.sum(axis=0)).argsort(kind="stable")
    stay = round((tokens - PAGE) * (1 - STANDS))
    rest = rank[stay:]
    bits = mass[:, rest] > np.median(mass[:, rest], axis=1, keepdims=True)
    distance = (bits != (bits.mean(axis=1, keepdims=True) > 0.5)).sum(axis=0)
    # The place of each token among those of its distance, by the share of them that comes before it.
    share = np.empty(len(rest), np.float32)
    for d in np.unique(distance):
        group = np.flatnonzero(distance == d)
        share[group] = (np.arange(len(group)) + 0.5) / len(group)
    worth = np.empty(tokens, np.float32)
    worth[rank[:stay]] = 2 + np.arange(stay, 0, -1)
    worth[rest] = 1 - share
    return np.broadcast_to(worth, mass.shape)
