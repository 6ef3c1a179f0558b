"""Reads the queries, keys and values of a step where the kernels hold them; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels import pages
from ...kernels.plan import Plan
from ...kernels.shapes import PAGE, columns
from ..cache.store import KVCache, LayerCache
from ..config import Config, Layer
from .rows import Buffers
from .step import Step

F32Array = npt.NDArray[np.float32]
I64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Attended:
    """Q, K and V of one layer, rotated if its cache is. The queries are those of the step's tokens."""

    q: F32Array  # (rows, heads, head_dim_k), scaled
    k: F32Array  # (tokens, KV heads, head_dim_k)
    v: F32Array  # (tokens, KV heads, head_dim_v)


def attended(plan: Plan, buffers: Buffers, kv: KVCache, config: Config, step: Step) -> Iterator[Attended]:
    """Repeat the plan's last run, one operation at a time, and yield what each layer's attention reads."""
    rows = int(step.rows[0])
    layers = zip(config.layers, map(kv.stored, range(config.n_layer)), strict=True)
    for op in plan.ops:
        op.kernel.run(op.args, 0, op.items * int(op.times[0]))
        if op.name == "rope_store":
            layer, held = next(layers)
            yield Attended(queries_of(buffers, layer, rows), *cached(held, layer, step.slots[held.kind, :rows]))


def queries_of(buffers: Buffers, layer: Layer, rows: int) -> F32Array:
    """Return the queries of a step of `rows` tokens in a layer: (rows, heads, head_dim_k)."""
    group, width = layer.n_head // layer.n_head_kv, columns(layer.head_dim_k)
    every = buffers.queries(layer.n_head, width).x[: buffers.max_rows * layer.n_head]
    q = every.reshape(layer.n_head_kv, buffers.max_rows, group, width)[:, :rows, :, : layer.head_dim_k]
    return q.transpose(1, 0, 2, 3).reshape(rows, layer.n_head, layer.head_dim_k)


def cached(held: LayerCache, layer: Layer, slots: I64Array) -> tuple[F32Array, F32Array]:
    """Return K and V of the tokens at `slots` (page * PAGE + index), decoded: (tokens, KV heads, head_dim) each."""
    held_pages, at = np.unique(slots // PAGE, return_inverse=True)
    rows = at * PAGE + slots % PAGE
    sides = (
        (held.k_pool, held.k_page, pages.canonical_k, held.k_format, layer.head_dim_k),
        (held.v_pool, held.v_page, pages.canonical_v, held.v_format, layer.head_dim_v),
    )
    found = []
    for pool, nbytes, canonical, fmt, dim in sides:
        heads = pool.reshape(layer.n_head_kv, -1, nbytes)
        raw = [canonical(head[held_pages], fmt, dim) for head in heads]
        found.append(np.stack([fmt.decode(blocks)[rows, :dim] for blocks in raw], axis=1))
    return found[0], found[1]


def softmax_weights(q: F32Array, k: F32Array, layer: Layer, row: int, first: int = 0) -> F32Array:
    """Return softmax(Q·Kᵀ), in plain NumPy, of queries that begin at position `row` and keys that begin at `first`.

    q: (rows, heads, head_dim_k), scaled; k: (tokens, KV heads, head_dim_k); result: float32 (rows, heads, tokens). It
    has the layer's window and soft cap, but not its sinks.
    """
    scores = np.einsum("rhd,thd->rht", q, np.repeat(k, layer.n_head // layer.n_head_kv, axis=1))
    if layer.softcap:
        scores = layer.softcap * np.tanh(scores / layer.softcap)
    back = np.arange(row, row + len(q))[:, None] - np.arange(first, first + len(k))
    seen = (back >= 0) & ((back < layer.window) if layer.window else True)
    scores = np.where(seen[:, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found: F32Array = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    return found
