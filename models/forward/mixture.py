"""Records a mixture of experts: routing, the products by expert, and their weighted sum. Knows no architecture.

A row and one of its experts are a pair. A row alone reads the matrices of its experts in place; of several rows, copies
are gathered by expert.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...kernels.formats import tiles
from ...kernels.lang.buffers import aligned
from ...kernels.ops import exact, experts, tile_dot
from ...kernels.plan import Cost, CostOf
from ...kernels.shapes import MOST_ROWS
from ..config import Config
from .rows import Rows
from .weights import Matrix, Stack

if TYPE_CHECKING:
    from .recorder import Recorder


PREFILL_TILES = 8
"""Tiles of an expert that a thread takes at once where there are several rows."""


class Experts(Protocol):
    """The tensors of a layer's mixture of experts, under GGUF's names."""

    ffn_gate_inp: Matrix
    ffn_gate_exps: Stack
    ffn_up_exps: Stack
    ffn_down_exps: Stack


class Pairs:
    """Buffers for the rows of a step and their experts, which the layers and the plans of several rows share."""

    def __init__(self, c: Config, rows: int, threads: int) -> None:
        used, pairs = c.expert_used_count, rows * c.expert_used_count
        self.chosen, self.places = np.zeros((rows, used), np.int64), np.zeros((rows, used), np.int64)
        self.shares = np.zeros((rows, used), np.float32)
        self.spans = np.zeros(c.expert_count, experts.SPAN)
        self.gathered = Rows.blocks(pairs + MOST_ROWS, c.n_embd)  # the system gives only the pages that are written
        self.gate, self.up = (Rows.plain(pairs, c.expert_feed_forward_length) for _ in range(2))
        self.gated = Rows.blocks(pairs + MOST_ROWS, c.expert_feed_forward_length)
        self.parts = Rows.plain(pairs, c.n_embd)
        self.scratch = aligned(threads * experts.SCRATCH)


class Mixture:
    """The recorder of mixtures of experts for one plan."""

    def __init__(self, r: Recorder) -> None:
        self.r, self.used, self.count = r, r.config.expert_used_count, r.config.expert_count
        self.alone = r.alone and not r.exact  # a row reads its experts' matrices in place
        rows = 1 if self.alone else r.buffers.max_rows
        self.b = r.buffers.once(("pairs", rows), lambda: Pairs(r.config, rows, r.step.threads))

    def add(self, x: Rows, h: Rows, e: Experts, activation: str) -> None:
        """Record x += the weighted sum of the outputs of each row's experts for h."""
        self._route(h, e)
        if not self.alone:
            h = self._gather(h, {self._ints(e.ffn_gate_exps), self._ints(e.ffn_up_exps)})
        self._project(h, e.ffn_gate_exps, self.b.gate, barrier=False)
        self._project(h, e.ffn_up_exps, self.b.up)
        forms = {"q": self.b.gated.q, "meta": 0 if self.r.exact else self.b.gated.meta, "half": 0}
        self.r.gate(activation, self.b.gate, self.b.up, self.b.gated, self.r.step.pairs, self.used, **forms)
        if self.alone:
            self._project_and_sum(x, e.ffn_down_exps)
        else:
            self._project(self.b.gated, e.ffn_down_exps, self.b.parts)
            self._sum_many(x)

    def _route(self, h: Rows, e: Experts) -> None:
        """Record the choice of each row's experts, by their logits."""
        (logits,) = self.r.linear(h, e.ffn_gate_inp)
        self.r.plan.add(
            "route",
            experts.route,
            items=1,
            times=self.r.step.rows,
            solo=self.alone,
            output=(self.b.shares, self.r.step.rows),
            logits=logits.x, stride=logits.x.strides[0], experts=self.count, used=self.used, chosen=self.b.chosen,
            shares=self.b.shares,
        )  # fmt: skip

    def _gather(self, h: Rows, ints: set[bool]) -> Rows:
        """Record copies of h's rows by expert, and return them: as int8 blocks (True in ints), float32, or both."""
        r, to = self.r, self.b.gathered
        r.plan.add(
            "group", experts.group, items=1, solo=True,
            chosen=self.b.chosen, rows=r.step.rows, used=self.used, experts=self.count, spans=self.b.spans,
            places=self.b.places,
        )  # fmt: skip
        for whole in sorted(ints):
            source, target, meta_bytes = (h.q, to.q, h.n // 2) if whole else (h.x, to.x, 0)
            row_bytes = source.strides[0]
            moved = (1 + self.used) * (row_bytes + meta_bytes)
            r.plan.add(
                "gather",
                experts.gather,
                items=1,
                times=r.step.rows,
                cost=partial(_moved, moved),
                output=partial(_scales, to, r.step.pairs) if whole else (to.x, r.step.pairs),
                places=self.b.places, used=self.used, x=source, meta=h.meta, x_bytes=row_bytes, meta_bytes=meta_bytes,
                to=target, to_meta=to.meta,
            )  # fmt: skip
        return to

    def _project(self, x: Rows, s: Stack, y: Rows, *, barrier: bool = True) -> None:
        """Record each pair's product with its expert's matrix; x holds the pairs by expert; in decode, the one row."""
        r, common = self.r, self._operands(x, s) | {"y": y.x, "y_stride": y.x.strides[0]}
        if r.exact:
            kernel, items, times = exact.project_exact(s.matrix.format.name), _tiles(s) // 2, r.step.expert_spans
            grain = min(items, PREFILL_TILES // 2)
            del common["meta"]
            common |= {"spans": self.b.spans, "scratch": r.buffers.exact, "x_stride": x.x.strides[0]}
        elif not self.alone:
            strides = {"x_stride": common["x"].strides[0], "meta_stride": x.n // 2}
            shape, items, times = r.shape(s.matrix.format.name), _tiles(s), r.step.expert_spans
            kernel = experts.project_many(s.matrix.format.name, shape.rows)
            grain = min(items, PREFILL_TILES)
            common |= {"spans": self.b.spans, "scratch": self.b.scratch, "chunk": shape.chunk, **strides}
        else:
            kernel, items, times = experts.project_one(s.matrix.format.name), _tiles(s) * self.used, r.step.rows
            grain = r.grain(items, self.used * _tiles(s) * s.matrix.tile_bytes)
            common |= {"chosen": self.b.chosen}
        r.plan.add(s.role, kernel, items=items, times=times, grain=grain, barrier=barrier,
                   cost=self._cost(s), output=(y.x, r.step.pairs), **common)  # fmt: skip

    def _sum_many(self, x: Rows) -> None:
        """Record x += the weighted sum of each row's products, where there are several rows."""
        self.r.plan.add(
            "sum",
            experts.sum_many,
            items=1,
            times=self.r.step.rows,
            cost=lambda rows, context: Cost(activations=rows * (self.used + 2) * x.n * 4),
            output=(x.x, self.r.step.rows),
            parts=self.b.parts.x, stride=self.b.parts.x.strides[0], places=self.b.places, shares=self.b.shares,
            used=self.used, y=x.x, n=x.n,
        )  # fmt: skip

    def _project_and_sum(self, x: Rows, s: Stack) -> None:
        """Record x += the weighted sum of the products with matrix s, in decode."""
        common = self._operands(self.b.gated, s)
        self.r.plan.add(
            s.role,
            experts.sum_one(s.matrix.format.name),
            items=_tiles(s),
            times=self.r.step.rows,
            grain=self.r.grain(_tiles(s), self.used * _tiles(s) * s.matrix.tile_bytes),
            cost=self._cost(s),
            output=(x.x, self.r.step.rows),
            y=x.x, chosen=self.b.chosen, shares=self.b.shares, used=self.used, x_stride=common["x"].strides[0],
            meta_stride=self.b.gated.n // 2, **common,
        )  # fmt: skip

    def _operands(self, x: Rows, s: Stack) -> dict[str, Any]:
        """Return the operands that all products have."""
        return {
            "weights": s.matrix.data, "bias": 0 if s.matrix.bias is None else s.matrix.bias, "tiles": _tiles(s),
            "tile_bytes": s.matrix.tile_bytes, "columns": s.columns, "x": x.q if self._ints(s) else x.x,
            "meta": x.meta,
        }  # fmt: skip

    def _ints(self, s: Stack) -> bool:
        """Return whether products with these matrices take activations as int8."""
        return s.matrix.format.bits > 0 and not self.r.exact

    def _cost(self, s: Stack) -> CostOf:
        """Return the cost of a product. Weights: those of the experts that the rows choose on average, if evenly."""
        kind = "macs_i8" if self._ints(s) else "macs_f32"

        def cost(rows: int, context: int) -> Cost:
            chosen = self.count * (1 - (1 - self.used / self.count) ** rows)
            macs = {kind: rows * self.used * s.rows * s.columns}
            activations = rows * self.used * (s.columns + 4 * s.rows)
            return Cost(weights=round(chosen * s.matrix.nbytes / self.count), activations=activations, **macs)

        return cost


def _moved(row: int, rows: int, context: int) -> Cost:
    """Return the cost of copies of `row` bytes a row."""
    return Cost(activations=rows * row)


def _scales(x: Rows, rows: np.ndarray) -> tuple[np.ndarray]:
    """Return the scales of the blocks of int8 of the first rows[0] rows."""
    blocks = x.meta.view(tile_dot.META)[: int(rows[0]) * x.n // 32]
    return (blocks["d"],)


def _tiles(s: Stack) -> int:
    """Return the tiles of one expert's matrix."""
    return s.rows // tiles.ROWS
