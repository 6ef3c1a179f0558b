"""A model ready to run: loaded weights, a KV cache, the plans recorded over both, and one verb, `step`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ...kernels.plan import Cost, Plan, Team
from ...kernels.shapes import PAGE, Shape, pages
from ..cache.kinds import kinds, step_rows
from ..cache.sizes import PREFILL_ROWS, sums_places
from ..cache.spec import CacheSpec
from ..cache.store import KVCache
from ..progress import Progress, silent
from .check import first_broken
from .loaded import Loaded
from .positions import Positions
from .probe import Attended, attended
from .recorder import Recorder
from .rows import Buffers
from .span import Span
from .step import PlanKind, Step


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
        sequence_ctx: int | None = None,
        exact: bool = False,
        shapes: Mapping[str, Shape] = MappingProxyType({}),
        progress: Progress = silent,
    ) -> None:
        """n_ctx: tokens that the cache holds, of all sequences together. n_batch: tokens of a step at most.

        max_logits: rows of a step whose logits can be asked for. sequences: how many there can be at once; each has
        pages for its own windows. sequence_ctx: tokens that each can have; None: n_ctx. exact: activations stay float32
        in all products, and sums have one order, so that logits depend on no CPU, no threads and no other rows. shapes:
        of products of many rows, by the format of the weights; see Shape.
        """
        c = self.config = loaded.config
        self.team = Team(threads)
        self._net = loaded.net
        self.kv = KVCache(c, cache, n_ctx, n_batch=n_batch, sequences=sequences)
        n_batch = step_rows(self.kv.borders, n_batch)
        self.n_batch, self.max_logits = n_batch, max_logits
        longest = min(self.kv.tokens, pages(sequence_ctx or n_ctx) * PAGE)
        places = sums_places(longest, sequences, n_batch, self.kv.borders)  # a step may have prompts and decode rows
        self._step = Step(
            n_batch,
            threads,
            min(layer.n_head_kv for layer in c.layers),
            windows=[kind.window for kind in kinds(c)],
            borders=self.kv.borders,
            places=places,
            experts=c.expert_count,
            experts_used=c.expert_used_count,
            exact=exact,
        )
        self._fill_body: Callable[[Sequence[Span]], None] | None = None
        self._buffers = Buffers(self.config, n_batch, max_logits, threads, places, exact)
        self._positions = Positions(self.config, loaded.net.rope_factors, longest)
        self._shapes = shapes
        self._plans: dict[PlanKind, Plan] = {}
        self._kind = PlanKind.DECODE  # of the last step
        self.stamps: npt.NDArray[np.int64] | None = None  # where runs leave their time stamps: see Team.run
        first = [*(PlanKind.of_rows(n + 1) for n in range(sequences)), PlanKind.PREFILL]
        kernels = dict.fromkeys(kernel for kind in dict.fromkeys(first) for kernel in self.plan(kind).kernels)
        loaded.prepare(list(kernels), self.team, progress)

    def plan(self, kind: PlanKind) -> Plan:
        """Return the plan for steps of a kind, which is recorded when it is first asked for."""
        if kind not in self._plans:
            recorder = Recorder(self.config, self.kv, self._step, self._buffers, self._positions, kind, self._shapes)
            self._net.forward(recorder)
            self._plans[kind] = recorder.plan
        return self._plans[kind]

    @property
    def last(self) -> Plan:
        """Return the plan of the last step."""
        return self.plan(self._kind)

    def step(self, spans: Sequence[Span], logits_rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """Take in the tokens of the spans, n_batch at most, and return the logits of `logits_rows`, (n, n_vocab).

        Rows are numbered through the spans in order. The result is valid until the next call.
        """
        rows = sum(len(s.tokens) for s in spans)
        assert 0 < rows <= self.n_batch and len(logits_rows) <= self.max_logits
        self._step.fill(spans, logits_rows, self.config.n_head // self.config.n_head_kv)
        tokens = self._step.tokens[:rows]
        assert tokens.min() >= 0 and tokens.max() < self.config.n_vocab
        if self._fill_body is not None:
            self._fill_body(spans)
        self._kind = PlanKind.of(spans)
        self.team.run(self.last, self.stamps)
        logits: npt.NDArray[np.float32] = self._buffers.logits.x[: len(logits_rows), : self.config.n_vocab]
        return logits

    def fill_body(self, function: Callable[[Sequence[Span]], None], *, all_of_it: bool = True) -> None:
        """Let a function fill the body of a cache with segments: with the pages that leave the tail, before a step.

        all_of_it: False leaves it the pages for which the body has no room, of which it may put some tokens there.
        """
        assert self._step.segmented is not None
        self._fill_body, self._step.segmented.changed = function, all_of_it

    def broken(self) -> str | None:
        """Return the operation of the last step that first gave NaN or infinity, as in "blk.1.ffn_down", or None.

        It repeats the step and looks at what each operation writes.
        """
        op = first_broken(self.last, self.team)
        return f"{op.part}.{op.name}".lstrip(".") if op else None

    def attended(self) -> Iterator[Attended]:
        """Yield Q of each layer in the last step, and K and V of its tokens as the cache holds them."""
        return attended(self.last, self._buffers, self.kv, self.config, self._step)

    def cost(self, rows: int, context: int, kind: PlanKind | None = None) -> Cost:
        """Return the cost of a step of `rows` tokens after which each of its sequences has `context` tokens.

        kind: of a step of several sequences; None: the tokens are those of one.
        """
        return self.plan(kind or PlanKind.alone(rows)).cost(rows, context)

    def close(self) -> None:
        """End the threads."""
        self.team.close()
