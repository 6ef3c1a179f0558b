"""What the commands' flags share: names as in llama.cpp, and types that check one value each; reads no file."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any

from ...models.errors import did_you_mean

DEFAULT_CTX = 4096  # without -c; no more than the model was trained on

MODEL = "a .gguf file, hf:USER/REPO[:QUANT], an https address, pypi:NAME, or a short name"


def value(
    group: argparse._ActionsContainer,
    names: str,
    metavar: str,
    convert: Callable[[str], Any],
    default: object,
    help: str,
) -> None:
    group.add_argument(*names.split(), metavar=metavar, type=convert, default=default, help=help)


def add_rotate(group: argparse._ActionsContainer) -> None:
    from ...models.cache.rotation import MODES

    text = "sides of a quantized cache that a Hadamard transform rotates, which makes the loss smaller: "
    text += "auto is both, if heads are multiples of 64, as in llama.cpp (default: auto)"
    group.add_argument("--cache-rotate", choices=tuple(MODES), default="auto", help=text)


def add_layers(group: argparse._ActionsContainer, side: str) -> None:
    """Add --cache-type-k-layers or --cache-type-v-layers."""
    named = "-2 is the last two; if it comes first, write =-2:f16"
    text = f"{side.upper()}'s types by layer, as in 0-1:f16,2-27:q4_0,-2:f16 ({named}); the rest: -ct{side}"
    group.add_argument(f"--cache-type-{side}-layers", metavar="MAP", type=layer_map, help=text)


def add_policy(group: argparse._ActionsContainer) -> None:
    """Add --cache-policy."""
    from ...models.cache import evictions, papers

    text = "which tokens are kept in which types: sink=N:TYPE,tail=N:TYPE (the first and the last; others as -ctk and "
    text += "-ctv say), streaming[,sink=N,window=N] (others are dropped), a policy that chooses tokens to stay "
    text += (
        f"({', '.join(evictions.names())} or file.py; [,sink=N,keep=N,tail=N]), or what K and V would be in a format "
    )
    text += (
        f"without a kernel, with -ctk f32 -ctv f32: a paper's ({', '.join(papers.names())}; kivi4: 4 bits) or file.py's"
    )
    group.add_argument("--cache-policy", metavar="POLICY", type=policy, default="", help=text)


def add_offline(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--offline", action="store_true", help="never try the network")


def add_output(group: argparse._ActionsContainer, *others: str) -> None:
    """Add -o with "table", "md" and other formats; the default is the table, into a pipe too."""
    text = f"how to print the result: table (aligned, for people; the default), md (Markdown), {', '.join(others)}"
    group.add_argument("-o", "--output", choices=("table", "md", *others), default="table", help=text)


def add_json(group: argparse._ActionsContainer, help: str = "the same as -o json: one JSON object") -> None:
    group.add_argument("--json", action="store_const", const="json", dest="output", help=help)


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return the type of a flag that takes a whole number in these bounds."""
    wanted = (
        f"must be a whole number, {low} or more" if high is None else f"must be a whole number from {low} to {high}"
    )

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} {wanted}")
        return value

    return convert


def real(low: float, high: float) -> Callable[[str], float]:
    """Return the type of a flag that takes a finite number in these bounds."""
    wanted = f"must be a number from {low:g}" + (f" to {high:g}" if high < math.inf else "")

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} {wanted}")
        return value

    return convert


def layer_map(text: str) -> str:
    """Check the value of --cache-type-k-layers; whether the model has these layers is checked later."""
    from ...models.cache.layer_map import parse

    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def policy(text: str) -> str:
    """Check the value of --cache-policy; whether it fits the cache's types is checked later."""
    from ...models.cache.segments import parse
    from ...models.errors import UsageError

    try:
        return "" if text in ("", "none") else str(parse(text))  # argparse checks the default too
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--cache-policy ")) from None


def cache_type(text: str) -> str:
    """Check the value of --cache-type-k or --cache-type-v; whether it fits the model is checked later."""
    from ...kernels.formats.table import CACHE_TYPES

    if text not in CACHE_TYPES:
        known = f"use one of {', '.join(CACHE_TYPES)}{did_you_mean(text, CACHE_TYPES)}"
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a cache type; {known}")
    return text


def amount(text: str) -> int:
    """Return the bytes or tokens that a flag names: 4096, 16k, 8G, 1.5GiB; the letters stand for powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower(), re.ASCII)
    if match is None or len(text) > 30 or not 0 < float(match[1]) < 1 << 60:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} must be a number such as 4096 or 16k, or an amount such as 512M or 8G"
        )
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))
