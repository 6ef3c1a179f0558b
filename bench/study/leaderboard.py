"""A study of policies as a report: who loses the least at which bytes, tables and a picture; measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..report.plot import MARKERS, Axes, Look, Plot
from ..report.report import Report, Section, Table
from .cells import Results
from .contenders import KINDS, RETRIEVAL, Contender
from .stats import frontier

PAGE = "report.html"
COLUMNS = ["", "bytes", "of", "KLD from f32", "same top", "passkeys", "dictionary", "log p", "tokens/s"]
NOTE = (
    "bytes: those of a sequence of that many tokens by those of f16/f16, in layers that keep all tokens. real: held "
    "and read; computed: a format of a paper that has no kernel, with scales, zero points, outliers, and the tokens "
    "that it keeps in 16 bits; K and V are rounded as in that format and kept in f32, so there are no tokens/s. "
    "KLD: nats, on prose, with its standard error. passkeys, dictionary: answers found, of those that an f32 cache "
    "finds; log p: what the dictionary's answers lose."
)


@dataclass(frozen=True)
class Leaderboard:
    """The results of a study so far, whole or in part."""

    heading: Mapping[str, Any]
    results: Results
    every: Sequence[Contender]
    context: int
    budgets: Sequence[float]  # shares of f16's bytes, from many to few

    def of(self, contender: Contender, task: str) -> Mapping[str, Any] | None:
        """Return the result of a task or of "speed"; None if it was not measured, or the texts had no samples."""
        cell = contender.cells(self.context).get(task)
        found = self.results.get(cell.key) if cell else None
        return None if found is None or found.get("samples") == 0 else found

    def ranked(self, most: float, least: float = 0.0) -> list[Contender]:
        """Return those of more than `least` and at most `most` of f16's bytes, the smallest loss first."""
        found = [
            (r["kld_mean"], c.name, c)
            for c in self.every
            if least < c.share <= most + 5e-4 and (r := self.of(c, "prose"))
        ]
        return [contender for _, _, contender in sorted(found, key=lambda each: each[:2])]

    def sentences(self) -> Iterator[str]:
        """Yield who loses the least at each budget."""
        for budget in self.budgets:
            ranked = self.ranked(budget)
            if not ranked:
                yield f"At {budget:g} of f16's bytes or less: nothing was measured."
                continue
            real = next((c for c in ranked if not c.computed), None)
            said = f"At {budget:g} of f16's bytes or less {self._loss(ranked[0])} loses the least"
            also = f"; of those that have kernels {self._loss(real)}" if real and real is not ranked[0] else ""
            yield f"{said}{also}."

    def _loss(self, contender: Contender) -> str:
        found = self.of(contender, "prose")
        assert found is not None
        return f"{contender.name} ({found['kld_mean']:.4f} nats, {contender.share:.3f})"

    def tables(self) -> Iterator[Table]:
        """Yield a table for each budget, with what has more bytes than the next one, and one for what has more."""
        bounds = [max([1.0, *self.budgets]), *self.budgets, 0.0]
        for most, least in pairwise(bounds):
            rows = [self.row(contender) for contender in self.ranked(most, least + 5e-4 if least else 0.0)]
            if rows:
                caption = f"Up to {most:g} of f16's bytes and above {least:g}, {self.context} tokens" if least else ""
                caption = caption or f"Up to {most:g} of f16's bytes, {self.context} tokens"
                yield Table(caption, COLUMNS, rows, left=(0, 2), keys=(0,))

    def row(self, contender: Contender) -> list[str]:
        prose, speed = self.of(contender, "prose"), self.of(contender, "speed")
        assert prose is not None
        tasks = [self.of(contender, task) for task in RETRIEVAL]
        hits = [f"{r['hits']:.0%} of {r['hits_reference']:.0%}" if r else "" for r in tasks]
        lost = f"{tasks[1]['ln_ppl_ratio']:+.3f}" if tasks[1] else ""
        rate = "no kernel" if contender.computed else f"{speed['tokens_per_s']:.1f}" if speed else ""
        return [
            contender.name, f"{contender.share:.3f}", "computed" if contender.computed else "real",
            f"{prose['kld_mean']:.5f} ± {prose['kld_error']:.5f}", f"{prose['same_top']:.1%}", *hits, lost, rate,
        ]  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """Return all that is known of each contender, for programs."""
        return [
            {"name": c.name, "kind": c.kind, "flags": str(c.cache), "bytes": c.share,
             "bytes_are": "computed" if c.computed else "real",
             **{task: dict(r) for task in c.cells(self.context) if (r := self.of(c, task))}}
            for c in self.ranked(2.0)
        ]  # fmt: skip

    def report(self) -> Report:
        """Return the report, for a terminal and for a page."""
        about = f"{self.heading['file']}, {self.heading['prose']}, {self.context} tokens"
        title = "Loss on prose against bytes"
        picture = Plot(
            "policies", title, "bytes, of f16/f16's", "KLD from f32", partial(_paint, board=self), height=4.6
        )
        caption = "The line joins what nothing of the same or fewer bytes beats. Bytes of papers are computed."
        found = Section("Who loses the least", [*self.sentences()], plots=[(picture, caption)])
        tables = Section("At equal bytes", [NOTE], list(self.tables()))
        return Report(f"Policies: {self.heading['model']}", about, [], [found, tables])

    def write(self, folder: Path) -> Path:
        """Write the page and return its path. Raises PyllmError."""
        self.report().page().write(folder / PAGE)
        return folder / PAGE


def _paint(axes: Axes, look: Look, board: Leaderboard) -> None:
    points = {c.name: (c.share, float(r["kld_mean"]), c) for c in board.every if (r := board.of(c, "prose"))}
    for i, kind in enumerate(KINDS):
        some = [(x, y) for x, y, c in points.values() if c.kind == kind and y > 0]
        if some:
            axes.plot(*zip(*some, strict=True), MARKERS[i], color=look.series[i], label=kind)
    best = frontier([(x, y, name) for name, (x, y, _) in points.items() if y > 0])
    axes.plot([x for x, _, _ in best], [y for _, y, _ in best], color=look.faint, zorder=0)
    for x, y, name in best:
        axes.annotate(name.replace("sink=64:f16,tail=128:f16", "+ segments"), (x, y), fontsize=7, xytext=(3, 4),
                      textcoords="offset points", color=look.ink)  # fmt: skip
    axes.set_yscale("log")
