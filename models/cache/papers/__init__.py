"""Formats of the papers in NumPy, a file each, which --cache-policy takes by name; a file is found by being here.

A file has
- `policy(k, v, layer, position, n)`, as a user's own file has it (docs/policies.md): K and V of a full page, (tokens,
  KV heads, head_dim) in float32, as they would be read back; `n` is the bits of an integer.
- `bits(side, heads, head_dim, n)`: the bits that a value of K ("k") or V takes, with scales, zero points, outliers and
  what else a page would have to hold.
- `BITS`, the values of n, the paper's first; `kivi4` is `kivi` with n = 4.
- `SINK`, `TAIL`: tokens that the paper keeps in 16 bits at both ends.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Paper:
    """A policy of a paper, with the bits of its integers chosen."""

    name: str
    policy: Callable[[F32Array, F32Array, int, int], tuple[F32Array, F32Array]]
    bits: Callable[[str, int, int], float]  # of a value, by side, KV heads and head_dim
    sink: int  # tokens
    tail: int


def names() -> list[str]:
    """Return the names of the files; imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def variants() -> list[str]:
    """Return all names that `find` knows: each file's, and with the bits that are not its first."""
    return [f"{name}{n}" for name in names() for n in ("", *_module(name).BITS[1:])]


def find(name: str) -> Paper | None:
    """Return the policy of this name, or None."""
    match = re.fullmatch(r"([a-z_]+)(\d?)", name)
    if match is None or match[1] not in names():
        return None
    module = _module(match[1])
    n = int(match[2] or module.BITS[0])
    if n not in module.BITS:
        return None
    return Paper(name, partial(module.policy, n=n), partial(module.bits, n=n), module.SINK, module.TAIL)


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")
