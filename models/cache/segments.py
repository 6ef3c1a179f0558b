"""Segments of a cache: the first tokens, the recent ones and the rest lie in types of their own; knows no memory.

A policy's text is turned into `Segments`, and these into `Borders`, in whole pages. Every token is stored in the tail
first. When its page leaves the tail, it is encoded anew, once: in the sink's type if it is one of the first pages, else
in the body's, which is the type of -ctk and -ctv; or it is dropped. Where the body has a size, the tokens that stay
are chosen once it is full, those of the page included (see evictions/).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...kernels.formats.table import CACHE_TYPES, FORMATS
from ...kernels.shapes import PAGE, pages
from ..errors import UsageError, did_you_mean
from . import evictions, layer_map, papers

STREAMING = "streaming"
"""The policy that keeps the first tokens and a window of recent ones, and drops the others (StreamingLLM)."""

MOST = 1 << 24
"""Tokens of a segment at most."""


@dataclass(frozen=True)
class Segment:
    """Tokens at one end of a sequence, at least `tokens`, and the types of their K and V; "": as the body."""

    tokens: int = 0
    k: str = ""
    v: str = ""

    def __str__(self) -> str:
        types = self.k if self.k == self.v else f"{self.k}/{self.v}"
        return f"{self.tokens}:{types}" if types else str(self.tokens)

    def types(self, k: str, v: str) -> tuple[str, str]:
        """Return the types of K and V where the body has k and v."""
        return self.k or k, self.v or v


@dataclass(frozen=True)
class Segments:
    """A policy, parsed.

    name: "", STREAMING, a paper's (see papers/ and evictions/) or the path of a user's Python file.
    """

    name: str
    sink: Segment
    tail: Segment
    keep: int | None = None  # tokens that stay in the body, which the policy chooses; None: all that come

    def __str__(self) -> str:
        tail = "window" if self.name == STREAMING else "tail"
        given = papers.find(self.name) or evictions.find(self.name)
        usual = 4 if self.name == STREAMING else given.sink if given else 0  # what no sink= would mean
        items = [f"sink={self.sink}"] if self.sink.tokens or usual else []
        items += [f"keep={self.keep}"] if self.keep is not None else []
        return ",".join([*([self.name] if self.name else []), *items, f"{tail}={self.tail}"])

    @property
    def function(self) -> str:
        """Return the name whose function changes K and V (see engine/policy/what_if.py); "" if there is none."""
        return "" if self.name == STREAMING or self.keep is not None else self.name

    @property
    def weighs(self) -> bool:
        """Return whether a policy that chooses tokens wants their weights in attention."""
        found = evictions.find(self.name)
        return self.keep is not None and (found is None or found.rows != "")

    @property
    def borders(self) -> Borders:
        """Return where the segments lie, in pages."""
        tail, most = pages(self.tail.tokens) + 1, None if self.keep is None else pages(self.keep)
        if self.name and self.name != STREAMING:  # what Python looks at is full before the step
            tail = max(2, tail)
        return Borders(pages(self.sink.tokens), tail, self.name != STREAMING, most)


@dataclass(frozen=True)
class Borders:
    """Where the segments of a sequence lie, in pages."""

    sink: int
    tail: int  # pages at the end that are in the tail, the one being filled included
    body: bool = True  # False: pages between sink and tail are dropped
    most: int | None = None  # pages of the body at most, in which tokens are chosen then; None: as many as come

    def left(self, tokens: int) -> int:
        """Return how many pages have left the tail of a sequence of n tokens."""
        return max(0, (tokens - 1) // PAGE + 1 - self.tail)

    def whole(self, tokens: int) -> tuple[int, int]:
        """Return the pages in the sink and in the body of a sequence of n tokens."""
        left = self.left(tokens)
        body = max(0, left - self.sink) if self.body else 0
        return min(left, self.sink), body if self.most is None else min(body, self.most)


def parse(text: str) -> Segments:
    """Return the segments that the value of --cache-policy stands for; raises UsageError."""
    first, *rest = text.split(",")
    name = "" if "=" in first else first.strip()
    paper, eviction = papers.find(name), evictions.find(name)
    if name and name != STREAMING and paper is None and eviction is None and not name.endswith(".py"):
        every = ", ".join([STREAMING, *evictions.names(), *papers.names()])
        use = f"{every}, sink=N:TYPE,tail=N:TYPE or a file.py"
        raise _error(name, f"unknown policy; use {use}", (STREAMING, *evictions.names(), *papers.variants()))
    known = {"sink": "sink", "window" if name == STREAMING else "tail": "tail"}
    choose = eviction is not None or (name.endswith(".py") and any(_key(item) == "keep" for item in rest))
    if choose:
        known = {"sink": "sink", "keep": "keep", "tail": "tail"}
    # The function of a file or a paper sees exact values, and what is not changed stays as it is.
    default = "" if name == STREAMING else "f32" if name and not choose else layer_map.DEFAULT
    found = {"sink": Segment(4), "tail": Segment(1020)} if name == STREAMING else {}
    if ends := paper or eviction:
        found = {"sink": Segment(ends.sink, default, default), "tail": Segment(ends.tail, default, default)}
    if eviction is not None:
        found["keep"] = Segment(eviction.keep)
    given = set()
    for item in [part.strip() for part in (rest if name else [first, *rest])]:
        key, _, value = item.partition("=")
        if key not in known or key in given:
            raise _error(item, f"use {' and '.join(f'{key}=N' for key in known)}, each once", tuple(known))
        given.add(key)
        found[known[key]] = _segment(item, value, "" if key == "keep" else default)
    sink = found.get("sink", Segment())
    tail = found.get("tail", Segment(0, sink.k or default, sink.v or default))
    if not choose:
        return Segments(name, sink, tail)
    if not found["keep"].tokens:
        raise _error("keep=0", f"keeps no token; give it {PAGE} or more, or take {STREAMING}")
    for cache_type in (tail.k, tail.v):
        if FORMATS[cache_type].size > 1:
            raise _error(
                f"tail={tail}", f"tokens of {cache_type} would be encoded anew; give the tail f32, f16 or bf16"
            )
    return Segments(name, sink, tail, found["keep"].tokens)


def _key(item: str) -> str:
    return item.partition("=")[0].strip()


def _segment(item: str, value: str, typed: str) -> Segment:
    match = re.fullmatch(r"(\d{1,8})(?::(\w+)(?:/(\w+))?)?", value, re.ASCII)
    if match is None or int(match[1]) > MOST or (match[2] and not typed):
        what = f"N or N:TYPE, as in {item.partition('=')[0]}=64:f16" if typed else "a number of tokens"
        raise _error(item, f"must be {what}, at most {MOST}")
    k = match[2] or typed
    v = match[3] or k
    for name in (k, v):
        if name and name not in CACHE_TYPES:
            raise _error(item, f"{name[:40]} is no cache type; use one of {', '.join(CACHE_TYPES)}")
    return Segment(int(match[1]), k, v)


def _error(item: str, problem: str, known: Sequence[str] = ()) -> UsageError:
    return UsageError(f"--cache-policy {item[:60]}: {problem}{did_you_mean(item.partition('=')[0], known)}")


def normal(text: str, k: str, v: str) -> str:
    """Return a policy in its normal form, for a body of these types (or maps by layer); raises UsageError.

    A segment whose types are the body's is none: "" if none is left and nothing is dropped.
    """
    s = parse(text)
    body = {side: {entry.cache_type for entry in layer_map.parse(types)} for side, types in (("k", k), ("v", v))}
    if not s.name:
        same = [all(body[side] == {getattr(each, side)} for side in "kv") for each in (s.sink, s.tail)]
        if same[0]:
            s = replace(s, sink=Segment())
        if same[1] and not s.sink.tokens:
            return ""
    for side in "kv":
        mine, sink = getattr(s.tail, side), getattr(s.sink, side)
        others = body[side] | ({sink} if s.sink.tokens and sink else set())
        if mine and FORMATS[mine].size > 1 and others != {mine}:
            problem = f"{side.upper()} of {mine} is to be encoded anew as {', '.join(sorted(others - {mine}))}"
            raise _error(f"tail={s.tail}", f"{problem}; give the tail f32, f16 or bf16")
    return str(s)
