"""A study's plots: heat map, loss against bytes, length and distance, and by layer; computes no statistics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from ...models.cache.sizes import token_bytes
from ...models.cache.spec import CacheSpec
from ..quality.attention_errors import DISTANCES
from ..report.plot import MARKERS, Axes, Look, Plot
from .cells import sensitivity, usual
from .findings import Findings
from .stats import frontier
from .tasks import TASKS


def plots(findings: Findings) -> Iterator[Plot]:
    """Yield the plots for which there are results."""
    first, main = findings.options.contexts[0], findings.options.rotate[0]
    types, pairs = ("f32", *findings.options.types), findings.options.pairs()
    loss = {(k, v, r): found["kld_mean"] for k in types for v in types for r in findings.options.rotate
            if (found := findings.of("score", "prose", first, k, v, r))}  # fmt: skip
    if loss:
        title = f"KLD from f32, {first} tokens of prose, rotation {main}"
        yield Plot("heat", title, "V", "K", partial(_heat, types=types, loss=loss, rotate=main))
        yield Plot("frontier", "Loss against size", "KiB per token", "KLD from f32",
                   partial(_frontier, findings=findings, loss=loss))  # fmt: skip
    for task in TASKS:
        if any(findings.of("score", task, c, *pair) for c in findings.options.contexts[1:] for pair in pairs):
            title = f"Loss against length: {task}"
            paint = partial(_lengths, findings=findings, task=task)
            yield Plot(f"length-{task}", title, "tokens of context", "KLD from f32", paint)
    if any(findings.of("attention", "prose", usual(findings.config), t, t) for t in findings.options.types):
        title = "Error of attention's logits by distance"
        yield Plot("distance", title, "tokens back, at least", "RMS error", partial(_distances, findings=findings))
    if sensitivity(findings.options, findings.config, findings.results):
        title = "Loss of q4_0 in a single layer"
        yield Plot("layers", title, "layer", "KLD from f32", partial(_layers, findings=findings))


def _heat(axes: Axes, look: Look, types: tuple[str, ...], loss: dict[tuple[str, str, str], float], rotate: str) -> None:
    grid = np.array([[loss.get((k, v, rotate), np.nan) for v in types] for k in types])
    shades = np.log10(np.maximum(grid, 1e-4))
    axes.imshow(shades, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(types)), types, rotation=45)
    axes.set_yticks(range(len(types)), types)
    axes.grid(False)
    middle = (np.nanmin(shades) + np.nanmax(shades)) / 2
    for i, j in np.argwhere(np.isfinite(grid)):
        ink = "#ffffff" if shades[i, j] <= middle else "#000000"
        axes.text(j, i, f"{grid[i, j]:.4f}", ha="center", va="center", fontsize=7, color=ink)


def _frontier(axes: Axes, look: Look, findings: Findings, loss: dict[tuple[str, str, str], float]) -> None:
    for number, rotate in enumerate(findings.options.rotate):
        points = sorted(
            (token_bytes(findings.config, CacheSpec(k, v)) / 1024, value, f"{k}/{v}")
            for (k, v, r), value in loss.items() if r == rotate and "f32" not in (k, v)
        )  # fmt: skip
        if not points:
            continue
        axes.plot(*zip(*[p[:2] for p in points], strict=True), MARKERS[number], color=look.series[number], alpha=0.5,
                  label=f"rotation {rotate}")  # fmt: skip
        best = frontier(points)
        axes.plot(*zip(*[p[:2] for p in best], strict=True), color=look.series[number])
        for x, y, name in best if number == 0 else []:
            axes.annotate(name, (x, y), fontsize=7, xytext=(3, 4), textcoords="offset points", color=look.ink)
    axes.set_yscale("log")


def _lengths(axes: Axes, look: Look, findings: Findings, task: str) -> None:
    lengths = sorted(dict.fromkeys((*findings.options.contexts, usual(findings.config))))
    for i, (k, v) in enumerate(findings.options.pairs()[:8]):
        found = [(n, r["kld_mean"]) for n in lengths if (r := findings.of("score", task, n, k, v))]
        if found:
            axes.plot(*zip(*found, strict=True), f"{MARKERS[i]}-", color=look.series[i], label=f"{k}/{v}")
    _doubling(axes)
    axes.set_yscale("log")


def _doubling(axes: Axes) -> None:
    """Give x a scale of powers of two, with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")


def _distances(axes: Axes, look: Look, findings: Findings) -> None:
    for i, t in enumerate(findings.options.types[:8]):
        for j, rotate in enumerate(findings.options.rotate[:2]):
            if found := findings.of("attention", "prose", usual(findings.config), t, t, rotate):
                columns = list(zip(*found["logit_rms_by_distance"], strict=True))
                points = [(max(DISTANCES[n], 1), np.mean(c)) for n, c in enumerate(columns) if None not in c]
                axes.plot(*zip(*points, strict=True), f"{MARKERS[i]}{'-' if j == 0 else ':'}", color=look.series[i],
                          label=f"{t}, {rotate}")  # fmt: skip
    _doubling(axes)
    axes.set_yscale("log")


def _layers(axes: Axes, look: Look, findings: Findings) -> None:
    losses = sensitivity(findings.options, findings.config, findings.results) or {}
    for i, side in enumerate("kv"):
        values = [losses[side, n] for n in range(findings.config.n_layer)]
        axes.plot(values, f"{MARKERS[i]}-", color=look.series[i], label=side.upper())
    axes.set_yscale("log")
