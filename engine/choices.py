"""Chooses the next tokens of several sequences at once, on all threads, as each sequence's Sampler would alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..kernels.lang.buffers import address
from ..kernels.ops.next_tokens import choose
from ..kernels.plan import Plan, Team
from ..models.errors import NumberError
from .sampler import Sampler


class Choices:
    """The operation that chooses, and room for the addresses of what it reads."""

    def __init__(self, team: Team, most: int) -> None:
        """most: sequences at once."""
        self._team, self._plan = team, Plan()
        self._count, self._addresses = np.zeros(1, np.int64), np.zeros(most, np.int64)
        self._plan.add("choose", choose, items=1, times=self._count, choices=self._addresses)

    def __call__(self, samplers: Sequence[Sampler], logits: npt.NDArray[np.float32]) -> list[int | NumberError]:
        """Return the next token of each sampler for its row of logits, (n, n_vocab), or what is wrong with the row."""
        begin, stride = address(logits), logits.strides[0]
        for i, sampler in enumerate(samplers):
            self._addresses[i] = sampler.prepare(begin + i * stride)
        self._count[0] = len(samplers)
        self._team.run(self._plan)
        return [sampler.chosen() for sampler in samplers]
