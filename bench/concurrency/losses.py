"""What caches cost in nats: from the model's study where it has them, else from a few windows of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...engine.llm import LLM
from ...models.cache.spec import CacheSpec
from ..quality import divergence
from ..quality.caches import EXACT
from ..quality.divergence import Divergence
from ..quality.scoring import divergences
from ..study.cells import Cell

WINDOW, WINDOWS = 512, 2
"""Tokens of a window, and windows, of a quick measurement."""

Open = Callable[[CacheSpec], LLM]
"""Opens an engine for WINDOW tokens."""


def studied(results: Mapping[str, Mapping[str, Any]], cache: CacheSpec) -> dict[str, Any] | None:
    """Return the loss of a cache in a study's results; None if it was not studied."""
    found = results.get(Cell("score", "prose", WINDOW, cache).key)
    if not found or not found.get("samples"):
        return None
    return {"kld": found["kld_mean"], "error": found["kld_error"], "from": "study"}


def measured(open: Open, caches: Sequence[CacheSpec], windows: Sequence[Sequence[int]]) -> dict[str, dict[str, Any]]:
    """Return the KL divergence of caches from an f32 cache over windows of text, by the caches' keys."""
    engines = [open(cache) for cache in (EXACT, *caches)]
    try:
        exact, *others = [engine.session() for engine in engines]
        parts: list[list[Divergence]] = [[] for _ in others]
        for window in windows:
            found = divergences(exact, others, window, len(window) // 2)
            for mine, part in zip(parts, found, strict=True):
                mine.append(part)
    finally:
        for engine in engines:
            engine.close()
    results = {}
    for cache, mine in zip(caches, parts, strict=True):
        whole = divergence.statistics(Divergence.joined(mine))
        results[cache.key] = {"kld": whole["kld_mean"], "error": whole["kld_error"], "from": "measured"}
    return results
