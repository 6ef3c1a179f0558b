"""The control for any choice of tokens: by chance, each token of a KV head as likely to stay as any other."""

from __future__ import annotations

import numpy as np

from ..seen import F32Array, Seen

KEEP, SINK, TAIL, ROWS = 960, 0, 64, ""


def score(seen: Seen) -> F32Array:
    """Return what each token is worth: drawn anew for each choice, the same whenever that is made."""
    drawn: F32Array = np.random.default_rng([seen.layer, seen.now]).random(seen.mass.shape, np.float32)
    return drawn
