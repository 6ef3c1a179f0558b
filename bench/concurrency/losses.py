"""What caches cost in nats: a cell of `pyllm study kv` each, from a study where there is one, else measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ..study.cells import Cell
from ..study.measure import Bench, groups, measure

WINDOW = 512
"""Tokens of a text; its second half is scored."""


def window(config: Config) -> int:
    """Return the tokens of a text: WINDOW, or as many as the model was trained for."""
    return min(WINDOW, config.n_ctx_train)


def losses(
    bench: Bench, caches: Sequence[CacheSpec], studied: Mapping[str, Mapping[str, Any]]
) -> dict[CacheSpec, dict[str, Any]]:
    """Return the KL divergence of each cache from an f32 cache, and its error. studied: a study's results.

    Caches whose texts have too few tokens are left out. Raises FitError.
    """
    cells = {cache: Cell("score", "prose", window(bench.caches.config), cache) for cache in caches}
    found = {cell.key: {**known, "from": "study"} for cell in cells.values() if (known := studied.get(cell.key))}
    for group in groups(bench, [cell for cell in cells.values() if cell.key not in found]):
        found |= {key: {**result, "from": "measured"} for key, result in measure(bench, group).items()}
    return {
        cache: {"kld": result["kld_mean"], "error": result["kld_error"], "from": result["from"]}
        for cache, cell in cells.items()
        if (result := found[cell.key]).get("samples")
    }
