"""What attention works on: queries, keys and values of a step, read where the kernels have them; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels import pages
from ...kernels.plan import Plan
from ..cache.store import KVCache, LayerCache
from ..config import Config, Layer
from .rows import Buffers
from .step import Step

F32Array = npt.NDArray[np.float32]
I64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Attended:
    """Of one layer, as its cache holds them: rotated where that is. The queries are those of the step's tokens."""

    q: F32Array  # (rows, heads, head_dim_k), scaled
    k: F32Array  # (tokens, KV heads, head_dim_k)
    v: F32Array  # (tokens, KV heads, head_dim_v)


def attended(plan: Plan, buffers: Buffers, kv: KVCache, config: Config, step: Step) -> Iterator[Attended]:
    """Layer by layer: the plan's last run, of a sequence as a whole, is repeated an operation at a time."""
    rows = int(step.rows[0])
    layers = zip(config.layers, kv.layers, strict=True)
    for op in plan.ops:
        op.kernel.run(op.args, 0, op.items * int(op.times[0]))
        if op.name == "rope_store":
            layer, held = next(layers)
            places = step.window_places if layer.window else step.places
            yield Attended(_queries(buffers, layer, rows), *cached(held, layer, places[:rows]))


def _queries(buffers: Buffers, layer: Layer, rows: int) -> F32Array:
    """From [KV head][max_rows][group][columns]."""
    group, columns = layer.n_head // layer.n_head_kv, pages.columns(layer.head_dim_k)
    every = buffers.queries(layer.n_head, columns).x[: buffers.max_rows * layer.n_head]
    q = every.reshape(layer.n_head_kv, buffers.max_rows, group, columns)[:, :rows, :, : layer.head_dim_k]
    return q.transpose(1, 0, 2, 3).reshape(rows, layer.n_head, layer.head_dim_k)


def cached(held: LayerCache, layer: Layer, places: I64Array) -> tuple[F32Array, F32Array]:
    """K and V of the tokens at `places` (page * PAGE + slot), decoded from a layer's pages."""

    held_pages, at = np.unique(places // pages.PAGE, return_inverse=True)
    rows = at * pages.PAGE + places % pages.PAGE
    sides = (
        (held.k_pool, held.k_page, pages.canonical_k, held.k_format, layer.head_dim_k),
        (held.v_pool, held.v_page, pages.canonical_v, held.v_format, layer.head_dim_v),
    )
    found = []
    for pool, nbytes, canonical, fmt, dim in sides:
        heads = pool.reshape(layer.n_head_kv, -1, nbytes)
        raw = [np.concatenate([canonical(head[page], fmt, dim) for page in held_pages]) for head in heads]
        found.append(np.stack([fmt.decode(blocks)[rows, :dim] for blocks in raw], axis=1))
    return found[0], found[1]
