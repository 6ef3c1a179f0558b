"""A study of concurrency as sentences and tables; measures nothing. What a model computes is marked as computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from ...models.cache.sizes import token_bytes
from ...models.cache.spec import CacheSpec
from ..machine.noise import BUSY
from ..report.report import Table
from .sessions import Limits, Memory
from .step_model import Checked, Elsewhere, Machine, Point
from .trials import LOADS, VISITS, Options, Results, Trial, paths

BUS = 0.5
"""The share of a step from which on its bytes count as what limits it; below, the cores are busy with other work."""
LOSSES = (0.001, 0.01, 0.05)
"""Nats above the noise up to which sessions are counted."""


@dataclass(frozen=True)
class Gain:
    """What one cache gives in place of another: the ratios of sessions, and of the time of a step of n sequences."""

    sessions: float
    time: float
    n: int

    def __str__(self) -> str:
        return f"gives {self.sessions:.2f} times the sessions, and a step of {self.n} takes {self.time:.2f} of the time"


@dataclass
class Outcome:
    """The results of a study so far, whole or in part: what has no results yet is left out."""

    heading: Mapping[str, Any]
    results: Results
    options: Options
    memory: Memory
    machines: Sequence[Machine] = ()
    _fits: dict[CacheSpec, Checked | None] = field(default_factory=dict, init=False)

    # Figures ---------------------------------------------------------------------------------------------------------

    def of(self, trial: Trial) -> Any:
        return self.results.get(trial.key)

    def steps(self, cache: CacheSpec, depth: int) -> list[dict[str, Any]]:
        """Return the measured steps of a cache at a depth, by rising number of sequences, all visits together."""
        visits = [found["points"] for n in range(VISITS) if (found := self.of(Trial("steps", cache, depth, n)))]
        by = {p["sequences"]: [q for points in visits for q in points if q["sequences"] == p["sequences"]]
              for points in visits for p in points}  # fmt: skip
        return [_joined(by[n]) for n in sorted(by)]

    def points(self, cache: CacheSpec) -> list[Point]:
        every = (p for depth in self.options.depths for p in self.steps(cache, depth))
        return [Point(p["sequences"], p["depth"], p["seconds"]) for p in every]

    def fitted(self, cache: CacheSpec) -> Checked | None:
        """Return the model of a cache's steps with its errors; None if nothing was measured."""
        if cache not in self._fits:
            points = self.points(cache)
            self._fits[cache] = Checked.of(points) if points else None
        return self._fits[cache]

    @property
    def fast(self) -> bool:
        """Return whether losses were measured with the arithmetic of answers, which adds noise of its own."""
        return self.heading.get("arithmetic") == "fast"

    def loss(self, cache: CacheSpec) -> float | None:
        """Return the KL divergence, above the noise of fast arithmetic, which the largest types have; None: unknown."""
        found, noise = (self.of(Trial("loss", c)) for c in (cache, self.options.caches[0]))
        if not found or (self.fast and not noise):
            return None
        return float(max(0.0, found["kld"] - noise["kld"]) if self.fast else found["kld"])

    def sessions(self, cache: CacheSpec, depth: int) -> int:
        return self.memory.sessions(cache, depth, self.options.memory)

    def limits(self, cache: CacheSpec, depth: int) -> Limits | None:
        """Return the limits of a cache at a depth; None if it was not measured there."""
        fitted, steps = self.fitted(cache), self.steps(cache, depth)
        if fitted is None or not steps:
            return None
        latency = fitted.model.within(self.options.latency, depth) if self.options.latency else math.inf
        bus, unit = (steps[-1].get(name, 0.0) for name in ("bus", "unit"))
        by = "bus" if bus >= max(unit, BUS) else "units"
        return Limits(self.sessions(cache, depth), latency, fitted.model.saturation(depth), by)

    def seconds(self, cache: CacheSpec, depth: int, n: int) -> float | None:
        """Return the seconds of a step of n sequences, as measured, or else as computed."""
        measured = next((p["seconds"] for p in self.steps(cache, depth) if p["sequences"] == n), None)
        fitted = self.fitted(cache)
        return measured if measured is not None else fitted.model.seconds(n, depth) if fitted and n else None

    def gain(self, a: CacheSpec, b: CacheSpec, depth: int) -> Gain | None:
        """Return what cache b gives in place of a at a depth; None if steps of both were not measured there."""
        before, after = ({p["sequences"]: p["seconds"] for p in self.steps(cache, depth)} for cache in (a, b))
        n = max(before.keys() & after.keys(), default=0)
        return Gain(self.sessions(b, depth) / self.sessions(a, depth), after[n] / before[n], n) if n else None

    def _speed(self, cache: CacheSpec, depth: int, n: int) -> tuple[str, str]:
        """Return tokens/s and the milliseconds of a step of n sequences, marked where they are computed."""
        seconds = self.seconds(cache, depth, n)
        mark = "" if any(p["sequences"] == n for p in self.steps(cache, depth)) else "≈"
        return (mark + _rate(n, seconds), mark + _ms(seconds)) if seconds else ("", "")

    def per_token(self, cache: CacheSpec) -> int:
        return token_bytes(self.memory.config, cache)

    def by_size(self) -> list[CacheSpec]:
        """Return all caches, the largest first."""
        return sorted(self.options.caches, key=lambda c: (-self.per_token(c), c.pair))

    # Sentences -------------------------------------------------------------------------------------------------------

    def sentences(self) -> Iterator[str]:
        """Yield what was found, a sentence each."""
        first, last, depth = *self.options.caches[:2], self.options.main
        have, small = (self.sessions(cache, depth) for cache in (first, last))
        gib = self.options.memory / (1 << 30)
        yield (
            f"{gib:g} GiB hold {have} sessions of {depth} tokens with {first.pair} and {small} with {last.pair}, "
            "weights and program included."
        )
        for name, path in paths(self.options.types).items():
            one = self.options.cache(*path[1]) if len(path) > 1 else None
            if one and (gain := self.gain(first, one, depth)):
                lost = self.loss(one)
                cost = "" if lost is None else f", and costs {_nats(lost)} nats"
                yield f"{name}: {one.pair} in place of {first.pair} {gain}{cost}."
        for cache in (first, last):
            if limits := self.limits(cache, depth):
                yield (
                    f"With {cache.pair}, {limits.sequences} sequences of {depth} tokens are worth running; then "
                    f"{WORDS[limits.binding]}."
                )
        errors = [e for cache in self.options.caches if (f := self.fitted(cache)) for e in f.unseen]
        if errors:
            yield (
                f"The model of a step's time is off by {median(errors):.0%} (median, at most {max(errors):.0%}) at "
                f"{len(errors)} points that it did not see."
            )

    # Tables ----------------------------------------------------------------------------------------------------------

    def note(self, caption: str) -> str:
        """Return what a reader must know about a table."""
        asked = self.options
        notes = {
            SESSIONS: "worth: as many of them as give 90 % of the most tokens/s, or fill the memory, or let a token "
            "take as long as was allowed. t/s and ms: with that many at once; ≈: computed by the model of a step.",
            AT_LOSS: "The pair with the most sessions among those that lose no more nats"
            f"{', above the noise of fast arithmetic' * self.fast}.",
            STEP_BY_STEP: f"At {asked.main} tokens; × compares with the step before.",
            CLOSED: f"Each user holds a conversation, asks {asked.turn} tokens more and gets {asked.answer}, again and "
            "again. first: the time to the first token.",
            RANDOM: "Requests arrive independently (Poisson), at a share of the answers/s of the busiest closed loop.",
            MODEL: "t = a + b·B + e·B·L for a step of B sequences with L tokens; errors: the median and the largest.",
        }
        elsewhere = f"Cores count as fast as the {asked.threads} of this machine, and nothing is faster than its bytes "
        return notes.get(caption, f"{elsewhere}over the bus.")

    def tables(self) -> Iterator[Table]:
        made = (self._main(), self._at_loss(), self._paths(), self._closed(), self._open(), self._model())
        for table in (*made, *self._elsewhere()):
            if table.rows:
                yield table

    def _main(self) -> Table:
        rows = []
        for depth in self.options.depths:
            for cache in self.by_size():
                if not (limits := self.limits(cache, depth)):
                    continue
                alone = self.seconds(cache, depth, 1)
                n = limits.sequences
                rows.append([
                    cache.pair, str(depth), _kib(self.per_token(cache)), _nats(self.loss(cache)), str(limits.memory),
                    _rate(1, alone), str(n), limits.binding, *self._speed(cache, depth, n),
                ])  # fmt: skip
        columns = ["K/V", "tokens", "per token", "loss", "sessions", "t/s alone", "worth", "limit", "t/s", "ms"]
        return Table(SESSIONS, columns, rows, left=(0, 7), keys=(0, 1))

    def _at_loss(self) -> Table:
        rows = []
        for depth in self.options.depths:
            for most in LOSSES:
                good = [c for c in self.options.caches if (lost := self.loss(c)) is not None and lost <= most]
                if not good:
                    continue
                best = max(good, key=lambda c: (self.sessions(c, depth), -(self.loss(c) or 0)))
                limits = self.limits(best, depth)
                n = limits.sequences if limits else 0
                held, cost = str(self.sessions(best, depth)), _nats(self.loss(best))
                rows.append(
                    [str(depth), f"{most:g}", best.pair, held, cost, str(n or ""), self._speed(best, depth, n)[0]]
                )
        columns = ["tokens", "loss at most", "K/V", "sessions", "loss", "worth", "t/s"]
        return Table(AT_LOSS, columns, rows, left=(2,), keys=(0, 1))

    def _paths(self) -> Table:
        rows, depth = [], self.options.main
        first = self.options.caches[0]
        n = max((p["sequences"] for p in self.steps(first, depth)), default=0)
        for name, path in paths(self.options.types).items():
            before: tuple[float, ...] | None = None
            for k, v in path if n else ():
                cache = self.options.cache(k, v)
                step, limits = self.seconds(cache, depth, n), self.limits(cache, depth)
                if step is None or limits is None:
                    break
                most = limits.sequences / (self.seconds(cache, depth, limits.sequences) or math.inf)
                now = (limits.memory, step * 1000, most)
                ratios = [f" (×{b / a:.2f})" if before and a else "" for a, b in zip(before or now, now, strict=True)]
                cells = [f"{x:{form}}{r}" for x, form, r in zip(now, (".0f", ".1f", ".1f"), ratios, strict=True)]
                rows.append([name, cache.pair, *cells, _nats(self.loss(cache))])
                before = now
        columns = ["path", "K/V", "sessions", f"ms of a step of {n}", "t/s at its limit", "loss"]
        return Table(STEP_BY_STEP, columns, rows, left=(0, 1), keys=(0, 1))

    def _closed(self) -> Table:
        rows = []
        for depth in self.options.depths:
            for cache in self.by_size():
                rows += [
                    [cache.pair, str(depth), str(n), *_loop(r, n), str(r["answers"])]
                    for n in range(1, self.options.most + 1)
                    if (r := self.of(Trial("closed", cache, depth, n)))
                ]
        return Table(
            CLOSED,
            ["K/V", "tokens", "users", "t/s", "t/s each", *LATENCIES, "answers"], rows, keys=(0, 1, 2),
        )  # fmt: skip

    def _open(self) -> Table:
        rows = []
        for depth in self.options.depths:
            for cache in self.by_size():
                for load in sorted(LOADS):
                    if r := self.of(Trial("poisson", cache, depth, load)):
                        asked = [f"{load:.0%}", f"{r['arrivals_per_s']:.2f}"]
                        rows.append([cache.pair, str(depth), *asked, *_loop(r, 0), str(r["answers"])])
        return Table(
            RANDOM,
            ["K/V", "tokens", "load", "requests/s", "t/s", *LATENCIES, "answers"], rows, keys=(0, 1, 2),
        )  # fmt: skip

    def _model(self) -> Table:
        rows = []
        for cache in self.by_size():
            if (f := self.fitted(cache)) and f.depths > 1:
                m, s = f.model, f.summary
                unseen = "" if s["unseen_max"] is None else f"{s['unseen_median']:.0%}, {s['unseen_max']:.0%}"
                rows.append([cache.pair, f"{m.a * 1e3:.2f}", f"{m.b * 1e3:.3f}", f"{m.e * 1e6:.3f}",
                             f"{s['seen_median']:.0%}, {s['seen_max']:.0%}", unseen, str(len(f.unseen))])  # fmt: skip
        columns = ["K/V", "a ms", "b ms", "e µs", "error, seen", "error, unseen", "points unseen"]
        return Table(MODEL, columns, rows)

    def _elsewhere(self) -> Iterator[Table]:
        for machine in self.machines:
            rows = []
            for depth in self.options.depths:
                for cache in self.by_size():
                    fitted, points = self.fitted(cache), self.steps(cache, depth)
                    if not fitted or not points or fitted.depths < 2:
                        continue
                    token = (points[0]["k"] + points[0]["v"]) / points[0]["depth"] / points[0]["sequences"]
                    model = Elsewhere(fitted.model, points[0]["weights"], token, self.options.threads, machine)
                    fit = self.memory.sessions(cache, depth, machine.memory)
                    n = model.most(depth, self.options.latency, fit) if fit else 0
                    step, units, bus = model.parts(n, depth)
                    by = "units" if units > bus else "bus"
                    limit = "memory" if n == fit else by if self.options.latency is None else f"latency or {by}"
                    rows.append([cache.pair, str(depth), str(fit), str(n), limit, _rate(n, step), _ms(step)])
            columns = ["K/V", "tokens", "sessions", "worth", "limit", "t/s", "ms"]
            yield Table(f"Computed, not measured: {machine}", columns, rows, left=(0, 4), keys=(0, 1))

    def warnings(self) -> Iterator[str]:
        """Yield what a reader must know before trusting the figures."""
        shares = [r["others"] for r in self.results.values() if isinstance(r.get("others"), float)]
        if self.machines and not any(f.depths > 1 for cache in self.options.caches if (f := self.fitted(cache))):
            yield "Other machines are computed from steps at two depths or more, which are not measured yet."
        busy = [share for share in shares if share > BUSY]
        if busy:
            yield (
                f"Other programs took up to {max(busy):.0%} of this machine during {len(busy)} of {len(shares)} "
                "trials: times are too long, and a quiet machine gives other figures."
            )


