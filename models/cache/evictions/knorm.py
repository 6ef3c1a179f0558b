"""The tokens with the shortest keys (Devoto et al. 2024, arXiv 2406.11430): these draw attention, so no weights are
needed."""

from __future__ import annotations

import numpy as np

from ..seen import F32Array, Seen

KEEP, SINK, TAIL, ROWS = 960, 0, 64, ""


def score(seen: Seen) -> F32Array:
    """Return what each token is worth."""
    found: F32Array = -np.linalg.norm(seen.keys(), axis=2)
    return found
