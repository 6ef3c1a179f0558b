"""A model ready to run: loaded weights, a KV cache, the plans recorded over both, and one verb, `step`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...kernels.plan import Cost, Plan, Team
from ..cache.sizes import PREFILL_ROWS
from ..cache.spec import CacheSpec
from ..cache.store import KVCache
from ..progress import Progress, silent
from .check import first_broken
from .loaded import Loaded
from .positions import Positions
from .probe import Attended, attended
from .recorder import Recorder
from .rows import Buffers
from .step import PlanKind, Span, Step


class Model:
    """A cache, threads and plans over weights that may be shared. Not for several Python threads at once."""

    def __init__(
        self,
        loaded: Loaded,
        cache: CacheSpec,
        *,
        n_ctx: int,
        threads: int,
        n_batch: int = PREFILL_ROWS,
        max_logits: int = 8,
        sequences: int = 1,
        progress: Progress = silent,
    ) -> None:
        """n_ctx: tokens that the cache holds, of all sequences together. n_batch: tokens of a step at most.

        max_logits: rows of a step whose logits can be asked for. sequences: how many there can be at once; each has
        pages for its own windows.
        """
        self.config, self.n_batch, self.max_logits = loaded.config, n_batch, max_logits
        self.team = Team(threads)
        self._net = loaded.net
        c = self.config
        self.kv = KVCache(c, cache, n_ctx, n_batch=n_batch, sequences=sequences)
        kv_heads = min(layer.n_head_kv for layer in c.layers)
        self._step = Step(
            n_batch,
            threads,
            kv_heads,
            kinds=len(self.kv.tables),
            experts=c.expert_count,
            experts_used=c.expert_used_count,
        )
        self._buffers = Buffers(self.config, n_batch, max_logits, threads)
        positions = Positions(self.config, loaded.net.rope_factors, self.kv.tokens)
        self.plans = {kind: self._record(positions, kind) for kind in PlanKind}
        self.stamps: npt.NDArray[np.int64] | None = None  # where runs leave their time stamps: see Team.run
        loaded.prepare([kernel for plan in self.plans.values() for kernel in plan.kernels], self.team, progress)

    def _record(self, positions: Positions, kind: PlanKind) -> Plan:
        recorder = Recorder(self.config, self.kv, self._step, self._buffers, positions, kind)
        self._net.forward(recorder)
        return recorder.plan

    def step(self, spans: Sequence[Span], logits_rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """Take in the tokens of the spans, n_batch at most, and return the logits of `logits_rows`, (n, n_vocab).

        Rows are numbered through the spans in order. The result is valid until the next call.
        """
        rows = sum(len(s.tokens) for s in spans)
        assert 0 < rows <= self.n_batch and len(logits_rows) <= self.max_logits
        self._step.fill(spans, logits_rows, self.config.n_head // self.config.n_head_kv)
        tokens = self._step.tokens[:rows]
        assert tokens.min() >= 0 and tokens.max() < self.config.n_vocab
        self.team.run(self.plan(rows), self.stamps)
        logits: npt.NDArray[np.float32] = self._buffers.logits.x[: len(logits_rows), : self.config.n_vocab]
        return logits

    def broken(self) -> str | None:
        """Return the operation of the last step that first gave NaN or infinity, as in "blk.1.ffn_down", or None.

        It repeats the step and looks at what each operation writes.
        """
        op = first_broken(self.plan(int(self._step.rows[0])), self.team)
        return f"{op.part}.{op.name}".lstrip(".") if op else None

    def plan(self, rows: int) -> Plan:
        """Return the plan that a step of `rows` tokens replays."""
        return self.plans[PlanKind.of(rows)]

    def attended(self) -> Iterator[Attended]:
        """Yield Q of each layer in the last step, and K and V of its tokens as the cache holds them."""
        return attended(self.plan(int(self._step.rows[0])), self._buffers, self.kv, self.config, self._step)

    def cost(self, rows: int, context: int) -> Cost:
        """Return the cost of a step of `rows` tokens after which a sequence has `context` tokens."""
        return self.plan(rows).cost(rows, context)

    def close(self) -> None:
        """End the threads."""
        self.team.close()
