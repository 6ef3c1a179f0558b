"""What a forward pass is written in: verbs that record operations into a plan, over buffers that they share.

An architecture's `forward` calls these verbs in the order of its formulas; nothing is computed until the plan runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..kernels import activations, attention, cache, embed, linear, rope, tile_dot, tiles
from ..kernels.plan import Cost, Plan
from .config import Config
from .experts import Experts
from .kv_cache import KVCache
from .mixture import Mixture
from .rope import Positions
from .rows import Buffers, Rows
from .step import Step
from .weights import Embedding, Matrix

F32Array = npt.NDArray[np.float32]
Block = TypeVar("Block")


class Recorder:
    """Records one plan: for single rows (decode) or for many (prefill)."""

    def __init__(
        self, config: Config, kv: KVCache, step: Step, buffers: Buffers, positions: Positions, *, many: bool
    ) -> None:
        self.config, self.kv, self.step, self.buffers, self.many = config, kv, step, buffers, many
        self.positions, self.plan = positions, Plan()
        self._mixture: Mixture | None = None

    def layers(self, blocks: Sequence[Block]) -> Iterator[tuple[int, Block]]:
        """The layers with their numbers: what is recorded while one is taken is said to be part of it."""
        for i, block in enumerate(blocks):
            self.plan.part = f"blk.{i}"
            yield i, block
        self.plan.part = ""

    def embedding(self, table: Embedding) -> Rows:
        """The embeddings of the step's tokens."""
        to, row_bytes = self.buffers.x, table.raw.shape[1]
        self.plan.add(
            "embed",
            embed.embed(table.format.name),
            items=1,
            times=self.step.rows,
            cost=lambda rows, context: Cost(activations=rows * (row_bytes + 4 * to.n)),
            output=(to.x, self.step.rows),
            raw=table.raw, row_bytes=row_bytes, tokens=self.step.tokens, x=to.x, n=to.n,
        )  # fmt: skip
        return to

    def norm(self, x: Rows, weight: F32Array, *, outs: bool = False) -> Rows:
        """RMSNorm of each row, or of the rows whose logits are wanted."""
        to, count = self.buffers.norm, self.step.outs if outs else self.step.rows
        self.plan.add(
            "norm",
            activations.rms_norm,
            items=1,
            times=count,
            solo=not self.many,
            cost=lambda rows, context: Cost(activations=rows * x.n * 9),
            output=(to.x, count),
            x=x.x,
            weight=weight,
            rows=self.step.out_rows if outs else 0,
            y=to.x,
            q=to.q,
            meta=to.meta,
            n=x.n,
            x_stride=x.x.strides[0],
            eps=self.config.norm_eps,
        )
        return to

    def linear(self, x: Rows, *matrices: Matrix) -> list[Rows]:
        """Products of x with each of the matrices, which do not wait for each other."""
        out = [self.buffers.output(m.name.split(".")[-2], m.rows) for m in matrices]
        for m, y in zip(matrices, out, strict=True):
            self._product(x, m, y, barrier=m is matrices[-1])
        return out

    def add_linear(self, to: Rows, x: Rows, matrix: Matrix) -> None:
        """to += W x."""
        self._product(x, matrix, to, add=True)

    def logits(self, x: Rows, matrix: Matrix) -> None:
        """Logits of the rows that were asked for."""
        self._product(x, matrix, self.buffers.logits, outs=True)

    def _product(
        self, x: Rows, m: Matrix, y: Rows, *, add: bool = False, outs: bool = False, barrier: bool = True
    ) -> None:
        step, ints = self.step, m.format.bits > 0
        source = x.q if ints else x.x
        assert x.n == m.columns
        macs = m.rows * m.columns

        def cost(rows: int, context: int) -> Cost:
            rows = min(rows, self.buffers.max_outs) if outs else rows
            kind: dict[str, int] = {"macs_i8" if ints else "macs_f32": rows * macs}
            return Cost(weights=m.nbytes, activations=rows * (m.columns + 4 * m.rows), **kind)

        self.plan.add(
            m.name.split(".")[-2],
            linear.linear(m.format.name, tile_dot.many(m.format.name) if self.many else 1),
            items=m.tiles,
            times=step.out_chunks if outs else step.chunks,
            grain=max(1, min(16, m.tiles // (8 * step.threads))),
            barrier=barrier,
            cost=cost,
            output=(y.x, step.outs if outs else step.rows),
            weights=m.data,
            x=source,
            meta=x.meta if ints else 0,
            y=y.x,
            rows=step.outs if outs else step.rows,
            tiles=m.tiles,
            tile_bytes=m.tile_bytes,
            columns=m.columns,
            x_stride=source.strides[0],
            meta_stride=m.columns // 2,
            y_stride=y.x.strides[0],
            add=int(add),
        )

    def attention(self, i: int, q: Rows, k: Rows, v: Rows) -> Rows:
        """That of layer i: RoPE of q and k, k and v into the cache, and causal attention over the cache."""
        c, b, step, kv = self.config.layers[i], self.buffers, self.step, self.kv.layers[i]
        group = c.n_head // c.n_head_kv
        k_type, v_type = kv.k_format.name, kv.v_format.name
        k_columns, v_columns = cache.columns(c.head_dim_k), cache.columns(c.head_dim_v)
        ints = kv.k_format.bits > 0
        pools: dict[str, Any] = {
            "k_pool": kv.k_pool, "v_pool": kv.v_pool, "k_head": kv.k_head, "v_head": kv.v_head,
            "k_page": kv.k_page, "v_page": kv.v_page, "kv_heads": c.n_head_kv, "group": group,
            "k_columns": k_columns, "v_columns": v_columns, "max_rows": b.max_rows,
            "scratch": b.scratch, "scratch_bytes": b.scratch_bytes,
        }  # fmt: skip
        turned = c.rope
        turns = self.positions.turns[turned] if turned else 0
        k_row, v_row = kv.k_format.row_bytes(c.head_dim_k), kv.v_format.row_bytes(c.head_dim_v)
        self.plan.add(
            "rope_store",
            rope.rope_store(k_type, v_type, turned is not None and turned.neox),
            items=c.n_head_kv,
            times=step.rows,
            cost=lambda rows, context: Cost(activations=rows * c.n_head_kv * (k_row + v_row)),
            q=q.x, k=k.x, v=v.x, q_stride=q.x.strides[0], k_stride=k.x.strides[0], v_stride=v.x.strides[0],
            turns=turns, rope_dim=turned.dim if turned else 0, positions=step.positions, places=step.places,
            out=b.queries.x, out_q=b.queries.q, out_meta=b.queries.meta,
            k_dim=c.head_dim_k, v_dim=c.head_dim_v, scales=self.positions.scales[c.scale],
            k_rotation=kv.k_rotation, v_rotation=kv.v_rotation, **pools,
        )  # fmt: skip

        def cost(rows: int, context: int) -> Cost:
            # A block of rows reads the cache once; in it each row meets the tokens before it.
            reads = -(-rows // attention.block_rows(group)) if self.many else rows
            seen = rows * context - rows * (rows - 1) // 2
            macs = {"macs_i8": 0, "macs_f32": seen * c.n_head * c.head_dim_v}
            macs["macs_i8" if ints else "macs_f32"] += seen * c.n_head * c.head_dim_k
            return Cost(k=reads * context * c.n_head_kv * k_row, v=reads * context * c.n_head_kv * v_row, **macs)

        source = b.queries.q if ints else b.queries.x
        kernel = attention.attend_many(k_type, v_type) if self.many else attention.attend_one(k_type, v_type, group)
        self.plan.add(
            "attend",
            kernel,
            items=c.n_head_kv,
            times=step.span_blocks if self.many else step.span_splits,
            cost=cost,
            spans=step.spans, splits=step.splits, split_pages=step.split_pages, blocks=step.blocks,
            q=source, meta=b.queries.meta, q_bytes=source.strides[0], meta_bytes=k_columns // 2,
            k_tile=tiles.tile_bytes(kv.k_format, k_columns), v_scales=cache.v_scale_bytes(kv.v_format, c.head_dim_v),
            v_row=cache.v_row_bytes(kv.v_format, c.head_dim_v), sums=b.sums, **pools,
        )  # fmt: skip
        to = b.attended
        self.plan.add(
            "combine",
            attention.combine,
            items=1,
            times=step.rows,
            solo=not self.many,
            cost=lambda rows, context: Cost(activations=rows * to.n * 9),
            output=(to.x, step.rows),
            sums=b.sums, splits=step.splits, heads=c.n_head, v_dim=c.head_dim_v, v_columns=v_columns,
            v_rotation=kv.v_rotation, y=to.x, q=to.q, meta=to.meta,
        )  # fmt: skip
        return to

    def add_experts(self, to: Rows, x: Rows, e: Experts, activation: str) -> None:
        """to += what its experts make of each row of x; activation: in them."""
        self._mixture = self._mixture or Mixture(self)
        self._mixture.add(to, x, e, activation)

    def gate_silu(self, gate: Rows, up: Rows) -> Rows:
        """silu(gate) * up."""
        to, piece = self.buffers.gated, 32
        while piece < 256 and to.n % (2 * piece) == 0:
            piece *= 2
        self.plan.add(
            "gate",
            activations.gate_silu,
            items=to.n // piece,
            times=self.step.rows,
            grain=2,
            cost=lambda rows, context: Cost(activations=rows * to.n * 13),
            output=(to.x, self.step.rows),
            gate=gate.x, up=up.x, y=to.x, q=to.q, meta=to.meta, n=to.n, piece=piece,
            gate_stride=gate.x.strides[0], up_stride=up.x.strides[0],
        )  # fmt: skip
        return to
