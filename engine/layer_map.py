"""Cache types by layer: `0-1:f16,2-27:q4_0,-2:f16` becomes a type for each layer; knows no model, only how many layers.

`-2` is the last two layers. Layers that no entry names take the type of --cache-type-k or -v where that is given too;
otherwise every layer must be named, so that a map made for another model is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ..models.config import CacheTypes
from ..models.errors import UsageError

DEFAULT = "f16"
"""The cache's type where no flag says another."""

_ENTRY = re.compile(r"(?:(\d{1,6})(?:-(\d{1,6}))?|-(\d{1,6})):(\w+)", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """A type for layers `first` to `last`; the last -`first` ones where that is negative."""

    text: str
    first: int
    last: int
    cache_type: str


def parse(text: str, known: Sequence[str]) -> list[Entry]:
    """The entries of a map, each right by itself; raises ValueError."""
    found = []
    for item in (part.strip() for part in text.split(",")):
        match = _ENTRY.fullmatch(item)
        if match is None:
            raise ValueError(
                f"{item[:40]!r} must be layers and a type, such as 0-1:f16, 7:q8_0 or (the last two) -2:f16"
            )
        if match[4] not in known:
            raise ValueError(f"{item[:40]!r}: {match[4]} is no cache type; use one of {', '.join(known)}")
        if match[3] is not None:
            first, last = -int(match[3]), -1
        else:
            first, last = int(match[1]), int(match[2] or match[1])
        if last < first or match[3] == "0":
            raise ValueError(f"{item[:40]!r} names no layer")
        found.append(Entry(item, first, last, match[4]))
    return found


def resolve(flag: str, entries: Sequence[Entry], n_layer: int, rest: str | None) -> list[str]:
    """A type for each layer. rest: that of layers which no entry names; None: there must be none. Raises UsageError."""
    found: list[Entry | None] = [None] * n_layer
    for entry in entries:
        first, last = (n_layer + i if i < 0 else i for i in (entry.first, entry.last))
        if first < 0 or last >= n_layer:
            raise UsageError(f"{flag} {entry.text}: this model has {n_layer} layers, 0 to {n_layer - 1}")
        for i in range(first, last + 1):
            if (other := found[i]) is not None:
                raise UsageError(f"{flag}: both {other.text} and {entry.text} name layer {i}; name each layer once")
            found[i] = entry
    unnamed = [i for i, entry in enumerate(found) if entry is None]
    if unnamed and rest is None:
        layers = ", ".join(_ranges(unnamed))
        side = flag.removesuffix("-layers")
        raise UsageError(f"{flag}: no type for layer {layers}; name them, or give the others' type with {side}")
    return [entry.cache_type if entry else str(rest) for entry in found]


def side_types(side: str, cache_type: str | None, entries: Sequence[Entry] | None, n_layer: int) -> CacheTypes:
    """What --cache-type-k and --cache-type-k-layers (or v) say together; without either, f16."""
    if entries is None:
        return cache_type or DEFAULT
    return tuple(resolve(f"--cache-type-{side}-layers", entries, n_layer, cache_type))


def written(types: Sequence[str]) -> str:
    """A map that says a type for each layer."""
    entries, first = [], 0
    for cache_type, run in groupby(types):
        last = first + len(list(run)) - 1
        entries.append(f"{first}-{last}:{cache_type}" if last > first else f"{first}:{cache_type}")
        first = last + 1
    return ",".join(entries)


def _ranges(numbers: Sequence[int]) -> list[str]:
    marked = written(["y" if i in set(numbers) else "n" for i in range(max(numbers) + 1)])
    return [part.removesuffix(":y") for part in marked.split(",") if part.endswith(":y")]
