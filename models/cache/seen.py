"""What a policy sees that chooses which tokens of a layer stay; it can change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]
I64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Seen:
    """The tokens of the body of a layer's cache, in no order, and then those of the page that leaves the tail.

    Each KV head has tokens of its own, as many as the other heads.
    """

    layer: int
    now: int  # the position of the next token
    positions: I64Array  # (KV heads, tokens)
    mass: F32Array  # (KV heads, tokens): the sum of a token's weights in softmax, over query heads and rows
    read: Callable[[], tuple[F32Array, F32Array]]

    def keys(self) -> F32Array:
        """Return K as it is stored, decoded: (KV heads, tokens, head_dim); rotated if the cache is."""
        return self.read()[0]

    def values(self) -> F32Array:
        """Return V likewise."""
        return self.read()[1]
