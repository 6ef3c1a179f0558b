"""Policies that choose which tokens stay, a file each; --cache-policy takes their names, and a file here is found.

A file has
- `score(seen)`, as a user's own file has it (docs/policies.md): float32 (KV heads, tokens). Of each head, the tokens
  with the highest scores stay, as many as the body holds; of equal ones the first.
- `KEEP`, `TAIL`, `SINK`: the paper's tokens in the body, and in 16 bits at both ends.
- `ROWS`: whose weights in attention `seen.mass` counts: those of "all" rows so far, of the last "page" of rows, or of
  none (""), which takes no time.

Choices are made whenever a page leaves the tail and the body is full, in prompts too, so the memory is bounded from the
first token on. Papers that choose once, after a whole prompt, see more and hold more meanwhile.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ..seen import F32Array, Seen

Score = Callable[[Seen], F32Array]
ROWS = ("all", "page", "")


@dataclass(frozen=True)
class Eviction:
    """A policy that chooses which tokens stay."""

    name: str
    score: Score
    keep: int  # tokens
    sink: int
    tail: int
    rows: str = "all"


def names() -> list[str]:
    """Return the names of the files; imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Eviction | None:
    """Return the policy of this name, or None."""
    if name not in names():
        return None
    module = import_module(f"{__name__}.{name}")
    return Eviction(name, module.score, module.KEEP, module.SINK, module.TAIL, module.ROWS)
