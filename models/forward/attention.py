"""Records the operations of a layer's attention: which kernel, over which memory, at what cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...kernels import pages
from ...kernels.attention import softmax
from ...kernels.attention.attend_exact import attend_exact
from ...kernels.attention.combine import combine
from ...kernels.attention.decode import attend_one
from ...kernels.attention.prefill import attend_many
from ...kernels.attention.prefill_amx import attend_wide
from ...kernels.formats import tiles
from ...kernels.lang import cpu
from ...kernels.ops import rope
from ...kernels.plan import Cost, free
from ...kernels.shapes import columns
from ..cache.sizes import layer_bytes
from ..config import Layer
from . import probe

if TYPE_CHECKING:
    from .recorder import Recorder
    from .rows import Rows
    from .step import Step

F32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Extras:
    """Operands that only some architectures have."""

    q_norm: F32Array | None = None  # weights of an RMSNorm of each query head, or of a whole row
    k_norm: F32Array | None = None
    sinks: F32Array | None = None  # a score for each query head, which takes part in softmax but has no value


def record(r: Recorder, i: int, q: Rows, k: Rows, v: Rows, extras: Extras) -> Rows:
    """Record the attention of layer i and return its output, (rows, n_head * head_dim_v)."""
    c, b, step, kv = r.config.layers[i], r.buffers, r.step, r.kv.layers[i]
    group = c.n_head // c.n_head_kv
    k_type, v_type = kv.k_format.name, kv.v_format.name
    k_columns, v_columns = columns(c.head_dim_k), columns(c.head_dim_v)
    token_bytes = layer_bytes(c, "k", kv.k_format), layer_bytes(c, "v", kv.v_format)
    queries = b.queries(c.n_head, k_columns)
    shared: dict[str, Any] = {
        "k_pool": kv.k_pool, "v_pool": kv.v_pool, "k_head": kv.k_head, "v_head": kv.v_head,
        "k_page": kv.k_page, "v_page": kv.v_page, "kv_heads": c.n_head_kv, "group": group,
        "k_columns": k_columns, "v_columns": v_columns, "max_rows": b.max_rows,
        "scratch": b.scratch, "scratch_bytes": b.scratch_bytes,
    }  # fmt: skip

    wide = r.prefill and cpu.AMX and not r.exact and "f32" not in (k_type, v_type)  # f32: as the user asked
    ints = kv.k_format.bits > 0 and not wide and not r.exact
    blocks = attend_exact if r.exact else attend_wide if wide else attend_many
    alone, together = not (wide or r.exact), r.exact or not r.alone  # which rows go through attend_one, and blocks
    source = queries.q if ints else queries.x

    by_row = extras.q_norm is not None and len(extras.q_norm) != c.head_dim_k
    r.plan.add(
        "rope_store",
        rope.rope_store(k_type, v_type, c.rope is not None and c.rope.neox),
        items=c.n_head_kv,
        times=step.rows,
        grain=1 if r.alone else c.n_head_kv * r.rows_at_once,
        cost=lambda rows, context: Cost(activations=rows * sum(token_bytes)),
        output=lambda: (
            probe.queries_of(b, c, int(step.rows[0])),
            *probe.cached(kv, c, step.slots[kv.kind, : int(step.rows[0])]),
        ),
        q=q.x, k=k.x, v=v.x, q_stride=q.x.strides[0], k_stride=k.x.strides[0], v_stride=v.x.strides[0],
        q_norm=_or_none(extras.q_norm), k_norm=_or_none(extras.k_norm), norm_rows=int(by_row), eps=r.config.norm_eps,
        turns=r.positions.turns[c.rope] if c.rope else 0, rope_dim=c.rope.dim if c.rope else 0,
        k_rotation=kv.k_rotation, v_rotation=kv.v_rotation, scales=r.positions.scales[c.scale],
        positions=step.positions,
        slots=step.slots[kv.kind],
        out=queries.x, out_q=queries.q if ints else 0, out_meta=queries.meta, k_dim=c.head_dim_k,
        v_dim=c.head_dim_v, **shared,
    )  # fmt: skip

    kinds = ("macs_bf16", "macs_bf16") if wide else ("macs_i8" if ints else "macs_f32", "macs_f32")

    def sums() -> tuple[F32Array]:
        return (_sums(b.sums.ravel(), step, kv.kind, c.n_head * (v_columns + softmax.TAIL)),)

    attend = partial(
        r.plan.add,
        "attend",
        items=c.n_head_kv,
        spans=step.spans, table=softmax.table_at(kv.kind), window=c.window or softmax.ALL, softcap=c.softcap,
        q_bytes=source.strides[0], meta=queries.meta, meta_bytes=k_columns // 2,
        k_tile=tiles.tile_bytes(kv.k_format, k_columns), v_scales=pages.v_scale_bytes(kv.v_format, c.head_dim_v),
        v_row=pages.v_row_bytes(kv.v_format, c.head_dim_v), sums=b.sums, sums_at=step.sums_at, upto=softmax.SUMS,
        **softmax.fetch_steps(kv.k_page, kv.v_page, v_columns), **shared,
    )  # fmt: skip
    costs = partial(_cost, c, token_bytes, kinds, r.prefill)
    if alone:
        attend(
            kernel=attend_one(k_type, v_type, group),
            times=step.n_jobs[kv.kind], jobs=step.jobs[kv.kind], n_jobs=step.n_jobs[kv.kind], q=source,
            barrier=r.alone, cost=free if r.prefill else costs, output=sums if r.alone else None,
        )  # fmt: skip
    if together:
        attend(
            kernel=blocks(k_type, v_type),
            times=step.n_blocks[kv.kind], jobs=step.blocks[kv.kind], n_jobs=step.n_blocks[kv.kind], q=source,
            cost=costs if r.prefill or r.exact else free, output=sums,
        )  # fmt: skip

    to = b.input("attended", c.n_head * c.head_dim_v)
    r.plan.add(
        "combine",
        combine,
        items=1,
        times=step.rows,
        grain=r.rows_at_once,
        solo=r.alone,
        cost=lambda rows, context: Cost(activations=rows * to.n * 9),
        output=(to.x, step.rows),
        sums=b.sums, sums_at=step.sums_at, parts=step.parts[kv.kind], heads=c.n_head, v_dim=c.head_dim_v,
        v_columns=v_columns, v_rotation=kv.v_rotation, sinks=_or_none(extras.sinks), y=to.x, **r.handed_over(to),
    )  # fmt: skip
    return to


def _or_none(vector: F32Array | None) -> F32Array | int:
    return 0 if vector is None else vector


def _sums(sums: F32Array, step: Step, kind: int, size: int) -> F32Array:
    """Return the sums that attention left in its places, `size` numbers each."""
    rows = int(step.rows[0])
    at = np.repeat(step.sums_at[:rows], step.parts[kind, :rows])
    at += np.concatenate([np.arange(n) for n in step.parts[kind, :rows]])
    return sums[: int(step.places[0]) * size].reshape(-1, size)[at]


def _cost(
    c: Layer, token_bytes: tuple[int, int], kinds: tuple[str, str], prefill: bool, rows: int, context: int
) -> Cost:
    """Return the cost of `attend`, with `context` tokens in each sequence.

    A block of rows reads what it sees once; each row multiplies with its own tokens.
    kinds: the fields of Cost for the multiply-adds of Q·Kᵀ and of A·V.
    """
    block = softmax.block_rows(c.n_head // c.n_head_kv) if prefill else 1
    window = c.window or context
    reads = -(-rows // block) * min(context, window + block - 1)
    beyond = min(max(context - window, 0), rows)  # rows with more tokens before them than the window holds
    seen = rows * context - rows * (rows - 1) // 2 - beyond * (context - window) + beyond * (beyond - 1) // 2
    macs = dict.fromkeys(kinds, 0)
    for kind, head_dim in zip(kinds, (c.head_dim_k, c.head_dim_v), strict=True):
        macs[kind] += seen * c.n_head * head_dim
    if not prefill:  # each row has a sequence of its own
        seen = rows * min(context, window)
    return Cost(k=reads * token_bytes[0], v=reads * token_bytes[1], **macs)
