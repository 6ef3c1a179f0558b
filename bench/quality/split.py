"""Bits where they count: a type for K and for V in each layer, for a number of bytes and a loss by layer.

Greedy, as KV-AdaQuant fills its budget: all begin with the fewest bits, and the step that saves most loss per byte is
taken next. A layer's loss shrinks by a factor of 4 with each bit, as a rounding error's square does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...kernels.formats.table import FORMATS
from ...models.config import Config


def allocate(
    loss: Mapping[tuple[str, int], float], types: Sequence[str], config: Config, nbytes: int
) -> dict[str, list[str]]:
    """Types by side ("k", "v") and layer, of `nbytes` per token at most where the smallest fit.

    loss: by (side, layer).
    """
    ladder = sorted(dict.fromkeys(types), key=lambda t: FORMATS[t].bits_per_value)
    at = dict.fromkeys(loss, 0)
    left = nbytes - sum(_bytes(config, *place, ladder[0]) for place in at)
    while True:
        steps = [
            (_gain(loss[place], ladder[i], ladder[j]) / cost, place, j, cost)
            for place, i in at.items()
            for j in range(i + 1, len(ladder))
            if (cost := _bytes(config, *place, ladder[j]) - _bytes(config, *place, ladder[i])) <= left and cost
        ]
        if not steps:
            return {side: [ladder[at[side, i]] for i in range(config.n_layer)] for side in "kv"}
        _, place, to, cost = max(steps, key=lambda step: (step[0], step[1]))
        at[place], left = to, left - cost


def _gain(loss: float, before: str, after: str) -> float:
    return max(loss, 0.0) * float(4.0 ** -_bits(before) - 4.0 ** -_bits(after))


def _bits(name: str) -> float:
    """Of precision: a floating-point number's mantissa counts."""
    return float(FORMATS[name].bits or {"f32": 24, "f16": 11, "bf16": 8}[name])


def _bytes(config: Config, side: str, i: int, name: str) -> int:
    layer = config.layers[i]
    return layer.n_head_kv * FORMATS[name].row_bytes(layer.head_dim_k if side == "k" else layer.head_dim_v)
