"""Spends bits where they count: chooses a type for K and for V in each layer, within a budget of bytes per token.

The choice is greedy, as in KV-AdaQuant: every layer begins with the fewest bits, and the step that saves the most
loss per byte is taken next. A layer's loss is assumed to shrink by a factor of 4 with each bit, as the square of a
rounding error does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...kernels.formats.table import FORMATS
from ...models.cache.sizes import layer_bytes
from ...models.config import Config


def allocate(
    loss: Mapping[tuple[str, int], float], types: Sequence[str], config: Config, nbytes: int
) -> dict[str, list[str]]:
    """Return a type for each layer, by side ("k", "v"), of at most `nbytes` per token if the smallest types fit.

    loss: that of one layer's K or V, by (side, layer).
    """

    def taken(which: tuple[str, int], name: str) -> int:
        side, i = which
        return layer_bytes(config.layers[i], side, FORMATS[name])

    ladder = sorted(dict.fromkeys(types), key=lambda t: FORMATS[t].bits_per_value)
    at = dict.fromkeys(loss, 0)
    left = nbytes - sum(taken(which, ladder[0]) for which in at)
    while True:
        steps = [
            (_gain(loss[which], ladder[i], ladder[j]) / cost, which, j, cost)
            for which, i in at.items()
            for j in range(i + 1, len(ladder))
            if (cost := taken(which, ladder[j]) - taken(which, ladder[i])) <= left and cost
        ]
        if not steps:
            return {side: [ladder[at[side, i]] for i in range(config.n_layer)] for side in "kv"}
        _, which, to, cost = max(steps, key=lambda step: (step[0], step[1]))
        at[which], left = to, left - cost


def _gain(loss: float, before: str, after: str) -> float:
    return max(loss, 0.0) * float(4.0 ** -_bits(before) - 4.0 ** -_bits(after))


def _bits(name: str) -> float:
    """Return the bits of precision; of a floating-point format these are its mantissa's."""
    return float(FORMATS[name].bits or {"f32": 24, "f16": 11, "bf16": 8}[name])
