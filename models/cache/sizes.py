"""The bytes of the KV cache, of its tables and of a step's buffers: no other module computes them.

A head's values are counted as ggml stores them, padded to whole blocks of 32: that is what the pages hold and what
attention reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...kernels.formats.table import CACHE_TYPES, FORMATS, Format
from ...kernels.shapes import PAGE, columns, parts
from ..config import Config, Layer
from ..errors import UsageError, did_you_mean
from . import rotation
from .kinds import kinds, tables
from .marks import MARK
from .segments import Borders
from .spec import CacheSpec

PREFILL_ROWS = 512
"""Tokens of a prompt that go through the layers together, unless the caller names another number."""


def check(config: Config, spec: CacheSpec) -> None:
    """Raise UsageError for a cache that this model's layers or heads do not allow."""
    rotation.check(config, spec.rotate)
    token_bytes(config, spec)
    if spec.segments is not None:
        segment_bytes(config, spec)
        if not kinds(config)[0].layers:
            raise UsageError(f"--cache-policy {spec.policy}: all layers of this model have a window; leave it out")


def check_cache_type(config: Config, side: str, cache_type: str) -> Format:
    """Return the format named `cache_type` if this model's K (side "k") or V can be kept in it; raises UsageError."""
    flag = f"--cache-type-{side} {cache_type}"
    if cache_type not in CACHE_TYPES:
        raise UsageError(
            f"{flag}: unknown cache type; use one of {', '.join(CACHE_TYPES)}{did_you_mean(cache_type, CACHE_TYPES)}"
        )
    fmt = FORMATS[cache_type]
    for head_dim in sorted({head_size(layer, side) for layer in config.layers}):
        if head_dim % fmt.size:
            able = ", ".join(t for t in CACHE_TYPES if head_dim % FORMATS[t].size == 0)
            problem = f"this model's heads have {head_dim} values, not a multiple of {cache_type}'s block of {fmt.size}"
            raise UsageError(f"{flag}: {problem}; use one of {able}")
    return fmt


def head_size(layer: Layer, side: str) -> int:
    """Return the values of a head of K or of V."""
    return layer.head_dim_k if side == "k" else layer.head_dim_v


def layer_bytes(layer: Layer, side: str, fmt: Format) -> int:
    """Return the bytes that one token takes in K or in V of a layer."""
    return layer.n_head_kv * fmt.row_bytes(columns(head_size(layer, side)))


def side_bytes(config: Config, spec: CacheSpec, side: str, layers: Iterable[int] | None = None) -> int:
    """Return the bytes that one token takes in K or in V, in these layers or in all; raises UsageError."""
    types = spec.side(side, config.n_layer)
    formats = {name: check_cache_type(config, side, name) for name in dict.fromkeys(types)}  # each looks at all layers
    numbers = range(config.n_layer) if layers is None else layers
    return sum(layer_bytes(config.layers[i], side, formats[types[i]]) for i in numbers)


def token_bytes(config: Config, spec: CacheSpec, layers: Iterable[int] | None = None) -> int:
    """Return the bytes that one token takes in K and V, in these layers or in all; raises UsageError."""
    numbers = None if layers is None else tuple(layers)
    return side_bytes(config, spec, "k", numbers) + side_bytes(config, spec, "v", numbers)


def cache_bytes(config: Config, spec: CacheSpec, n_ctx: int, *, n_batch: int = PREFILL_ROWS, sequences: int = 1) -> int:
    """Return the bytes of a cache that holds n_ctx tokens of all sequences together; raises UsageError."""
    found = tables(config, spec.borders, n_ctx, n_batch, sequences)
    each = segment_bytes(config, spec)
    return sum(table.pool * PAGE * nbytes for table, nbytes in zip(found, each, strict=True))


def segment_bytes(config: Config, spec: CacheSpec) -> list[int]:
    """Return the bytes that one token takes in each table of a sequence, in the order of `tables`; raises UsageError.

    That is one for each kind of layers and, with segments, one for the tail and one for the sink. Where tokens of the
    body are chosen, those of body and tail have marks too (see marks.py).
    """
    each, s = kinds(config), spec.segments
    found = [token_bytes(config, spec, kind.layers) for kind in each]
    if s is not None:
        for segment in (s.tail, s.sink):
            other = CacheSpec(segment.k or spec.k, segment.v or spec.v)
            found.append(token_bytes(config, other, each[0].layers))
        if s.keep is not None:
            marks = MARK * sum(config.layers[i].n_head_kv for i in each[0].layers)
            found[0], found[-2] = found[0] + marks, found[-2] + marks
    return found


