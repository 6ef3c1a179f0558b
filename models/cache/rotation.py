"""Which sides of the cache are rotated before they are stored, and in blocks of which size: llama.cpp's rule.

A side is rotated if its type is quantized and its heads are whole blocks of 64 values. The blocks of K (and with it Q)
are the largest power of two that divides a head, those of V have 64 values.
"""

from __future__ import annotations

from ...kernels.formats.table import Format
from ..config import Config, Layer
from ..errors import UsageError

BLOCK = 64
MODES = {"auto": "kv", "k": "k", "v": "v", "both": "kv", "none": ""}
"""The values of --cache-rotate, and the sides that they name. `auto` skips heads that are not whole blocks of 64."""


def check(config: Config, mode: str) -> None:
    """Raise UsageError if `mode` asks to rotate heads that are not whole blocks of 64 values."""
    if mode == "auto":
        return
    for side in MODES[mode]:
        for head in sorted({layer.head_dim_k if side == "k" else layer.head_dim_v for layer in config.layers}):
            if head % BLOCK:
                problem = f"this model's heads have {head} values of {side.upper()}, not a multiple of {BLOCK}"
                raise UsageError(f"--cache-rotate {mode}: {problem}; use auto or none")


def sizes(mode: str, layer: Layer, k: Format, v: Format) -> tuple[int, int]:
    """Return the values in a rotated block of K and of V; 0 for a side that is not rotated."""
    return (
        layer.head_dim_k & -layer.head_dim_k if "k" in MODES[mode] and _worth(k, layer.head_dim_k) else 0,
        BLOCK if "v" in MODES[mode] and _worth(v, layer.head_dim_v) else 0,
    )


def _worth(fmt: Format, head_dim: int) -> bool:
    return fmt.size > 1 and head_dim % BLOCK == 0
