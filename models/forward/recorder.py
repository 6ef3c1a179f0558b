"""The verbs that a forward pass is written in: each records operations into a plan, over buffers that they share.

An architecture's `forward` calls these verbs in the order of its formulas; nothing is computed until the plan runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ...kernels.lang import cpu
from ...kernels.lang.jit import Kernel
from ...kernels.ops import activations, embed, exact, linear
from ...kernels.plan import Cost, Plan
from ...kernels.shapes import CHUNK, Shape
from ..cache.store import KVCache
from ..config import Config
from . import attention
from .mixture import Experts, Mixture
from .positions import Positions
from .rows import Buffers, Rows
from .step import PlanKind, Step
from .weights import Embedding, Matrix

F32Array = npt.NDArray[np.float32]
Count = npt.NDArray[np.int64]  # one number, which a step sets
Block = TypeVar("Block")

PIECE = 512 << 10
"""Bytes of weights that a thread takes at once at most: one that loses its core holds up the others by one piece."""
ROWS = 16
"""Rows of activations that a thread takes at once at most."""
FEW_LOGITS = 16
"""Rows of logits from which on it pays to widen the weights for the matrix unit."""


class Recorder:
    """Records the plan of one kind of step."""

    def __init__(
        self, config: Config, kv: KVCache, step: Step, buffers: Buffers, positions: Positions, kind: PlanKind,
        shapes: Mapping[str, Shape] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """shapes: of products of many rows, by the format of the weights; others have the default."""
        self._shapes = shapes
        self.config, self.kv, self.step, self.buffers = config, kv, step, buffers
        self.kind, self.alone, self.prefill = kind, kind is PlanKind.DECODE, kind is PlanKind.PREFILL
        self.positions, self.plan, self.exact = positions, Plan(), step.exact
        self._mixture: Mixture | None = None

    @property
    def rows_at_once(self) -> int:
        """Return the rows of activations that a thread takes at once, so that each has some. Neighbouring rows are
        fetched together and share cache lines of the KV cache's tiles, so one thread should take them."""
        return max(1, min(ROWS, self.buffers.max_rows // (4 * self.step.threads))) if self.prefill else 1

    def layers(self, blocks: Sequence[Block]) -> Iterator[tuple[int, Block]]:
        """Yield each layer with its number; operations that are recorded meanwhile are named as parts of that layer."""
        for i, block in enumerate(blocks):
            self.plan.part = f"blk.{i}"
            yield i, block
        self.plan.part = ""

    def embedding(self, table: Embedding, *, scale: float = 1.0) -> Rows:
        """Return the embeddings of the step's tokens, times scale."""
        to, row_bytes = self.buffers.x, table.raw.shape[1]
        self.plan.add(
            "embed",
            embed.embed(table.format.name),
            items=1,
            times=self.step.rows,
            cost=lambda rows, context: Cost(activations=rows * (row_bytes + 4 * to.n)),
            output=(to.x, self.step.rows),
            raw=table.raw, row_bytes=row_bytes, tokens=self.step.tokens, x=to.x, n=to.n, scale=scale,
        )  # fmt: skip
        return to

    def norm(self, x: Rows, weight: F32Array, *, logits_rows: bool = False) -> Rows:
        """Return the RMSNorm of each row, or of the rows whose logits are wanted."""
        return self._norm(activations.rms_norm, x, logits_rows, weight=weight)

    def layer_norm(self, x: Rows, weight: F32Array, bias: F32Array | None = None, *, logits_rows: bool = False) -> Rows:
        """Return the LayerNorm of each row, or of the rows whose logits are wanted; bias: None adds nothing."""
        return self._norm(activations.layer_norm, x, logits_rows, weight=weight, bias=0 if bias is None else bias)

    def _norm(self, kernel: Kernel, x: Rows, logits_rows: bool, **vectors: Any) -> Rows:
        to, count = self.buffers.input("norm", x.n), self.step.n_logits if logits_rows else self.step.rows
        self.plan.add(
            "norm",
            kernel,
            items=1,
            times=count,
            grain=self.rows_at_once,
            solo=self.alone,
            cost=lambda rows, context: Cost(activations=rows * x.n * 9),
            output=(to.x, count),
            x=x.x,
            rows=self.step.logits_rows if logits_rows else 0,
            y=to.x,
            **vectors,
            **self.handed_over(to, logits_rows=logits_rows),
            n=x.n,
            x_stride=x.x.strides[0],
            eps=self.config.norm_eps,
        )
        return to

    def add_norm(self, to: Rows, x: Rows, weight: F32Array) -> None:
        """Record to += RMSNorm(x), row by row."""
        self.plan.add(
            "add_norm",
            activations.add_norm,
            items=1,
            times=self.step.rows,
            grain=self.rows_at_once,
            solo=self.alone,
            cost=lambda rows, context: Cost(activations=rows * to.n * 12),
            output=(to.x, self.step.rows),
            x=x.x,
            weight=weight,
            y=to.x,
            n=to.n,
            x_stride=x.x.strides[0],
            y_stride=to.x.strides[0],
            eps=self.config.norm_eps,
        )

    def hand_over(self, x: Rows) -> Rows:
        """Return x in the forms that products take, for rows that no norm has brought into them."""
        self.plan.add(
            "hand_over",
            activations.hand_over_rows,
            items=1,
            times=self.step.rows,
            grain=self.rows_at_once,
            solo=self.alone,
            cost=lambda rows, context: Cost(activations=rows * x.n * 5),
            output=(x.x, self.step.rows),
            x=x.x,
            **self.handed_over(x),
            n=x.n,
        )
        return x

    def handed_over(self, x: Rows, *, logits_rows: bool = False) -> dict[str, Any]:
        """Return the operands of a kernel that writes x in the forms that products take; float32 is always one."""
        wide = self._is_wide(logits_rows)
        blocks = not wide or self.config.expert_count > 0  # rows are gathered for their experts as blocks
        return {"q": x.q, "meta": x.meta if blocks and not self.exact else 0, "half": x.half if wide else 0}

    def _is_wide(self, logits_rows: bool) -> bool:
        """Return whether products use the matrix unit. A few rows of logits do not: widening weights takes longer."""
        few = logits_rows and self.buffers.max_logits < FEW_LOGITS
        return cpu.AMX and self.prefill and not few and not self.exact

    def linear(self, x: Rows, *matrices: Matrix) -> list[Rows]:
        """Return the products of x with each of the matrices; threads do not wait for each other between them."""
        out = [self.buffers.output(m.name.split(".")[-2], m.rows) for m in matrices]
        for m, y in zip(matrices, out, strict=True):
            self._product(x, m, y, barrier=m is matrices[-1])
        return out

    def add_linear(self, to: Rows, x: Rows, matrix: Matrix, *, scale: float = 1.0) -> None:
        """Record to += scale * W x."""
        self._product(x, matrix, to, add=True, scale=scale)

    def logits(self, x: Rows, matrix: Matrix, *, scale: float = 1.0, softcap: float = 0.0) -> None:
        """Record the logits of the rows that were asked for, times scale; softcap: see Config.final_softcap."""
        to = self.buffers.logits
        self._product(x, matrix, to, logits_rows=True, scale=scale)
        if softcap:
            piece = 4096
            self.plan.add(
                "softcap",
                activations.cap_rows,
                items=-(-to.n // piece),
                times=self.step.n_logits,
                cost=lambda rows, context: Cost(activations=rows * to.n * 8),
                output=(to.x, self.step.n_logits),
                x=to.x,
                n=to.n,
                piece=piece,
                cap=softcap,
            )

    def _product(
        self,
        x: Rows,
        m: Matrix,
        y: Rows,
        *,
        add: bool = False,
        logits_rows: bool = False,
        barrier: bool = True,
        scale: float = 1.0,
    ) -> None:
        step, name = self.step, m.format.name
        wide = self._is_wide(logits_rows) and name not in ("f32", "f16")
        ints = m.format.bits > 0 and not wide and not self.exact
        assert x.n == m.columns
        macs = m.rows * m.columns

        def cost(rows: int, context: int) -> Cost:
            rows = min(rows, self.buffers.max_logits) if logits_rows else rows
            kind: dict[str, int] = {"macs_bf16" if wide else "macs_i8" if ints else "macs_f32": rows * macs}
            return Cost(weights=m.nbytes, activations=rows * (m.columns + 4 * m.rows), **kind)

        rows = step.n_logits if logits_rows else step.rows
        operands: dict[str, Any] = {
            "weights": m.data, "y": y.x, "rows": rows, "tiles": m.tiles, "tile_bytes": m.tile_bytes,
            "columns": m.columns, "y_stride": y.x.strides[0], "bias": 0 if m.bias is None else m.bias, "scale": scale,
            "add": int(add),
        }  # fmt: skip
        if wide:
            kernel, items, scratch = linear.linear_wide(name), -(-m.tiles // 2), self.buffers.wide(m.columns)
            chunk = linear.WIDE_CHUNK
            operands |= {"x": x.half, "scratch": scratch, "scratch_bytes": scratch.strides[0]}
        elif self.exact:
            kernel, items = exact.linear_exact(name, self.kind.at_once), -(-m.tiles // 2)
            chunk = exact.EXACT_CHUNK
            operands |= {"x": x.x, "x_stride": x.x.strides[0], "scratch": self.buffers.exact}
        else:
            shape, source = self.shape(name), x.q if ints else x.x
            kernel, items, chunk = linear.linear(name, shape.rows), m.tiles, shape.chunk
            operands |= {"x": source, "x_stride": source.strides[0], "meta": x.meta if ints else 0, "chunk": chunk}
            operands |= {"meta_stride": m.columns // 2}
        self.plan.add(
            m.name.split(".")[-2],
            kernel,
            items=items,
            times=step.chunks(chunk, logits=logits_rows),
            grain=self.grain(items, m.nbytes),
            barrier=barrier,
            cost=cost,
            output=(y.x, rows),
            **operands,
        )

    def shape(self, fmt: str) -> Shape:
        """Return how the products with weights of a format are cut up in this kind of step."""
        if self.kind in (PlanKind.FEW, PlanKind.PREFILL):
            return self._shapes.get(fmt, linear.SHAPE)
        return Shape(self.kind.at_once, CHUNK)

    def grain(self, items: int, nbytes: int) -> int:
        """Return the tiles that a thread takes at once. Decode waits for memory, so its pieces are as long as leave no
        thread idle: nothing is fetched ahead for the start of a piece, and what is fetched beyond its end is lost."""
        threads = self.step.threads
        if self.prefill:
            return max(1, min(16, items // (8 * threads)))
        return -(-items // (threads * -(-nbytes // (threads * PIECE))))

    def attention(self, i: int, q: Rows, k: Rows, v: Rows, **extras: F32Array | None) -> Rows:
        """Return the attention of layer i: RoPE of q and k, k and v into the cache, and attention over it.

        extras: see attention.Extras.
        """
        return attention.record(self, i, q, k, v, attention.Extras(**extras))

    def add_experts(self, to: Rows, x: Rows, e: Experts, activation: str) -> None:
        """Record to += the output of each row's experts for x; activation: the one in their gates."""
        self._mixture = self._mixture or Mixture(self)
        self._mixture.add(to, x, e, activation)

    def gate_silu(self, gate: Rows, up: Rows) -> Rows:
        """Record silu(gate) * up."""
        return self._gate("silu", gate, up)

    def gate_gelu(self, gate: Rows, up: Rows) -> Rows:
        """Record gelu(gate) * up, by tanh."""
        return self._gate("gelu", gate, up)

    def _gate(self, activation: str, gate: Rows, up: Rows) -> Rows:
        to = self.buffers.input("gated", gate.n)
        self.gate(activation, gate, up, to, self.step.rows, **self.handed_over(to))
        return to

    def gate(
        self, activation: str, gate: Rows, up: Rows, to: Rows, written: Count, each: int = 1, **forms: Any
    ) -> None:
        """Record activation(gate) * up into `to`, in the forms that products take.

        each: rows of `to` for a row of the step. written: how many rows that makes. forms: see `handed_over`.
        """
        piece = _piece(to.n)
        pieces = to.n // piece
        self.plan.add(
            "gate",
            activations.gate(activation),
            items=each * pieces,
            times=self.step.rows,
            grain=pieces * self.rows_at_once if self.prefill and each == 1 else 2,
            cost=lambda rows, context: Cost(activations=rows * each * to.n * 13),
            output=(to.x, written),
            gate=gate.x, up=up.x, y=to.x, **forms, n=to.n, piece=piece,
            gate_stride=gate.x.strides[0], up_stride=up.x.strides[0],
        )  # fmt: skip

    def gelu(self, x: Rows) -> Rows:
        """Return gelu(x), by tanh, for a feed-forward without a gate."""
        return self._activate("gelu", x)

    def relu2(self, x: Rows) -> Rows:
        """Return max(x, 0)², for a feed-forward without a gate."""
        return self._activate("relu2", x)

    def _activate(self, activation: str, x: Rows) -> Rows:
        to, piece = self.buffers.input("gated", x.n), _piece(x.n)
        self.plan.add(
            activation,
            activations.activate(activation),
            items=to.n // piece,
            times=self.step.rows,
            grain=to.n // piece * self.rows_at_once if self.prefill else 2,
            cost=lambda rows, context: Cost(activations=rows * to.n * 9),
            output=(to.x, self.step.rows),
            x=x.x, y=to.x, **self.handed_over(to), n=to.n, piece=piece, x_stride=x.x.strides[0],
        )  # fmt: skip
        return to


def _piece(n: int) -> int:
    """Return how many of a row's n columns a thread takes at once: a power of two that divides n, 256 at most."""
    return min(256, n & -n)
