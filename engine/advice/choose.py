"""Chooses the cache's types for a use: the smallest whose measured loss is negligible; measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ...models.cache.sizes import token_bytes
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.errors import UsageError

Results = Mapping[str, Mapping[str, Any]]
"""Results by the key of a study's cell: measure, task, context, K/V, rotation."""

TASKS: dict[str, tuple[tuple[str, ...], float]] = {
    "chat": (("prose", "questions"), 0.01),
    "qa": (("prose", "questions", "sums", "passkey"), 0.005),
    "code": (("prose", "sums", "copy"), 0.005),
    "long": (("prose", "passkey", "dictionary", "copy"), 0.003),
}
"""Uses: the studied tasks that resemble each, and the KL divergence above the noise (nats) that it may cost."""

SAFE = CacheSpec("q8_0", "q8_0")
"""The cache for models without a study: its loss was below the noise on every model that was measured."""


@dataclass(frozen=True)
class Choice:
    """A studied cache with its size and its loss."""

    cache: CacheSpec
    nbytes: int  # per token
    loss: float  # the largest mean KL divergence over the use's tasks
    worst: str  # the task and the context where it is largest

    def __str__(self) -> str:
        return self.cache.pair


@dataclass(frozen=True)
class Advice:
    """The chosen cache, and the other studied ones by size."""

    chosen: Choice
    noise: float  # the KL divergence of f16: rounding alone
    allowed: float  # nats above the noise
    enough: bool  # whether the chosen loss is allowed; if not, it is the least that fits
    others: list[Choice]


def advise(
    results: Results, config: Config, task: str, fits: Callable[[CacheSpec], bool] = lambda cache: True
) -> Advice | None:
    """Return advice by a study's results; None if no studied cache fits. fits: whether there is room for a cache."""
    tasks, allowed = TASKS[task]
    studied = sorted(choices(results, config, tasks), key=lambda choice: (choice.nbytes, choice.loss))
    fitting = [choice for choice in studied if fits(choice.cache)]
    if not fitting:
        return None
    noise = next((c.loss for c in studied if str(c) == "f16/f16"), 0.0)
    good = [choice for choice in fitting if choice.loss <= noise + allowed]
    chosen = good[0] if good else min(fitting, key=lambda choice: choice.loss)
    return Advice(chosen, noise, allowed, bool(good), [choice for choice in studied if choice is not chosen])


def choices(results: Results, config: Config, tasks: tuple[str, ...]) -> Iterator[Choice]:
    """Yield each studied cache, with its loss in the task and context where it is largest."""
    worst: dict[CacheSpec, Choice] = {}
    for key, result in results.items():
        words, loss = key.split(" "), result.get("kld_mean")
        if len(words) != 5 or not isinstance(loss, float) or not isfinite(loss):
            continue
        measure, task, context, pair, rotate = words
        if measure == "score" and task in tasks and result.get("samples") and "f32" not in pair:
            k, _, v = pair.partition("/")
            with suppress(UsageError):  # no cache of this model: the file was damaged or edited
                cache = CacheSpec(k, v, rotate)
                found = Choice(cache, token_bytes(config, cache), loss, f"{task} at {context} tokens")
                worst[cache] = max(found, worst.get(cache, found), key=lambda choice: (choice.loss, choice.worst))
    yield from worst.values()
