"""Records the operations of a layer's attention: which kernel, over which memory, at what cost."""

from __future__ import annotations

from collections.abc import Callable
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
from ...kernels.attention.mass import SLICES, add_mass
from ...kernels.attention.mass import scratch_bytes as mass_scratch
from ...kernels.attention.prefill import attend_many
from ...kernels.attention.prefill_amx import attend_wide
from ...kernels.attention.values import as_integers
from ...kernels.formats import tiles
from ...kernels.lang import cpu
from ...kernels.ops import rope
from ...kernels.ops.reencode import reencode
from ...kernels.plan import Cost, free
from ...kernels.shapes import PAGE, columns
from ..cache.segments import Borders
from ..cache.sizes import layer_bytes
from ..cache.store import LayerCache
from ..config import Layer
from . import probe

if TYPE_CHECKING:
    from .recorder import Recorder
    from .rows import Rows
    from .step import Step

F32Array = npt.NDArray[np.float32]
I64Array = npt.NDArray[np.int64]
VoidArray = npt.NDArray[np.void]


@dataclass(frozen=True, eq=False)
class Extras:
    """Operands that only some architectures have."""

    q_norm: F32Array | None = None  # weights of an RMSNorm of each query head, or of a whole row
    k_norm: F32Array | None = None
    sinks: F32Array | None = None  # a score for each query head, which takes part in softmax but has no value


@dataclass(frozen=True, eq=False)
class Place:
    """Tokens of a layer that lie together in one pair of types, and the work of a step over them."""

    kv: LayerCache
    spans: VoidArray
    table: int  # see softmax.table_at
    window: int
    jobs: VoidArray
    n_jobs: I64Array
    blocks: VoidArray
    n_blocks: I64Array
    sums_at: I64Array
    parts: I64Array
    held: Callable[[int], int] | None = None  # of n tokens, how many are here; None: all


