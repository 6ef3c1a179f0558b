"""Profiles as plots: roofline, time by depth, saturation, K against V; imports matplotlib only to paint one."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import Any

from ...engine.machine.units import size
from ...kernels.lang import cpu
from ..machine.roofs import Roofs
from ..report.plot import MARKERS, Axes, Look, Plot
from .operations import ATTEND, PARTS, Operation
from .profiling import Profile
from .saturation import Curve

NAMED = 0.04  # share of a step that an operation must take to be named in the roofline
KINDS = ("q, k, v, output", "feed-forward", "logits", *PARTS, "small ones", "Python")


def kinds(profile: Profile) -> dict[str, float]:
    """Return the seconds of a step by kind of operation, one of KINDS."""
    found = dict.fromkeys(KINDS, 0.0)
    for op in profile.operations:
        found[_kind(op)] += op.seconds
    return found | {"Python": max(0.0, profile.python)}


def _kind(op: Operation) -> str:
    if op.name == "logits":
        return "logits"
    if op.name.startswith(ATTEND):
        return next((part for part in PARTS if op.name.endswith(part)), "A·V")
    if op.cost.weights:
        return "q, k, v, output" if op.name.startswith("attn") else "feed-forward"
    return "small ones"


def merged(profile: Profile) -> list[Operation]:
    """Merge the operations of a step by kind: those that stream weights, K or V and multiply."""
    found: dict[str, Operation] = {}
    for op in profile.operations:
        if op.streamed and op.macs:
            kind = _kind(op)
            before = found.get(kind, Operation(kind, 0.0))
            found[kind] = Operation(kind, before.seconds + op.seconds, cost=before.cost + op.cost)
    return [op for op in found.values() if op.seconds > 0]


def roofline(profiles: Sequence[Profile], roofs: Roofs, threads: int) -> Plot:
    """Plot multiply-adds per second against those per byte, under the roofs, for each kind of operation."""

    def paint(axes: Axes, look: Look) -> None:
        axes.set(xscale="log", yscale="log")
        points = [[(op, op.macs / op.streamed) for op in merged(p)] for p in profiles]
        low, high = 0.25, max(400.0, *(1.5 * x for found in points for _, x in found))
        memory, near = roofs.bandwidth(threads) / 1e9, roofs.bandwidth(threads, 256 << 10) / 1e9
        paths = [*(["amx"] if cpu.AMX else []), cpu.DOT, "f32"]
        peaks = {path: roofs.peak(path, threads) / 1e9 for path in paths}
        top = max(peaks.values())
        for rate, what, style in ((memory, "memory", "-"), (near, "cache", "--")):
            label = f"{what}, {rate:.0f} GB/s"
            axes.plot([low, top / rate], [low * rate, top], style, color=look.ink, linewidth=1.2, label=label)
        for path, peak in peaks.items():
            axes.plot([peak / near, high], [peak, peak], color=look.ink, linewidth=1.2)
            _say(axes, f"{path}, {peak:,.0f} GMAC/s", (peak / near, peak), (14, 3), va="bottom")
        for i, (profile, found) in enumerate(zip(profiles, points, strict=True)):
            how: dict[str, Any] = {"color": look.series[i], "marker": MARKERS[i], "zorder": 3}
            axes.scatter([], [], label=f"{'prefill' if profile.prefill else 'decode'} at {profile.case.n_depth}", **how)
            near_by: dict[int, list[tuple[Operation, float]]] = {}
            for op, x in found:
                axes.scatter([x], [op.gmacs], s=14 + 170 * op.seconds / profile.whole, alpha=0.85, **how)
                if op.seconds > NAMED * profile.whole:
                    near_by.setdefault(round(log10(x)), []).append((op, x))
            for group in near_by.values():  # one label for what lies close together, the fastest first
                group.sort(key=lambda pair: -pair[0].gmacs)
                middle = (group[0][0].gmacs * group[-1][0].gmacs) ** 0.5
                at = max(x for _, x in group), middle
                _say(axes, "\n".join(op.name for op, _ in group), at, (11, 0), va="center")

    about = f"Roofline, {threads} threads" if threads > 1 else "Roofline, 1 thread"
    return Plot("roofline", about, "multiply-adds per byte of weights, K and V", "GMAC/s", paint, 4.6)


def _say(axes: Axes, text: str, at: tuple[float, float], away: tuple[int, int], **how: str) -> None:
    axes.annotate(text, at, xytext=away, textcoords="offset points", fontsize=8, **how)


def by_depth(profiles: Sequence[Profile]) -> Plot:
    """Plot the time of a step by kind of operation, a bar for each depth. The profiles differ only in depth."""
    ordered = sorted(profiles, key=lambda p: p.case.n_depth)
    prefill = ordered[0].prefill

    def paint(axes: Axes, look: Look) -> None:
        at = range(len(ordered))
        below = [0.0] * len(ordered)
        for i, kind in enumerate(KINDS):
            heights = [1e3 * kinds(p)[kind] for p in ordered]
            axes.bar(
                at, heights, 0.62, bottom=below, color=look.series[i], label=kind, edgecolor=look.paper, linewidth=0.7
            )
            below = [a + b for a, b in zip(below, heights, strict=True)]
        axes.set_xticks(at, [f"{p.case.n_depth}" for p in ordered])
        axes.grid(axis="x", visible=False)

    case = ordered[0].case
    what = f"Prefill of {ordered[0].rows} tokens" if prefill else "Time per token"
    title = f"{what}, K {case.type_k}, V {case.type_v}, {case.n_threads} threads"
    return Plot(
        "prefill-by-depth" if prefill else "decode-by-depth", title, "tokens in the cache before", "ms", paint, 4.2
    )


def saturation(curves: Sequence[Curve]) -> Plot:
    """Plot GB/s of decode against the number of threads, under what these threads can read. A ring marks the knee."""

    def paint(axes: Axes, look: Look) -> None:
        roof = max(curves, key=lambda curve: len(curve.points)).points
        axes.plot(
            [p.threads for p in roof],
            [p.ceiling / 1e9 for p in roof],
            "--",
            color=look.ink,
            label="what these threads can read",
        )
        for i, curve in enumerate(curves):
            colour, marker = look.series[i % len(look.series)], MARKERS[i % len(MARKERS)]
            axes.plot(
                [p.threads for p in curve.points],
                [p.gbps for p in curve.points],
                color=colour,
                marker=marker,
                label=curve.name,
            )
            knee = next(p for p in curve.points if p.threads == curve.knee)
            axes.plot([knee.threads], [knee.gbps], "o", markersize=13, markerfacecolor="none", markeredgecolor=colour)
        counts = sorted({p.threads for curve in curves for p in curve.points})
        axes.set_xticks(counts)
        axes.set_ylim(0, 1.15 * max(max(p.gbps, p.ceiling / 1e9) for curve in curves for p in curve.points))

    return Plot("saturation", "Saturation of the bus in decode", "threads", "GB/s of weights, K and V", paint)


def versus(profiles: Sequence[Profile]) -> Plot:
    """Plot where a token's time goes, a bar for each pair of types. The profiles differ only in types."""

    def paint(axes: Axes, look: Look) -> None:
        at = range(len(profiles))
        left = [0.0] * len(profiles)
        for part in (*PARTS, "all else"):
            widths = [
                1e3 * (kinds(p)[part] if part in PARTS else p.whole - sum(kinds(p)[name] for name in PARTS))
                for p in profiles
            ]
            colour = look.faint if part == "all else" else look.series[KINDS.index(part)]
            axes.barh(at, widths, 0.62, left=left, color=colour, label=part, edgecolor=look.paper, linewidth=0.7)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for i, (p, end) in enumerate(zip(profiles, left, strict=True)):
            read = size(p.part(f"{ATTEND} {PARTS[0]}").cost.k + p.part(f"{ATTEND} {PARTS[2]}").cost.v)
            axes.annotate(
                f"{p.tokens_per_second:.1f} tokens/s, {read}",
                (end, i),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_yticks(at, [f"{p.case.type_k} / {p.case.type_v}" for p in profiles])
        axes.invert_yaxis()
        axes.set_xlim(right=1.45 * max(left))
        axes.grid(axis="y", visible=False)

    case = profiles[0].case
    title = f"K against V at depth {case.n_depth}, {case.n_threads} threads"
    return Plot("k-against-v", title, "ms per token", "K / V", paint, 1.9 + 0.36 * len(profiles))
