"""The bytes of the KV cache, by the formats of its layers: the only arithmetic there is of them."""

from __future__ import annotations

from ...kernels.formats.table import CACHE_TYPES, FORMATS, Format
from ..config import Config, Layer
from ..errors import UsageError
from . import layer_map


def check_cache_type(config: Config, side: str, cache_type: str) -> Format:
    """The format named `cache_type`, if the cache of the `side` "k" or "v" can be kept in it; raises UsageError."""
    flag = f"--cache-type-{side} {cache_type}"
    if cache_type not in CACHE_TYPES:
        raise UsageError(f"{flag}: unknown cache type; use one of {', '.join(CACHE_TYPES)}")
    fmt = FORMATS[cache_type]
    for head_dim in sorted({_head_dim(layer, side) for layer in config.layers}):
        if head_dim % fmt.size:
            able = ", ".join(t for t in CACHE_TYPES if head_dim % FORMATS[t].size == 0)
            problem = f"this model's heads have {head_dim} values, not a multiple of {cache_type}'s block of {fmt.size}"
            raise UsageError(f"{flag}: {problem}; use one of {able}")
    return fmt


def side_bytes_per_token(config: Config, side: str, types: str, *, windows: bool | None = None) -> int:
    """Bytes that the K (side "k") or V (side "v") of one token take in all layers together; raises UsageError.

    types: a type, or a map of types by layer. windows: only of layers with a sliding window, or only of those without.
    """
    formats = [check_cache_type(config, side, name) for name in layer_map.types(side, types, config.n_layer)]
    each = zip(config.layers, formats, strict=True)
    return sum(
        layer.n_head_kv * fmt.row_bytes(_head_dim(layer, side))
        for layer, fmt in each
        if windows is None or windows == (layer.window > 0)
    )


def kv_bytes_per_token(config: Config, k_types: str, v_types: str, *, windows: bool | None = None) -> int:
    """Bytes that one token takes in the KV cache, in all layers together; raises UsageError. windows: as above."""
    k = side_bytes_per_token(config, "k", k_types, windows=windows)
    return k + side_bytes_per_token(config, "v", v_types, windows=windows)


def _head_dim(layer: Layer, side: str) -> int:
    return layer.head_dim_k if side == "k" else layer.head_dim_v
