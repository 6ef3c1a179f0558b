"""A model's weights, ready for the kernels; several caches and their plans can share them. Knows no cache, no step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ...kernels.lang import bus
from ...kernels.lang.jit import Kernel
from ...kernels.plan import Team, compile_kernels
from ...kernels.warm import compile_functions
from ..config import Config
from ..file.gguf import GGUF
from ..progress import Progress
from .positions import RopeFactors
from .recorder import Recorder
from .weights import Weights

COMPILING = "compiling kernels, once"
"""The stage of a Progress in which kernels are compiled, or loaded if they were kept."""


class Net(Protocol):
    """An architecture with its tensors, as far as the forward pass knows it."""

    rope_factors: RopeFactors

    def forward(self, r: Recorder) -> None:
        """Record a step, from its tokens to the logits of the rows that were asked for."""


class Loaded:
    """An architecture with its weights. The tensors are checked here; `prepare` fills the tiles."""

    def __init__(self, g: GGUF, config: Config, architecture: Callable[[Weights, Config], Net]) -> None:
        """architecture: makes the net, and takes the tensors that it needs from the weights."""
        bus.guard()  # from here on the mapped file is read
        self.config = config
        self._weights = Weights(g)
        self.net = architecture(self._weights, config)
        self._weights.refuse_others()

    def prepare(self, kernels: Sequence[Kernel], team: Team, progress: Progress) -> None:
        """Compile these kernels and, the first time, those of the weights' tiles; then fill the tiles, once."""
        each = list(dict.fromkeys([*self._weights.kernels, *kernels]))
        total = len(each) + 1
        progress(COMPILING, 0, total, "start and sampling")
        compile_functions()
        compile_kernels(each, lambda done, _, name: progress(COMPILING, done + 1, total, name))
        if self._weights.kernels:
            self._weights.pack(team, lambda done, total: progress("reading weights", done, total, ""))
