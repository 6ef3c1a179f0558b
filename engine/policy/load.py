"""The function of a policy, which changes K and V or chooses tokens: a paper's, or the user's own, from a file or a
caller."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...models.cache import evictions, papers
from ...models.cache.evictions import Eviction
from ...models.cache.segments import Segments
from ...models.cache.spec import CacheSpec
from ...models.errors import UsageError
from .what_if import WhatIf

FUNCTION = "policy"
"""The name of the function in the user's file that changes K and V."""
SCORE = "score"
"""The name of the one that chooses tokens."""


def load(path: str) -> WhatIf:
    """Return a paper's function by its name, or that named `policy` of a Python file, which is run for that.

    Raises UsageError.
    """
    if paper := papers.find(path):
        return paper.policy
    function: WhatIf = _named_in(path, FUNCTION, "(k, v, layer, position): return k, v")[0]
    return function


def eviction(segments: Segments) -> Eviction:
    """Return the policy that chooses tokens, a paper's or the user's own, by its name. Raises UsageError."""
    if found := evictions.find(segments.name):
        return found
    score, rest = _named_in(segments.name, SCORE, "(seen): return seen.mass")
    rows = rest.get("ROWS", "all")
    if rows not in evictions.ROWS:
        raise UsageError(f"--cache-policy {segments.name}: ROWS is {rows!r}, must be 'all', 'page' or ''")
    return Eviction(segments.name, score, segments.keep or 0, 0, 0, rows)


def _named_in(path: str, name: str, example: str) -> tuple[Any, dict[str, Any]]:
    """Run a Python file, and return its function of this name, and all that it defines."""
    if not Path(path).is_file():
        raise UsageError(f"--cache-policy {path}: there is no such file")
    try:
        found = runpy.run_path(path, run_name="pyllm_policy")
    except (Exception, SystemExit) as error:  # whatever the user's code does
        raise UsageError(f"--cache-policy {path}: raised {type(error).__name__}: {error}") from error
    if not callable(found.get(name)):
        raise UsageError(f"--cache-policy {path}: has no function named {name}; write def {name}{example}")
    return found[name], found


def choose(
    cache: CacheSpec | None, k: str, v: str, rotate: str, policy: str, function: WhatIf | None
) -> tuple[CacheSpec, WhatIf | None]:
    """Return the cache that the arguments of an LLM ask for, and the function that changes its K and V, if any."""
    if cache is not None and CacheSpec(k, v, rotate, policy) != CacheSpec():
        raise UsageError("cache: says types, rotation and policy; leave out cache_type_k and its like")
    if function is not None:
        base = cache or CacheSpec(k, v, rotate)
        return replace(base, policy=_named(cache.policy if cache else policy, function)), function
    spec = cache or CacheSpec(k, v, rotate, policy)
    return spec, load(spec.segments.function) if spec.segments and spec.segments.function else None


def _named(policy: str, function: WhatIf) -> str:
    """Return the text of a policy whose body a function changes; raises UsageError."""
    first = policy.partition(",")[0]
    if first and "=" not in first:
        if first.endswith(".py"):
            return policy
        raise UsageError(f"what_if: changes what lies between sink and tail, as {policy} does; leave one out")
    return ",".join([f"{getattr(function, '__name__', FUNCTION)}.py", *([policy] if policy else [])])