SESSIONS, AT_LOSS, STEP_BY_STEP = "Sessions, speed and limits", "The most sessions at a loss", "Step by step"
CLOSED, RANDOM, MODEL = "Users in a closed loop", "Requests that arrive at random", "The model of a step"
WORDS = {
    "memory": "the memory is full",
    "latency": "a token takes as long as was allowed",
    "units": "the cores are busy: more sequences give hardly more tokens/s",
    "bus": "the bus is full: more sequences give hardly more tokens/s",
}
LATENCIES = ("ms p50", "ms p99", "first p50", "first p99")
"""Titles: the time between tokens, and to the first one."""


def _joined(visits: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return several measurements of one step as one: the median time, and the whole range."""
    spread = {"low": min(p["low"] for p in visits), "high": max(p["high"] for p in visits)}
    means = {name: fmean(p[name] for p in visits) for name in ("bus", "unit") if name in visits[0]}
    return {**visits[0], "seconds": median(p["seconds"] for p in visits), **spread, **means}


def _loop(r: Mapping[str, float], users: int) -> list[str]:
    each = [f"{r['tokens_per_s'] / users:.1f}"] if users else []
    times = [_ms(r[name]) for name in ("itl_p50", "itl_p99")]
    return [f"{r['tokens_per_s']:.1f}", *each, *times, *(f"{r[name]:.2f} s" for name in ("ttft_p50", "ttft_p99"))]


def _kib(nbytes: int) -> str:
    return f"{nbytes / 1024:.1f} KiB"


def _nats(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.5f}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f}"


def _rate(n: int, seconds: float | None) -> str:
    return f"{n / seconds:.1f}" if n and seconds else ""
