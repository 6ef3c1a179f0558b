"""What a step takes in of one sequence: tokens, where they stand, and the pages that hold those before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels.lang import cpu

I64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one sequence that a step takes in, the first at `position`; they attend to all before.

    tables: the sequence's pages in the layers of each kind (see models/cache/kinds.py), int64, each long enough for
    position + len(tokens) and kept alive by the caller; pages that left a window are not read. prompt: the tokens are
    part of a prompt: on the matrix unit they take other sums than a token that was generated, even one alone.
    """

    tokens: Sequence[int]
    position: int
    tables: Sequence[I64Array]
    prompt: bool = False

    @property
    def decode(self) -> bool:
        """Return whether threads share the tokens before this one; otherwise they share blocks of rows."""
        return len(self.tokens) == 1 and not (self.prompt and cpu.AMX)
