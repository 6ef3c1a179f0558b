"""What to measure: llama-bench's lists and ranges, and the grid that they span; measures nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ...kernels.formats.table import CACHE_TYPES
from ...models.cache.layer_map import merged
from ...models.cache.spec import CacheSpec
from ...models.errors import UsageError, did_you_mean

LIMIT = 1 << 20  # tokens of a case; larger numbers are mistakes
MAX_VALUES = 10_000  # of a range

_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?", re.ASCII)


@dataclass(frozen=True)
class Setup:
    """The settings that an engine is loaded with; cases with the same setup share the engine."""

    model: Path
    cache: CacheSpec
    n_threads: int
    n_rows: int  # tokens of a prompt that go through the layers together


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a case is run, of one sequence or of many."""

    model: Path
    n_batch: int
    n_ubatch: int
    cache: CacheSpec
    n_threads: int

    @property
    def setup(self) -> Setup:
        return Setup(self.model, self.cache, self.n_threads, min(self.n_batch, self.n_ubatch))


@dataclass(frozen=True, kw_only=True)
class Case(Run):
    """One line of the result: n_prompt tokens of prompt, then n_gen generated, with n_depth in the cache before."""

    n_prompt: int
    n_gen: int
    n_depth: int

    @property
    def type_k(self) -> str:
        return self.cache.k

    @property
    def type_v(self) -> str:
        return self.cache.v

    @property
    def cache_rotate(self) -> str:
        return self.cache.rotate

    @property
    def cache_policy(self) -> str:
        return self.cache.policy

    @property
    def n_tokens(self) -> int:
        """Return the tokens that are timed."""
        return self.n_prompt + self.n_gen

    @property
    def n_ctx(self) -> int:
        """Return the tokens in the cache at the end."""
        return self.n_depth + self.n_tokens

    def __str__(self) -> str:
        return f"{label(self.n_prompt, self.n_gen, self.n_depth)} {cached(self.cache)} -t {self.n_threads}"


def cached(cache: CacheSpec) -> str:
    """Return how a status line names a cache."""
    return f"{cache.pair} {cache.policy}".rstrip()


def label(n_prompt: int, n_gen: int, n_depth: int) -> str:
    """Return llama-bench's name for a case: "pp512", "tg128 @ d4096"."""
    parts = [f"{kind}{n}" for kind, n in (("pp", n_prompt), ("tg", n_gen)) if n]
    return "+".join(parts) + (f" @ d{n_depth}" if n_depth else "")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Lists of values, whose combinations are the ways to run a case."""

    models: Sequence[Path]
    n_batch: Sequence[int]
    n_ubatch: Sequence[int]
    type_k: Sequence[str]
    type_v: Sequence[str]
    cache_rotate: Sequence[str]
    cache_policy: Sequence[str] = ("",)
    n_threads: Sequence[int]

    def runs(self) -> Iterator[dict[str, Any]]:
        """Yield the fields of each Run but its model; the last list varies fastest."""
        caches = [CacheSpec(*of) for of in product(self.type_k, self.type_v, self.cache_rotate, self.cache_policy)]
        for batch, ubatch, cache, threads in product(self.n_batch, self.n_ubatch, caches, self.n_threads):
            if cache.segments and cache.segments.function:
                problem = "has no kernel, so its speed says nothing; `pyllm perplexity` says what it loses"
                raise UsageError(f"--cache-policy {cache.policy}: {problem}")
            yield {"n_batch": batch, "n_ubatch": ubatch, "cache": cache, "n_threads": threads}


@dataclass(frozen=True, kw_only=True)
class Grid(Runs):
    """Lists of values; each combination is a case, in llama-bench's order."""

    n_prompt: Sequence[int]
    n_gen: Sequence[int]
    pairs: Sequence[tuple[int, int]]  # prompt and generated tokens of one case
    n_depth: Sequence[int]

    def cases(self) -> list[Case]:
        """Return the full grid, each case once, without cases of 0 tokens; raises UsageError if none is left."""
        tests = [(p, 0) for p in self.n_prompt] + [(0, g) for g in self.n_gen] + list(self.pairs)
        grid = [
            Case(model=model, n_prompt=prompt, n_gen=gen, n_depth=depth, **run)
            for model, depth, run in product(self.models, self.n_depth, list(self.runs()))
            for prompt, gen in tests
            if prompt + gen
        ]
        if not grid:
            raise UsageError("-p 0 -n 0: there is nothing to measure; give -p, -n or -pg a number of tokens")
        return list(dict.fromkeys(grid))


def numbers(flag: str, texts: Sequence[str], low: int, high: int = LIMIT) -> list[int]:
    """Return the values of a repeated flag: numbers, and ranges `first-last`, `first-last+step`, `first-last*mult`."""
    return [value for item in _items(flag, texts) for value in _range(flag, item, low, high)]


def names(flag: str, texts: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the values of a repeated flag that takes one of the `known` words."""
    items = _items(flag, texts)
    for item in items:
        if item not in known:
            raise UsageError(f"{flag}: {item[:40]!r} is none of {', '.join(known)}{did_you_mean(item, known)}")
    return items


def cache_types(side: str, listed: Sequence[str] | None, layers: str | None) -> list[str]:
    """Return the values of a repeated --cache-type-k (or v), each merged with --cache-type-k-layers."""
    known = names(f"-ct{side}", listed, CACHE_TYPES) if listed else [None]
    return [merged(name, layers) for name in known]


def pairs(flag: str, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return the values of a repeated `-pg P,G`."""
    found = []
    for text in texts:
        both = [_range(flag, item, 0, LIMIT) for item in text.split(",")]
        if [len(values) for values in both] != [1, 1]:
            raise UsageError(f"{flag}: {text[:40]!r} must be two numbers of tokens, such as 512,128")
        found.append((both[0][0], both[1][0]))
    return found


def _items(flag: str, texts: Sequence[str]) -> list[str]:
    return [item.strip() for text in texts for item in text.split(",")]


def _range(flag: str, item: str, low: int, high: int) -> list[int]:
    match = _RANGE.fullmatch(item)
    if match is None or len(item) > 60:
        cure = "must be a number or a range such as 512-2048+512 or 1-8*2"
        raise UsageError(f"{flag}: {item[:40]!r} {cure}")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if not low <= first <= last <= high:
        raise UsageError(f"{flag}: {item} must rise within {low} to {high}")
    following = _following(match[3] or "+", int(match[4] or 1))
    values = [first]
    while (value := following(values[-1])) <= last:
        if value <= values[-1] or len(values) >= MAX_VALUES:
            raise UsageError(f"{flag}: {item} has no end; take a larger step")
        values.append(value)
    return values


def _following(sign: str, step: int) -> Callable[[int], int]:
    return (lambda value: value + step) if sign == "+" else (lambda value: value * step)
