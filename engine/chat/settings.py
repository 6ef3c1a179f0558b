"""What `/set` changes: the sampling parameters by their flags' names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...models.errors import UsageError, did_you_mean
from ..sampler import SamplingParams

NAMES = {
    "temp": "temperature",
    "top-k": "top_k",
    "top-p": "top_p",
    "min-p": "min_p",
    "repeat-penalty": "repeat_penalty",
    "repeat-last-n": "repeat_last_n",
    "ignore-eos": "ignore_eos",
    "seed": "seed",
    "n": "max_tokens",
}
ALSO = {"temperature": "temp", "predict": "n", "n-predict": "n", "num-predict": "n", "max-tokens": "n"}
SWITCH = {"off": False, "on": True}
LARGEST = 2**32 - 1  # of whole numbers, as for the flags


def rows(params: SamplingParams, seed: int) -> list[tuple[str, str]]:
    """Return the names and their values; seed: the one in use."""
    table = [(name, _shown(getattr(params, field))) for name, field in NAMES.items() if name != "seed"]
    return [*table, ("seed", str(seed) if params.seed >= 0 else f"-1 (a random one: {seed})")]


def changed(params: SamplingParams, name: str, text: str) -> SamplingParams:
    """Return the parameters with another value of one of them; raises UsageError."""
    given, name = name, name.lower().lstrip("-").replace("_", "-")
    name = ALSO.get(name, name)
    if name not in NAMES:
        hint = did_you_mean(name, NAMES) or ";"
        raise UsageError(f"/set {given[:40]}: no such setting{hint} there are {', '.join(NAMES)}")
    default = getattr(SamplingParams(), NAMES[name])
    if not text:
        raise UsageError(f"/set {name} VALUE: give a value, such as {_shown(default)}")
    if isinstance(default, bool):
        if text not in SWITCH:
            raise UsageError(f"/set {name}: {text[:40]!r} must be {' or '.join(SWITCH)}")
        return replace(params, **{NAMES[name]: SWITCH[text]})  # type: ignore[arg-type]
    whole = isinstance(default, int)
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


def _shown(value: float) -> str:
    return list(SWITCH)[value] if isinstance(value, bool) else f"{value:g}"