@dataclass(frozen=True, eq=False)
class AttendCost:
    """The cost of attention over one place of a layer: a block of rows reads what it sees once, and each row multiplies
    with its own tokens."""

    layer: Layer
    kv: LayerCache
    units: tuple[str, str]  # the fields of Cost for the multiply-adds of Q·Kᵀ and of A·V
    prefill: bool
    held: Callable[[int], int] | None  # see Place

    def __call__(self, rows: int, context: int) -> Cost:
        return self.keys(rows, context) + self.values(rows, context)

    def keys(self, rows: int, context: int) -> Cost:
        """Return the cost of Q·Kᵀ."""
        read, seen = self._tokens(rows, context)
        macs = {self.units[0]: seen * self.layer.n_head * self.layer.head_dim_k}
        return Cost(k=read * layer_bytes(self.layer, "k", self.kv.k_format), **macs)

    def values(self, rows: int, context: int) -> Cost:
        """Return the cost of A·V."""
        read, seen = self._tokens(rows, context)
        each = 2 if self.units[1] == "macs_i8" else 1  # a weight has two bytes, see integer_values.py
        macs = {self.units[1]: each * seen * self.layer.n_head * self.layer.head_dim_v}
        return Cost(v=read * layer_bytes(self.layer, "v", self.kv.v_format), **macs)

    def _tokens(self, rows: int, context: int) -> tuple[int, int]:
        """Return the tokens that are read, and those that rows multiply with, with `context` tokens in a sequence."""
        c = self.layer
        block = softmax.block_rows(c.n_head // c.n_head_kv) if self.prefill else 1
        if self.held is not None:  # of a segment each row is taken to see all
            return -(-rows // block) * self.held(context), rows * self.held(context)
        window = c.window or context
        read = -(-rows // block) * min(context, window + block - 1)
        if not self.prefill:  # each row has a sequence of its own
            return read, rows * min(context, window)
        beyond = min(max(context - window, 0), rows)  # rows with more tokens before them than the window holds
        seen = rows * context - rows * (rows - 1) // 2 - beyond * (context - window) + beyond * (beyond - 1) // 2
        return read, seen


def _places(r: Recorder, i: int) -> list[Place]:
    """Return where the tokens of layer i lie, in the order in which their sums are put together."""
    step, kv, at = r.step, r.kv.layers[i], r.step.segmented
    if at is None or i not in r.kv.tails:
        n = kv.kind
        window = r.config.layers[i].window or softmax.ALL
        work = step.jobs[n], step.n_jobs[n], step.blocks[n], step.n_blocks[n], step.sums_at, step.parts[n]
        return [Place(kv, step.spans, softmax.table_at(n), window, *work)]
    return [
        Place(held, at.spans[n], softmax.table_at(0), softmax.ALL, at.jobs[n], at.n_jobs[n], at.blocks[n],
              at.n_blocks[n], at.sums_at[n], at.parts[n], partial(_held, at.borders, n))
        for n, held in enumerate(r.kv.segments(i))
    ]  # fmt: skip


def _held(borders: Borders, segment: int, tokens: int) -> int:
    """Return how many of n tokens lie in a segment."""
    whole = [PAGE * n for n in borders.whole(tokens)]
    return [*whole, tokens - PAGE * borders.left(tokens)][segment]


def record(r: Recorder, i: int, q: Rows, k: Rows, v: Rows, extras: Extras) -> Rows:
    """Record the attention of layer i and return its output, (rows, n_head * head_dim_v)."""
    c, b, step, kv, places = r.config.layers[i], r.buffers, r.step, r.kv.stored(i), _places(r, i)
    group = c.n_head // c.n_head_kv
    k_type, v_type = kv.k_format.name, kv.v_format.name
    k_columns, v_columns = columns(c.head_dim_k), columns(c.head_dim_v)
    queries = b.queries(c.n_head, k_columns)
    shared: dict[str, Any] = {
        "kv_heads": c.n_head_kv, "group": group, "k_columns": k_columns, "v_columns": v_columns, "max_rows": b.max_rows,
        "scratch": b.scratch, "scratch_bytes": b.scratch_bytes,
    }  # fmt: skip

    f32 = "f32" in (k_type, v_type)  # as the user asked
    wide = r.prefill and cpu.AMX and not r.exact and not f32 and len(places) == 1
    ints = not wide and not r.exact and any(place.kv.k_format.bits > 0 for place in places)

    by_row = extras.q_norm is not None and len(extras.q_norm) != c.head_dim_k
    r.plan.add(
        "rope_store",
        rope.rope_store(k_type, v_type, c.rope is not None and c.rope.neox),
        items=c.n_head_kv,
        times=step.rows,
        grain=1 if r.alone else c.n_head_kv * r.rows_at_once,
        cost=lambda rows, context: Cost(activations=rows * sum(_token_bytes(c, kv))),
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
        v_dim=c.head_dim_v, **_pools(kv), **shared,
    )  # fmt: skip
    if len(places) > 1:
        _record_moves(r, i, shared)
    for place in places:
        _attend(r, c, place, queries, shared, wide=wide, last=place is places[-1])

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
        sums=b.sums, sums_at=step.sums_at, parts=places[0].parts, segments=len(places),
        parts_stride=places[0].parts.nbytes, heads=c.n_head, v_dim=c.head_dim_v,
        v_columns=v_columns, v_rotation=kv.v_rotation, sinks=_or_none(extras.sinks), y=to.x, **r.handed_over(to),
    )  # fmt: skip
    if i in r.kv.marks and r.kv.spec.segments is not None and r.kv.spec.segments.weighs:
        _record_mass(r, i, places[1:], queries, shared)
    return to


def _attend(
    r: Recorder, c: Layer, place: Place, queries: Rows, shared: dict[str, Any], *, wide: bool, last: bool
) -> None:
    """Record attention over one place; threads wait for each other after the last one."""
    b, kv, group = r.buffers, place.kv, shared["group"]
    k_type, v_type = kv.k_format.name, kv.v_format.name
    k_columns, v_columns = shared["k_columns"], shared["v_columns"]
    ints = kv.k_format.bits > 0 and not wide and not r.exact
    blocks = attend_exact if r.exact else attend_wide if wide else attend_many
    alone, together = not (wide or r.exact), r.exact or not r.alone  # which rows go through attend_one, and blocks
    source = queries.q if ints else queries.x
    weighed = "macs_i8" if as_integers(v_type) and not r.exact else "macs_f32"
    units = ("macs_bf16", "macs_bf16") if wide else ("macs_i8" if ints else "macs_f32", weighed)

    def sums() -> tuple[F32Array]:
        return (_sums(b.sums.ravel(), r.step, place, c.n_head * (v_columns + softmax.TAIL)),)

    attend = partial(
        r.plan.add,
        "attend",
        items=c.n_head_kv,
        spans=place.spans, table=place.table, window=place.window, softcap=c.softcap,
        q_bytes=source.strides[0], meta=queries.meta, meta_bytes=k_columns // 2,
        k_tile=tiles.tile_bytes(kv.k_format, k_columns), v_scales=pages.v_scale_bytes(kv.v_format, c.head_dim_v),
        v_row=pages.v_row_bytes(kv.v_format, c.head_dim_v), sums=b.sums, sums_at=place.sums_at, upto=softmax.SUMS,
        **softmax.fetch_steps(kv.k_page, kv.v_page, v_columns), **_pools(kv), **shared,
    )  # fmt: skip
    costs = AttendCost(c, kv, units, r.prefill, place.held)
    if alone:
        attend(
            kernel=attend_one(k_type, v_type, group),
            times=place.n_jobs, jobs=place.jobs, n_jobs=place.n_jobs, q=source,
            barrier=r.alone and last, cost=free if r.prefill else costs, output=sums if r.alone else None,
        )  # fmt: skip
    if together:
        attend(
            kernel=blocks(k_type, v_type),
            times=place.n_blocks, jobs=place.blocks, n_jobs=place.n_blocks, q=source,
            barrier=last, cost=costs if r.prefill or r.exact else free, output=sums,
        )  # fmt: skip


def _record_moves(r: Recorder, i: int, shared: dict[str, Any]) -> None:
    """Record what encodes the pages of layer i anew that leave the tail with this step."""
    at, tail = r.step.segmented, r.kv.tails[i]
    assert at is not None
    for n, to in enumerate(r.kv.segments(i)[:2]):
        r.plan.add(
            "reencode",
            reencode(tail.k_format.name, tail.v_format.name, to.k_format.name, to.v_format.name),
            items=shared["kv_heads"],
            times=at.n_moves[n],
            barrier=n == 1,
            moves=at.moves[n],
            **_pools(tail), **{f"{name}_to": value for name, value in _pools(to).items()},
            **{name: value for name, value in shared.items() if name not in ("group", "max_rows")},
        )  # fmt: skip


def _record_mass(r: Recorder, i: int, places: list[Place], queries: Rows, shared: dict[str, Any]) -> None:
    """Record what adds up the weights of the tokens in body and tail, for a policy that chooses by them."""
    c = r.config.layers[i]
    assert r.buffers.scratch_bytes >= mass_scratch(shared["k_columns"])
    for place, marks in zip(places, r.kv.marks[i], strict=True):
        kv = place.kv
        r.plan.add(
            "mass",
            add_mass(kv.k_format.name, shared["group"]),
            items=c.n_head_kv * SLICES,
            cost=AttendCost(c, kv, ("macs_f32", "macs_f32"), r.prefill, place.held).keys,
            barrier=place is places[-1],
            spans=place.spans, table=place.table, rows=r.step.rows, softcap=c.softcap, q=queries.x,
            q_bytes=queries.x.strides[0], k_pool=kv.k_pool, k_head=kv.k_head, k_page=kv.k_page,
            k_tile=tiles.tile_bytes(kv.k_format, shared["k_columns"]), sums=r.buffers.sums, sums_at=r.step.sums_at,
            mass=marks.mass, mass_head=marks.mass.strides[0],
            **{name: value for name, value in shared.items()},
        )  # fmt: skip


def _pools(kv: LayerCache) -> dict[str, Any]:
    return {name: getattr(kv, name) for name in ("k_pool", "v_pool", "k_head", "v_head", "k_page", "v_page")}


def _token_bytes(c: Layer, kv: LayerCache) -> tuple[int, int]:
    """Return the bytes of a token's K and V in a layer."""
    return layer_bytes(c, "k", kv.k_format), layer_bytes(c, "v", kv.v_format)


def _or_none(vector: F32Array | None) -> F32Array | int:
    return 0 if vector is None else vector


def _sums(sums: F32Array, step: Step, place: Place, size: int) -> F32Array:
    """Return the sums that attention left in its places, `size` numbers each."""
    rows = int(step.rows[0])
    at = np.repeat(place.sums_at[:rows], place.parts[:rows])
    at += np.concatenate([np.arange(n) for n in place.parts[:rows]])
    return sums[: int(step.places[0]) * size].reshape(-1, size)[at]
