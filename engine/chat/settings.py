"""What `/set` changes: the sampling parameters by their flags' names."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from ...models.errors import UsageError
from ..sampler import SamplingParams

NAMES = {
    "temp": "temperature",
    "top-k": "top_k",
    "top-p": "top_p",
    "min-p": "min_p",
    "repeat-penalty": "repeat_penalty",
    "seed": "seed",
    "n": "max_tokens",
}
ALSO = {"temperature": "temp", "predict": "n", "n-predict": "n", "num-predict": "n", "max-tokens": "n"}
LARGEST = 2**32 - 1  # of whole numbers, as for the flags


def rows(params: SamplingParams, seed: int) -> list[tuple[str, str]]:
    """Return the names and their values; seed: the one in use."""
    table = [(name, f"{getattr(params, field):g}") for name, field in NAMES.items() if name != "seed"]
    return [*table, ("seed", str(seed) if params.seed >= 0 else f"-1 (a random one: {seed})")]


def changed(params: SamplingParams, name: str, text: str) -> SamplingParams:
    """Return the parameters with another value of one of them; raises UsageError."""
    given, name = name, name.lower().lstrip("-").replace("_", "-")
    name = ALSO.get(name, name)
    if name not in NAMES:
        near = get_close_matches(name, NAMES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"/set {given[:40]}: no such setting; {hint}there are {', '.join(NAMES)}")
    if not text:
        raise UsageError(f"/set {name} VALUE: give a value, such as {getattr(SamplingParams(), NAMES[name]):g}")
    whole = isinstance(getattr(params, NAMES[name]), int)
    try:
        value: Any = int(text) if whole else float(text)
    except ValueError:
        raise UsageError(f"/set {name}: {text[:40]!r} must be a {'whole ' if whole else ''}number") from None
    if whole and value > LARGEST:
        raise UsageError(f"/set {name}: {text[:40]!r} must be {LARGEST} or less")
    try:
        return replace(params, **{NAMES[name]: value})
    except UsageError as error:
        raise UsageError(f"/set {name}: {str(error).partition(': ')[2]}") from None
