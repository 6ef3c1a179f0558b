"""A model ready to run: loaded weights, a KV cache and the plans recorded over both, behind one verb, `step`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...kernels.pages import PAGE
from ...kernels.plan import Cost, Plan, Team
from ..cache.store import KVCache
from .check import all_numbers, first_broken
from .loaded import Loaded, Progress
from .positions import Positions
from .probe import Attended, attended
from .recorder import Recorder
from .rows import Buffers
from .step import Span, Step


class Model:
    """Owns the cache and the threads; weights it may share. Not for several Python threads at once."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        n_ctx: int,
        types: Sequence[tuple[str, str]],
        threads: int,
        n_batch: int = 512,
        max_outs: int = 8,
        rotate: str = "auto",
        sequences: int = 1,
        progress: Progress = lambda stage, done, total, next: None,
    ) -> None:
        """n_ctx: positions, of all sequences together, for which the cache has room. types: (K, V) of each layer.

        max_outs: logits of so many rows can be asked for in a step. rotate: sides of the cache, see rotation.py.
        sequences: that can be there at once, each with windows of its own.
        """
        self.config, self.n_batch, self.max_outs = loaded.config, n_batch, max_outs
        self.team = Team(threads)
        self._net = loaded.net
        c = self.config
        self.kv = KVCache(c, -(-n_ctx // PAGE), types, rotate, n_batch=n_batch, sequences=sequences)
        kv_heads = min(layer.n_head_kv for layer in c.layers)
        self._step = Step(n_batch, threads, kv_heads, experts=c.expert_count, experts_used=c.expert_used_count)
        self._buffers = Buffers(self.config, n_batch, max_outs, threads)
        positions = Positions(self.config, loaded.net.rope_factors, self.kv.tokens)
        self.decode_plan = self._record(positions, many=False)
        self.batch_plan = self._record(positions, many=True)
        self.stamps: npt.NDArray[np.int64] | None = None  # takes what replays tell of themselves: see Team.run
        loaded.prepare(self.decode_plan.kernels + self.batch_plan.kernels, self.team, progress)

    def _record(self, positions: Positions, *, many: bool) -> Plan:
        recorder = Recorder(self.config, self.kv, self._step, self._buffers, positions, many=many)
        self._net.forward(recorder)
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
        self.team.run(self.plan(rows), self.stamps)
        logits: npt.NDArray[np.float32] = self._buffers.logits.x[: len(outs), : self.config.n_vocab]
        return logits

    def broken(self) -> str | None:
        """Which operation of the last step first gave NaN or infinity, as in "blk.1.ffn_down"; None where none did."""
        x, logits = self._buffers.x.x, self._buffers.logits.x
        if all_numbers(x, self._step.rows) and all_numbers(logits, self._step.outs):
            return None
        op = first_broken(self.decode_plan if self._step.rows[0] == 1 else self.batch_plan)
        return f"{op.part}.{op.name}".lstrip(".") if op else None

    def plan(self, rows: int) -> Plan:
        """The one that a step of `rows` tokens replays."""
        return self.decode_plan if rows == 1 else self.batch_plan

    def attended(self) -> Iterator[Attended]:
        """Q, K and V of each layer in the last step, which must have been of several rows and all of a sequence."""
        return attended(self.batch_plan, self._buffers, self.kv, self.config, self._step)

    def cost(self, rows: int, context: int) -> Cost:
        """Of a step of `rows` tokens after which a sequence has `context` tokens."""
        return self.plan(rows).cost(rows, context)

    def close(self) -> None:
        """End the threads."""
        self.team.close()
