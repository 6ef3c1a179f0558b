"""Common claims about K, V and many users, each with a verdict by the cells of a study; measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...models.cache.spec import CacheSpec
from .outcome import BUS, Outcome

EVEN = 0.05
"""Ratios that differ by no more than this share count as equal: steps repeat no better."""
SMALL = 0.5
"""A gain counts as small up to this share of another."""
NEAR = 0.1
"""How far throughput may be from what was claimed."""
GAINS = {"q8_0": 0.3, "q4_0": 0.4}
"""The throughput that is claimed for a type in K and V, beyond f16's, as a share."""


@dataclass(frozen=True)
class Claim:
    """What is said, whether it holds here, and the figures that say so with the cells that they come from."""

    said: str
    verdict: str
    found: str

    def __str__(self) -> str:
        return f"“{self.said}”: {self.verdict}. {self.found}"


def claims(outcome: Outcome) -> Iterator[Claim]:
    """Yield the claims for which the study has the cells."""
    for claim in (_sessions_and_speed, _relief, _values, _throughput, _best):
        yield from claim(outcome)


def _sessions_and_speed(outcome: Outcome) -> Iterator[Claim]:
    t, depth = outcome.options.types[1], outcome.options.main
    first, k, v = _alone(outcome, t)
    if (in_k := outcome.gain(first, k, depth)) and (in_v := outcome.gain(first, v, depth)):
        more, faster = in_v.sessions > in_k.sessions * (1 + EVEN), in_k.time < in_v.time * (1 - EVEN)
        slower = in_v.time < in_k.time * (1 - EVEN)
        verdicts = {
            (True, True): "holds",
            (True, False): "half: V buys more sessions, but K no more speed",
            (False, True): "half: K buys more speed, but V no more sessions",
            (False, False): "does not hold: " + ("V buys more speed" if slower else "both buy the same"),
        }
        found = f"At {depth} tokens, {t} in K alone {in_k}; in V alone it {in_v}."
        yield Claim("V buys sessions, K buys speed", verdicts[more, faster], found)


def _relief(outcome: Outcome) -> Iterator[Claim]:
    t, depth = outcome.options.types[1], outcome.options.main
    first, k, _ = _alone(outcome, t)
    time, points = _spared(outcome, first, k), outcome.steps(first, depth)
    if time is None or not points:
        return
    nbytes = 1 - outcome.per_token(k) / outcome.per_token(first)
    bus, said = points[-1].get("bus"), ""
    if bus is not None:
        said = (
            f" The bytes of a step of {points[-1]['sequences']} with {first.pair} take at least {bus:.0%} of its time."
        )
    if time <= EVEN:
        verdict = "does not hold"
    elif bus is None:
        verdict = "holds for both together"
    else:
        verdict = "holds for the bus" if bus >= BUS else "holds for the units; the bus is not what limits here"
    found = f"{t} in K takes {time:.0%} off the time for a token in the cache, and {nbytes:.0%} off its bytes.{said}"
    yield Claim("Quantizing K relieves the bus and the units", verdict, found)


def _values(outcome: Outcome) -> Iterator[Claim]:
    by = {}
    for t in outcome.options.types[1:]:
        first, k, v = _alone(outcome, t)
        if (in_k := _spared(outcome, first, k)) is not None and (in_v := _spared(outcome, first, v)) is not None:
            by[t] = in_k, in_v
    if by:
        if all(v <= SMALL * k for k, v in by.values()):
            verdict = "holds"
        elif all(v < k - EVEN for k, v in by.values()):
            verdict = "in part: smaller than K's, but not small"
        else:
            verdict = "does not hold: V gains about as much as K, or more"
        each = "; ".join(f"{t} takes {k:.0%} off in K and {v:.0%} in V" for t, (k, v) in by.items())
        found = f"Of the time for a token in the cache, {each}."
        yield Claim("V's gain in compute is small, as it is decoded to float", verdict, found)


def _throughput(outcome: Outcome) -> Iterator[Claim]:
    first, found, differ = outcome.options.caches[0], [], []
    for t, claimed in GAINS.items():
        cache = outcome.options.cache(t, t)
        if cache in outcome.options.caches and cache != first:
            gains = {d: 1 / g.time - 1 for d in outcome.options.depths if (g := outcome.gain(first, cache, d))}
            if gains:
                each = ", ".join(f"{gain:+.0%} at {depth}" for depth, gain in gains.items())
                found.append(f"{cache.pair} {each} tokens")
                differ += [gain - claimed for gain in gains.values()]
    if differ:
        if max(map(abs, differ)) <= NEAR:
            verdict = "holds"
        elif min(differ) > 0 or max(differ) < 0:
            verdict = "more here" if min(differ) > 0 else "less here"
        else:
            verdict = "it depends on the tokens in the cache"
        yield Claim("int8 gives +30 %, int4 +40 % throughput", verdict, f"Against {first.pair}: {'; '.join(found)}.")


def _best(outcome: Outcome) -> Iterator[Claim]:
    asked, depth = outcome.options, outcome.options.main
    pairs = [asked.cache(*pair) for pair in (("q8_0", "q4_0"), ("q4_0", "q8_0"), ("q4_0", "q4_0"))]
    if not set(pairs) <= set(asked.caches):
        return
    losses = [outcome.loss(cache) for cache in pairs]
    steps = [outcome.gain(asked.caches[0], cache, depth) for cache in pairs]
    if None in losses or None in steps:
        return
    sessions = [outcome.sessions(cache, depth) for cache in pairs]
    mixed, other, small = (float(lost or 0) for lost in losses)
    each = zip(pairs, sessions, losses, steps, strict=True)
    parts = [f"{c.pair} {n} sessions at {lost:.5f} nats and {g.time:.2f} of the time" for c, n, lost, g in each if g]
    verdict = "holds" if mixed < min(other, small) and sessions[0] >= sessions[1] else "does not hold"
    found = f"At {depth} tokens: {', '.join(parts)} that {asked.caches[0].pair} takes for a step."
    yield Claim("K at 8 and V at 4 bits is the best of both", verdict, found)


def _alone(outcome: Outcome, t: str) -> tuple[CacheSpec, CacheSpec, CacheSpec]:
    """Return the largest cache, and those with a type in K alone and in V alone."""
    first, of = outcome.options.types[0], outcome.options.cache
    return of(first, first), of(t, first), of(first, t)


def _spared(outcome: Outcome, a: CacheSpec, b: CacheSpec) -> float | None:
    """Return the share of a's time for a token in the cache that b spares; None where depths do not tell it apart."""
    before, after = outcome.fitted(a), outcome.fitted(b)
    if not before or not after or not before.model.e or min(before.depths, after.depths) < 2:
        return None
    return 1 - after.model.e / before.model.e
