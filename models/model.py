"""A model ready to run: an architecture's weights, its KV cache and its recorded plans behind one verb, `step`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..kernels.cache import PAGE
from ..kernels.jit import Kernel
from ..kernels.plan import Cost, Plan, Team, compile_kernels
from ..kernels.warm import compile_functions
from .config import Config
from .gguf import GGUF
from .kv_cache import KVCache
from .llama import Llama
from .recorder import Buffers, Recorder
from .step import Span, Step
from .weights import Weights

ARCHITECTURES = {"llama": Llama}

Progress = Callable[[str, int, int, str], None]
"""Called with a stage, how much of it is done, how much there is, and what comes next."""


COMPILING = "compiling kernels, once"
"""The stage in which kernels are compiled, or loaded where they were kept."""


class Model:
    """Owns the memory and the threads. Not for several Python threads at once."""

    def __init__(
        self,
        g: GGUF,
        config: Config,
        *,
        n_ctx: int,
        types: Sequence[tuple[str, str]],
        threads: int,
        n_batch: int = 512,
        max_outs: int = 8,
        progress: Progress = lambda stage, done, total, next: None,
    ) -> None:
        """n_ctx: positions, of all sequences together, for which the cache has room. types: (K, V) of each layer.

        max_outs: logits of so many rows can be asked for in a step.
        """
        self.config, self.n_batch, self.max_outs = config, n_batch, max_outs
        self.team = Team(threads)
        weights = Weights(g)
        self.net = ARCHITECTURES[config.architecture](weights, config)
        self.kv = KVCache(config, -(-n_ctx // PAGE), types)
        self._step = Step(n_batch, threads)
        self._buffers = Buffers(config, n_batch, max_outs, threads)
        turns = self.net.turns(self.kv.tokens)
        self.decode_plan = self._record(turns, many=False)
        self.batch_plan = self._record(turns, many=True)
        self._compile(weights.kernels + self.decode_plan.kernels + self.batch_plan.kernels, progress)
        weights.pack(self.team, lambda done, total: progress("reading weights", done, total, ""))

    def _compile(self, kernels: Sequence[Kernel], progress: Progress) -> None:
        each = list(dict.fromkeys(kernels))
        total = len(each) + 1
        progress(COMPILING, 0, total, "start and sampling")
        compile_functions()
        compile_kernels(each, lambda done, _, name: progress(COMPILING, done + 1, total, name))

    def _record(self, turns: npt.NDArray[np.float32], *, many: bool) -> Plan:
        recorder = Recorder(self.config, self.kv, self._step, self._buffers, many=many)
        self.net.forward(recorder, turns)
        return recorder.plan

    def step(self, spans: Sequence[Span], outs: Sequence[int]) -> npt.NDArray[np.float32]:
        """Take in the tokens of the spans, n_batch at most in all; logits of the rows `outs`, (len(outs), n_vocab).

        Rows count through the spans in order. The result is valid until the next call.
        """
        rows = sum(len(s.tokens) for s in spans)
        assert 0 < rows <= self.n_batch and len(outs) <= self.max_outs
        self._step.fill(spans, outs, self.config.n_head // self.config.n_head_kv)
        tokens = self._step.tokens[:rows]
        assert tokens.min() >= 0 and tokens.max() < self.config.n_vocab
        self.team.run(self.decode_plan if rows == 1 else self.batch_plan)
        logits: npt.NDArray[np.float32] = self._buffers.logits.x[: len(outs), : self.config.n_vocab]
        return logits

    def cost(self, rows: int, context: int) -> Cost:
        """Of a step of `rows` tokens after which a sequence has `context` tokens."""
        return (self.decode_plan if rows == 1 else self.batch_plan).cost(rows, context)

    def close(self) -> None:
        """End the threads."""
        self.team.close()
