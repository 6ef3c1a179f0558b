"""Cache types by layer: turns `0-1:f16,2-27:q4_0,-2:f16` into a type for each layer; knows no model but its n_layer.

`-2` means the last two layers, `*` all layers that no other entry names; --cache-type-k (or v) beside a map means the
same as `*`. Without either, every layer must be named, so that a map made for another model is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ...kernels.formats.table import CACHE_TYPES
from ..errors import UsageError, did_you_mean

DEFAULT = "f16"
"""The cache's type where no flag names one."""

_ENTRY = re.compile(r"(?:(\*)|-(\d{1,6})|(\d{1,6})(?:-(\d{1,6}))?):(\w+)", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """A type for layers `first` to `last`, which count from the end if negative; or for all layers without another."""

    text: str
    cache_type: str
    first: int = 0
    last: int = 0
    rest: bool = False


def parse(text: str) -> list[Entry]:
    """Return the entries of a map, or of a single type for all layers; raises ValueError for a malformed one."""
    if text in CACHE_TYPES:
        return [Entry(f"*:{text}", text, rest=True)]
    return [_entry(part.strip()) for part in text.split(",")]


def _entry(item: str) -> Entry:
    match = _ENTRY.fullmatch(item)
    if match is None:
        raise ValueError(f"{item[:40]!r} must be layers and a type: 0-1:f16, 7:q8_0 or, the last two, -2:f16")
    star, from_end, first, last, cache_type = match.groups()
    if cache_type not in CACHE_TYPES:
        known = f"use one of {', '.join(CACHE_TYPES)}{did_you_mean(cache_type, CACHE_TYPES)}"
        raise ValueError(f"{item[:40]!r}: {cache_type} is no cache type; {known}")
    if star:
        return Entry(item, cache_type, rest=True)
    span = (-int(from_end), -1) if from_end else (int(first), int(last or first))
    if span[1] < span[0] or from_end == "0":
        raise ValueError(f"{item[:40]!r} names no layer")
    return Entry(item, cache_type, *span)


def resolve(flag: str, entries: Sequence[Entry], n_layer: int) -> tuple[str, ...]:
    """Return a type for each of n_layer layers; raises UsageError if one has no entry, or two, or does not exist."""
    found: list[Entry | None] = [None] * n_layer
    rest: Entry | None = None
    for entry in entries:
        if entry.rest:
            if rest is not None:
                raise UsageError(f"{flag}: {rest.text} and {entry.text} both say the rest's type; say it once")
            rest = entry
            continue
        first, last = (n_layer + i if i < 0 else i for i in (entry.first, entry.last))
        if first < 0 or last >= n_layer:
            raise UsageError(f"{flag} {entry.text}: this model has {n_layer} layers, 0 to {n_layer - 1}")
        for i in range(first, last + 1):
            if (other := found[i]) is not None:
                raise UsageError(f"{flag}: both {other.text} and {entry.text} name layer {i}; name each layer once")
            found[i] = entry
    unnamed = [i for i, entry in enumerate(found) if entry is None]
    if unnamed and rest is None:
        layers, side = ", ".join(_ranges(unnamed)), flag.removesuffix("-layers")
        raise UsageError(f"{flag}: no type for layer {layers}; name them, or give the others' type with {side}")
    return tuple((entry or rest).cache_type for entry in found)  # type: ignore[union-attr]


def merged(cache_type: str | None, layers: str | None) -> str:
    """Return one map for the values of --cache-type-k and --cache-type-k-layers (or v); f16 without either."""
    if layers is None:
        return cache_type or DEFAULT
    return f"{layers},*:{cache_type}" if cache_type else layers


def normal(side: str, text: str) -> str:
    """Return a map in its normal form: entries sorted, or only a type if the map is `*:TYPE`; raises UsageError.

    Entries are not merged: where those that count from the end lie is known only with the model.
    """
    try:
        entries = parse(text)
    except ValueError as error:
        raise UsageError(f"--cache-type-{side}: {error}") from None
    named, rest = [e for e in entries if not e.rest], [e for e in entries if e.rest]
    if not named and len(rest) == 1:
        return rest[0].cache_type
    named.sort(key=lambda e: (e.first < 0, e.first, e.last))
    return ",".join(e.text for e in [*named, *rest])


def types(side: str, text: str, n_layer: int) -> tuple[str, ...]:
    """Return the type of each layer, from a map or a single type; raises UsageError."""
    flag = f"--cache-type-{side}"
    try:
        entries = parse(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None
    return resolve(flag if len(entries) == 1 and entries[0].rest else f"{flag}-layers", entries, n_layer)


def written(types: Sequence[str]) -> str:
    """Return the map that gives each layer its type."""
    entries, first = [], 0
    for cache_type, run in groupby(types):
        last = first + len(list(run)) - 1
        entries.append(f"{first}-{last}:{cache_type}" if last > first else f"{first}:{cache_type}")
        first = last + 1
    return ",".join(entries)


def _ranges(numbers: Sequence[int]) -> list[str]:
    marked = written(["y" if i in set(numbers) else "n" for i in range(max(numbers) + 1)])
    return [part.removesuffix(":y") for part in marked.split(",") if part.endswith(":y")]
