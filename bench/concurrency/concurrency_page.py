"""A study of concurrency as a report: what was found, one picture, and the tables; computes nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from ...models.cache.spec import CacheSpec
from ..report.plot import MARKERS, Axes, Look, Plot
from ..report.report import Report, Section
from .claims import claims
from .outcome import Outcome

PAGE = "report.html"


def report(outcome: Outcome) -> Report:
    """Return the report, for a terminal and for a page."""
    heading, options = outcome.heading, outcome.options
    about = f"{heading['file']}, {heading['cpu']}, {options.threads} threads, {options.memory / (1 << 30):g} GiB"
    plots = [(picture(outcome), CAPTION)] if shown(outcome) else []
    found = Section("What was found", list(outcome.sentences()), plots=plots)
    tables = (Section(t.caption, [outcome.note(t.caption)], [replace(t, caption="")]) for t in outcome.tables())
    said = [Section("Common claims", each)] if (each := [str(claim) for claim in claims(outcome)]) else []
    title = f"Concurrency: {heading['model']}"
    return Report(title, about, list(outcome.warnings()), [found, *said, *tables])


CAPTION = (
    "Points are measured (bars: the range of all rounds), lines are the model, dashed where it goes on beyond what "
    "was measured, up to the sessions that fit in the memory."
)


def shown(outcome: Outcome) -> bool:
    """Return whether there is something to draw."""
    return bool(pictured(outcome))


def picture(outcome: Outcome) -> Plot:
    """Return tokens/s by the number of sequences."""
    title = f"Tokens/s of all sequences, {outcome.options.main} tokens each"
    return Plot("concurrency", title, "sequences at once", "tokens/s", partial(_paint, outcome=outcome), height=4.2)


def pictured(outcome: Outcome) -> list[CacheSpec]:
    """Return the caches in the picture: both ends, K alone and V alone at the end, and K a step down with V at the end.

    The largest comes first.
    """
    first, *_, last = types = outcome.options.types
    pairs = [(first, first), (last, first), (first, last), (types[1], last), (last, last)]
    chosen = {outcome.options.cache(*pair) for pair in pairs}
    return [cache for cache in outcome.by_size() if cache in chosen and outcome.steps(cache, outcome.options.main)]


def _paint(axes: Axes, look: Look, outcome: Outcome) -> None:
    depth = outcome.options.main
    for i, cache in enumerate(pictured(outcome)):
        colour, points, fitted = look.series[i], outcome.steps(cache, depth), outcome.fitted(cache)
        x = [p["sequences"] for p in points]
        rates = [n / p["seconds"] for n, p in zip(x, points, strict=True)]
        spread = [[r - n / p["high"], n / p["low"] - r] for n, r, p in zip(x, rates, points, strict=True)]
        low, high = ([max(0.0, s[side]) for s in spread] for side in (0, 1))
        axes.errorbar(x, rates, yerr=[low, high], fmt=MARKERS[i], color=colour, elinewidth=1, label=cache.pair)
        if fitted is None:
            continue
        end = max(x[-1], min(outcome.sessions(cache, depth), 4 * outcome.options.most))
        for begin, stop, style in ((1, x[-1], "-"), (x[-1], end, "--")):
            at = [begin * (stop / begin) ** (k / 40) for k in range(41)]
            axes.plot(at, [n / fitted.model.seconds(n, depth) for n in at], style, color=colour, linewidth=1.4)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(bottom=0)


def write(outcome: Outcome, folder: Path) -> Path:
    """Write the page, and return its path. Raises PyllmError."""
    path = folder / PAGE
    report(outcome).page().write(path)
    return path