def held_bytes(config: Config, spec: CacheSpec, tokens: int, *, windows: bool = True) -> int:
    """Return the bytes that a sequence of n tokens takes and attention reads, in part pages; raises UsageError.

    windows: False leaves out the layers with a sliding window.
    """
    s, each = spec.segments, segment_bytes(config, spec)
    held = [min(tokens, kind.window if windows else 0) if kind.window else tokens for kind in kinds(config)]
    if s is not None:
        sink, body = (PAGE * n for n in s.borders.whole(tokens))
        held = [body, *held[1:], tokens - PAGE * s.borders.left(tokens), sink]
    return sum(n * nbytes for n, nbytes in zip(held, each, strict=True))


def computed_bytes(config: Config, spec: CacheSpec, bits: Callable[[str, int, int], float], tokens: int) -> float:
    """Return the bytes that n tokens would take in a format that has no kernel, in layers without a sliding window.

    spec: its policy says which tokens lie in sink and tail, which are counted as f16. bits: those of a value of K ("k")
    or V in the body, by side, KV heads and head_dim.
    """
    assert spec.borders is not None
    body, found = PAGE * spec.borders.whole(tokens)[1], 0.0
    for i in kinds(config)[0].layers:
        layer = config.layers[i]
        for side in "kv":
            size = head_size(layer, side)
            each = body * bits(side, layer.n_head_kv, size) + (tokens - body) * 16
            found += layer.n_head_kv * size * each / 8
    return found


def position_bytes(config: Config) -> int:
    """Return the bytes that one position takes in the tables over positions: cosines, sines and scales."""
    ropes = {layer.rope for layer in config.layers if layer.rope}
    scales = {layer.scale for layer in config.layers}
    return 4 * sum(rope.dim for rope in ropes) + 4 * len(scales)


def sums_places(sequence_ctx: int, sequences: int = 1, n_batch: int = 0, borders: Borders | None = None) -> int:
    """Return the places for the sums of attention: one for each row of a prompt, and one for each part that a decode
    row sees; with segments, one for each part that any row sees.

    sequence_ctx: tokens that each sequence can have.
    """
    if borders is None:
        return n_batch + sequences * parts(sequence_ctx)
    body = sequence_ctx if borders.most is None else min(sequence_ctx, PAGE * borders.most)
    return n_batch * (parts(PAGE * borders.sink) + parts(body) + parts(PAGE * borders.tail))


def sums_bytes(config: Config) -> int:
    """Return the bytes of such a place."""
    return 4 * config.n_head * (columns(config.head_dim_v) + 32)


def buffer_bytes(config: Config, rows: int = PREFILL_ROWS, logits: int = 8, threads: int = 8) -> int:
    """Return the bytes of a step's buffers, at most: `rows` tokens, `logits` rows of logits, scratch of the threads.

    An upper estimate of models/forward/rows.py and mixture.py on any CPU. What enters a product is there as float32, as
    int8 with scales, and as bfloat16; most buffers have up to 31 rows and columns more than they need.
    """
    c, ff = config, config.expert_feed_forward_length
    k, v = columns(c.head_dim_k), columns(c.head_dim_v)
    queries, values, n_ff = c.n_head * k, c.n_head * v, 0 if c.expert_count else c.n_ff
    inputs = 2 * c.n_embd + queries + values + n_ff
    outputs = queries + c.n_head_kv * (k + v) + 2 * n_ff + 2 * c.n_embd + c.expert_count + 8 * 31
    pair = 7.5 * (c.n_embd + ff) + 4 * (c.n_embd + 2 * ff)  # of a row and one of its experts
    row = 7.5 * inputs + 4 * outputs + c.expert_used_count * pair
    vectors = max(96, c.n_head // c.n_head_kv) + 32  # of queries, which a thread takes through the pages together
    thread = vectors * (4 * (k + v) + 640) + 256 * k + 512 * v + 64 * (c.n_embd + values + n_ff) + 1024
    padded = max(rows + 8, -(-rows // 32) * 32)
    each = int(padded * row) + rows * sums_bytes(c)
    return each + 4 * (logits + 31) * (c.n_vocab + 31) + threads * thread
