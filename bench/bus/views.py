"""Profiles as tables: by operation, by threads, K against V, and what a memory holds; prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ...engine.machine.fit import Needs
from ...engine.machine.units import size
from ..machine.roofs import Roofs
from ..report.report import Table
from .operations import ATTEND, PARTS, Operation, bound
from .profiling import Profile
from .saturation import Curve

SESSION = 4096  # tokens of the sessions that `capacity` counts
Pair = tuple[str, str]


def name(profile: Profile) -> str:
    """Name a profile: "decode of a token at depth 2048, K q8_0, V f16, 2 threads"."""
    case = profile.case
    what = f"prefill of {profile.rows} tokens" if profile.prefill else "decode of a token"
    threads = f"{case.n_threads} threads" if case.n_threads > 1 else "1 thread"
    return f"{what} at depth {case.n_depth}, K {case.type_k}, V {case.type_v}, {threads}"


def _bytes(n: float) -> str:
    return size(n) if n else ""


def _millions(n: float) -> str:
    return f"{n / 1e6:,.1f}" if n else ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 0.1 else f"{seconds * 1e3:.1f}"


def operations(profile: Profile, roofs: Roofs, *, full: bool = False) -> Table:
    """Return a line for each operation and for what is around them. full: list bytes and multiply-adds by kind."""
    columns = ["operation", "times", "ms", "share", "waiting"]
    columns += ["weights", "K", "V", "activations"] if full else ["weights, K, V"]
    columns += ["int8 MMAC", "bf16 MMAC", "f32 MMAC"] if full else ["MMAC"]
    columns += ["GB/s", "GMAC/s", "MAC/byte", "roof", "of it"]

    def row(op: Operation) -> list[str]:
        cost = op.cost
        kinds = (cost.weights, cost.k, cost.v, cost.activations) if full else (op.streamed,)
        macs = (cost.macs_i8, cost.macs_bf16, cost.macs_f32) if full else (op.macs,)
        limit = bound(op, roofs, profile.case.n_threads, profile.streamed)
        return [
            op.name, f"{op.times}", _ms(op.seconds), f"{op.seconds / profile.whole:.1%}",
            f"{op.waiting / profile.whole:.1%}" if op.waiting else "",
            *map(_bytes, kinds), *map(_millions, macs),
            f"{op.gbps:.1f}" if op.nbytes else "", f"{op.gmacs:.1f}" if op.macs else "",
            f"{op.intensity:.2f}" if op.macs else "", limit.roof if limit else "",
            f"{limit.share:.0%}" if limit else "",
        ]  # fmt: skip

    rows = [row(op) for op in profile.operations]
    blank = [""] * (len(columns) - 5)
    waiting = sum(op.waiting for op in profile.operations)
    rows.append(["all operations", "", _ms(profile.planned), f"{profile.planned / profile.whole:.1%}",
                 f"{waiting / profile.whole:.1%}", *row(_merged(profile))[5:-2], "", ""])  # fmt: skip
    rows.append(["Python around them", "", _ms(profile.python), f"{profile.python / profile.whole:.1%}", "", *blank])
    if profile.sampling:
        rows.append(["sampling, after it", "", _ms(profile.sampling), "", "", *blank])
    return Table(name(profile), columns, rows, only="page" if full else "terminal")


def _merged(profile: Profile) -> Operation:
    cost = sum((op.cost for op in profile.operations[1:]), profile.operations[0].cost)
    return Operation("all", profile.planned, cost=cost)


def saturation(curves: Sequence[Curve]) -> Table:
    """Return tokens/s and GB/s for each number of threads."""
    rows = [
        [f"{curve.name}", f"{p.threads}", f"{p.tokens_per_second:.2f}", f"{p.gbps:.1f}", f"{p.ceiling / 1e9:.1f}",
         f"{p.gbps * 1e9 / p.ceiling:.0%}", "here" if p.threads == curve.knee else ""]
        for curve in curves for p in curve.points
    ]  # fmt: skip
    return Table("", ["decode", "threads", "tokens/s", "GB/s", "read ceiling", "of it", "knee"], rows, keys=(0, 1))


def versus(profiles: Sequence[Profile], base: Pair) -> Table:
    """Return decode for each pair of types and each depth, with its gain over `base` at the same depth and threads."""
    columns = ["K/V", "depth", "threads", *(f"{part} ms" for part in PARTS), "K bytes", "V bytes", "MMAC", "tokens/s",
               f"to {'/'.join(base)}"]  # fmt: skip
    rows = []
    for p in sorted(profiles, key=lambda p: (p.case.n_depth, p.case.n_threads)):
        q, soft, v = (p.part(f"{ATTEND} {part}") for part in PARTS)
        rows.append([
            f"{p.case.type_k}/{p.case.type_v}", f"{p.case.n_depth}", f"{p.case.n_threads}",
            *(_ms(part.seconds) for part in (q, soft, v)), _bytes(q.cost.k), _bytes(v.cost.v),
            _millions(q.macs + v.macs), f"{p.tokens_per_second:.2f}", _gain(p, against(profiles, p, base)),
        ])  # fmt: skip
    return Table("", columns, rows, keys=(0, 1, 2))


def against(profiles: Sequence[Profile], profile: Profile, pair: Pair) -> Profile | None:
    """Return the same case with another pair of types, or None if that was not measured."""
    case = profile.case
    for other in profiles:
        o = other.case
        if (o.type_k, o.type_v) == pair and (o.n_depth, o.n_threads, o.model) == (
            case.n_depth,
            case.n_threads,
            case.model,
        ):
            return other
    return None


def _gain(profile: Profile, base: Profile | None) -> str:
    return f"{profile.tokens_per_second / base.tokens_per_second - 1:+.1%}" if base and base is not profile else ""


def gains(profiles: Sequence[Profile], base: Pair) -> Iterator[str]:
    """Say what quantizing K alone, V alone and both gains at the deepest depth, a sentence each."""
    deepest = max(p.case.n_depth for p in profiles)
    most = max(p.case.n_threads for p in profiles)
    here = [p for p in profiles if (p.case.n_depth, p.case.n_threads) == (deepest, most)]
    start = next(p for p in here if (p.case.type_k, p.case.type_v) == base)
    for what, chosen in (
        ("K alone", [p for p in here if p.case.type_k != base[0] and p.case.type_v == base[1]]),
        ("V alone", [p for p in here if p.case.type_k == base[0] and p.case.type_v != base[1]]),
        ("both", [p for p in here if p.case.type_k != base[0] and p.case.type_v != base[1]]),
    ):
        found = [f"{p.case.type_k}/{p.case.type_v} {_gain(p, start)}" for p in chosen]
        if found:
            where = f"against {'/'.join(base)} at depth {deepest} with {most} threads"
            yield f"{what}, {where}: {', '.join(found)} tokens/s."


def capacity(needs: Callable[[Pair], Needs], pairs: Sequence[Pair], memory: int) -> Table:
    """Return what fits in `memory` bytes beside the weights, for each pair of types."""
    rows = []
    for pair in pairs:
        need = needs(pair)
        one = replace(need, n_ctx=SESSION)
        left, session = max(0, memory - need.weights - need.buffers), one.kv + one.positions
        rows.append([
            "/".join(pair), f"{need.kv_per_token + need.window_per_token:,}", size(one.kv),
            f"{need.largest_ctx(memory):,}", f"{left // session:,}",
        ])  # fmt: skip
    columns = ["K/V", "bytes per token", f"of {SESSION} tokens", "longest context", f"sessions of {SESSION}"]
    return Table(f"What {size(memory)} of memory hold beside the weights", columns, rows)
