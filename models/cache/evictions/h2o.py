"""H2O (Zhang et al. 2023, arXiv 2306.14048): tokens that drew most attention so far, and as many recent ones.

The paper has both by share of the prompt and evicts a token at a time; here they are numbers, and a page is evicted at
a time.
"""

from __future__ import annotations

from ..seen import F32Array, Seen

KEEP, SINK, TAIL, ROWS = 512, 0, 512, "all"


def score(seen: Seen) -> F32Array:
    """Return what each token is worth."""
    return seen.mass
