"""`pyllm profile`: reads its flags, has machine and model measured, and makes a report of the findings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from ... import __version__
from ...engine.commands import screen
from ...engine.machine import host
from ...engine.machine.bars import Bars
from ...engine.machine.fit import Needs, needs
from ...engine.machine.host import usable_cores
from ...engine.machine.units import size
from ...engine.store import sources
from ...models.cache.spec import CacheSpec
from ...models.errors import UsageError
from ..bus import pictures, profiling, views
from ..bus.profiling import Profile
from ..bus.saturation import curves
from ..machine import noise, roofs
from ..machine.counters import Counters
from ..machine.noise import Conditions
from ..machine.roofs import Roofs
from ..report import chart, page, plot
from ..report.report import Report, Section, Table, check_folder
from ..speed import cases
from ..speed.cases import Case
from ..speed.engines import Models
from .shared import THREADS, StatusLine, models

NO_VERDICT = "No verdict: this machine was too busy, or its bandwidth too noisy, to say whether the bus was full."


def run(args: argparse.Namespace) -> int:
    """Measure and print; after Ctrl-C, print what was measured until then."""
    check(args)
    line = StatusLine()
    conditions = Conditions()
    with Bars() as progress:
        found = [] if args.machine else grid(args, progress)
        most = min(host.affinity(), max([usable_cores(), *(case.n_threads for case in found)]))
        here = roofs.of_this_machine(most, sources.cache_folder(), progress, line.warn, again=args.machine)
    profiles: list[Profile] = []
    opened, counters = Models(), Counters()
    try:
        profiling.profile(found, opened, args.repetitions, counters, profiles, line)
    finally:
        line.clear()
        counters.close()
        if profiles or args.machine:
            spoiled = [*roofs.warnings(here), *conditions.warnings()]
            warnings = [*spoiled, *cached(profiles)]
            findings = of_model(profiles, here, opened, args.memory, sure=not spoiled) if profiles else ()
            sections = [*findings, counted(profiles, counters)] if profiles else []
            title = f"Profile of {profiles[0].case.model.name}" if profiles else "What this machine can do"
            report = Report(title, about(), warnings, [*sections, of_machine(here)])
            deliver(args, report, as_json(profiles, here, warnings, counters))
    return 0


def about() -> str:
    when = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    return f"{host.cpu_info()}, {usable_cores()} cores, {when}, pyllm {noise.build()}"


def check(args: argparse.Namespace) -> None:
    """Raise, before anything is measured, if what the flags ask for cannot be written."""
    if args.plots or args.html:
        check_folder(Path(args.plots) if args.plots else Path(args.html).absolute().parent)
    if args.plots and not plot.available():
        raise UsageError("--plots: needs matplotlib: pip install 'pyllm[plot]'")
    if args.open and not args.html:
        args.html = "pyllm-profile.html"
        check_folder(Path.cwd())


def grid(args: argparse.Namespace, progress: Bars) -> list[Case]:
    """Return decode and prefill at each depth, for each pair of types and number of threads. Raises UsageError."""

    def whole(name: str, flag: str, default: list[int], low: int, high: int = cases.LIMIT) -> list[int]:
        texts = getattr(args, name)
        return sorted(set(cases.numbers(flag, texts, low, high) if texts else default))

    depths = whole("n_depth", "-d", [0, 4096], 0)
    threads = whole("threads", "-t", [usable_cores()], 1, THREADS)
    type_k = cases.cache_types("k", args.cache_type_k or ["f16"], args.cache_type_k_layers)
    type_v = cases.cache_types("v", args.cache_type_v or ["f16"], args.cache_type_v_layers)
    files = list(models(args, progress))
    if len(files) > 1:
        raise UsageError("profile takes one model; `pyllm bench` compares several")
    rows = max(1, args.n_prompt)
    return [
        Case(model=files[0], n_prompt=prompt, n_gen=generated, n_depth=depth, n_batch=rows, n_ubatch=rows,
             cache=CacheSpec(k, v, args.cache_rotate), n_threads=t)
        for depth in depths for k in type_k for v in type_v for t in threads
        for prompt, generated in ((0, 1), *([(args.n_prompt, 0)] if args.n_prompt > 1 else []))
    ]  # fmt: skip


def of_model(
    profiles: Sequence[Profile], here: Roofs, opened: Models, memory: int | None, *, sure: bool
) -> Iterator[Section]:
    """Yield the findings about a model. sure: nothing spoiled the figures, so verdicts can be given."""
    decode = [p for p in profiles if not p.prefill]
    most = max(p.case.n_threads for p in profiles)
    base = (profiles[0].case.type_k, profiles[0].case.type_v)
    shown = [p for p in profiles if (p.case.type_k, p.case.type_v, p.case.n_threads) == (*base, most)]
    yield by_operation(shown, here, most)
    if len({p.case.n_threads for p in decode}) > 1:
        found = list(curves(decode, here))
        deep = [curve for curve in found if curve.depth == max(curve.depth for curve in found)]
        words = [curve.words(usable_cores()) for curve in found] if sure else [NO_VERDICT]
        yield Section(
            "Saturation", words, [views.saturation(found)], [(pictures.saturation(deep), "A ring marks the knee.")]
        )
    pairs = list(dict.fromkeys((p.case.type_k, p.case.type_v) for p in decode))
    if len(pairs) > 1:
        deepest = max(p.case.n_depth for p in decode)
        last = [p for p in decode if (p.case.n_depth, p.case.n_threads) == (deepest, most)]
        plots = [(pictures.versus(last), "Time per token, tokens/s, and the bytes of K and V that a token reads.")]
        words = [*views.gains(decode, base), *([] if sure else ["This machine was not quiet: gains may differ."])]
        yield Section("K against V", words, [views.versus(decode, base)], plots)
    gguf, config = opened[profiles[0].case.model]

    def need(pair: tuple[str, str]) -> Needs:
        return needs(gguf, config, 0, CacheSpec(*pair))

    total = memory or psutil.virtual_memory().total
    yield Section("What fits", tables=[views.capacity(need, pairs, total)])
    if others := [p for p in profiles if p not in shown]:
        yield Section("Every other case", tables=[views.operations(p, here, full=True) for p in others])


def by_operation(shown: Sequence[Profile], here: Roofs, most: int) -> Section:
    cost = max(0.0, profiling.stamps_cost(shown))
    text = [
        "An operation's time lasts from the end of the one before to its own end; waiting is the part of it that "
        "threads spent at its barrier, on average. Bytes and multiply-adds are counted from the plan. The roof is what "
        "limits an operation: memory, at the rate at which the same threads read as many bytes as the step does, or "
        "multiply-adds.",
        "Q·Kᵀ, softmax and A·V are one operation. It was also run without A·V, and without A·V and softmax; its time "
        "in the step is divided in this proportion. Caches were filled with copies of a few computed pages.",
        f"The stamps cost {cost:.1%} of a decode step.",
    ]
    last = [next(p for p in reversed(shown) if p.prefill is prefill) for prefill in sorted({p.prefill for p in shown})]
    pics = [(pictures.roofline(last, here, most), "The larger the mark, the more time the operation takes.")]
    for prefill in (False, True):
        depths = [p for p in shown if p.prefill is prefill]
        if len(depths) > 1:
            pics.append((pictures.by_depth(depths), ""))
    bars: list[str] = []
    for p in shown:
        found = {kind: 1e3 * seconds for kind, seconds in pictures.kinds(p).items()}
        bars += [
            "",
            views.name(p) + f": {p.tokens_per_second:.1f} tokens/s, {p.gbps:.1f} GB/s",
            *chart.bars(found, "ms", form=".2f"),
        ]
    short = [views.operations(p, here) for p in shown]
    full = [views.operations(p, here, full=True) for p in shown]
    return Section("By operation", text, [*short, *full], pics, bars)


def counted(profiles: Sequence[Profile], counters: Counters) -> Section:
    """Compare the bytes that the hardware counted with those of the plan."""
    if counters.why:
        return Section("Hardware counters", [f"None: {counters.why}. All bytes here are counted from the plan."])
    rows = [[views.name(p), size(p.streamed), size(p.dram), f"{p.dram / p.streamed:.0%}"] for p in profiles if p.dram]
    text = ["Bytes that all programs read during a step, counted by the memory controllers."]
    return Section("Hardware counters", text, [Table("", ["step", "by the plan", "by hardware", "of it"], rows)])


def of_machine(here: Roofs) -> Section:
    text = [
        f"The best of a few measurements by the engine's own threads, {here.measured}, kept for this machine. "
        "As in STREAM, a copy counts two bytes for each that is written, a triad three."
    ]
    tables = [Table("GB/s", *roofs.table(here, kind)) for kind in roofs.ARRAYS]
    peaks = [[path, *(f"{rate / 1e9:,.0f}" for rate in curve.values())] for path, curve in here.peaks.items()]
    counts = [f"{n} threads" if n > 1 else "1 thread" for n in here.threads]
    return Section("This machine", text, [*tables, Table("Multiply-adds, GMAC/s", ["path", *counts], peaks)])


def cached(profiles: Sequence[Profile]) -> Iterator[str]:
    """Warn of steps that a cache may hold."""
    last = host.last_level_cache()
    small = [p.streamed for p in profiles if p.streamed < 2 * last and not p.prefill]
    if small:
        yield (
            f"a token reads {size(min(small))}, much of which may stay in the last-level cache ({size(last)}): "
            "such a case does not show the memory bus; --synthetic 3B does"
        )


def as_json(profiles: Sequence[Profile], here: Roofs, warnings: Sequence[str], counters: Counters) -> dict[str, Any]:
    """Return all figures as one JSON object."""
    return {
        "version": __version__,
        "build": noise.build(),
        "machine": asdict(here),
        "warnings": list(warnings),
        "counters": counters.why or "read",
        "profiles": [profiling.as_json(p, here) for p in profiles],
    }


def deliver(args: argparse.Namespace, report: Report, figures: dict[str, Any]) -> None:
    """Print the report, and write the files that the flags ask for."""
    if args.output == "json":
        print(json.dumps(figures, indent=2))
    else:
        report.show(sys.stdout, args.output)
    where = sys.stdout if args.output == "table" else sys.stderr
    if args.plots:
        for path in report.save_plots(Path(args.plots), args.plot_format):
            screen.say(f"plot: {path}", where)
    if args.html:
        path = Path(args.html)
        report.page().write(path)
        screen.say(f"report: {path}", where)
        if args.open and (problem := page.show(path)):
            screen.warn(problem)
