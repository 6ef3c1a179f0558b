"""A study as tables; measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...models.cache.sizes import token_bytes
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ..report.report import Table
from .cells import Cell, Options, Results, floor, long, norms, sensitivity, splits, targets, usual
from .stats import frontier, more_bits, rank_correlation
from .tasks import TASKS


def _side(losses: Mapping[tuple[str, int], float], side: str) -> list[float]:
    """Return the losses of one side ("k" or "v"), layer by layer."""
    return [losses[key] for key in sorted(losses) if key[0] == side]


def _with_error(result: Mapping[str, Any], name: str, digits: str) -> str:
    """Return a figure with its standard error; without it where an older study has none."""
    error = result.get(f"{name.removesuffix('_mean')}_error")
    return f"{result[name]:{digits}}" + ("" if error is None else f" ± {error:{digits.removeprefix('+')}}")


@dataclass(frozen=True)
class Findings:
    """The results of a study so far, whole or in part: what has no results yet is left out."""

    heading: Mapping[str, Any]
    results: Results
    config: Config
    options: Options

    def of(self, measure: str, task: str, context: int, k: str, v: str, rotate: str | None = None) -> Any:
        """Return the result of a cell, or of a first look at it.

        None if neither was measured, or the task had no samples.
        """
        cell = Cell(measure, task, context, CacheSpec(k, v, rotate or self.options.rotate[0]))
        found = self.results.get(cell.key) or self.results.get(replace(cell, few=True).key)
        return None if found is None or found.get("samples") == 0 else found

    def tables(self) -> Iterator[Table]:
        single = (self._frontier(), self._asymmetry(), self._tasks(), self._splits(), self._generation())
        for table in (*self._pairs(), *single[:3], *self._attention(), *single[3:]):
            if table.rows:
                yield table

    def _bytes(self, k: str, v: str) -> str:
        return f"{token_bytes(self.config, CacheSpec(k, v)) / 1024:.1f} KiB"

    def _pairs(self) -> Iterator[Table]:
        types, first = ("f32", *self.options.types), self.options.contexts[0]
        for rotate in self.options.rotate:
            found = [(k, v, "", self.of("score", "prose", first, k, v, rotate)) for k in types for v in types]
            found += [("f16", "f16", ", fast", self.results.get(cell.key)) for cell in floor(self.options)
                      if cell.cache.rotate == rotate]  # fmt: skip
            rows = [
                [f"{k}/{v}{how}", self._bytes(k, v), _with_error(r, "kld_mean", ".5f"), f"{r['kld_99']:.3f}",
                 f"{r['same_top']:.1%}", _with_error(r, "ppl", ".2f"), _with_error(r, "ln_ppl_ratio", "+.4f"),
                 str(r["samples"])]
                for k, v, how, r in found if r
            ]  # fmt: skip
            for n, r in sorted({r["samples"]: r for *_, r in found if r}.items()):  # the reference on as many texts
                exact = _with_error(r, "ppl_reference", ".2f")
                rows.insert(0, ["f32/f32", self._bytes("f32", "f32"), "0", "0", "100%", exact, "0", str(n)])
            columns = ["K/V", "per token", "KLD from f32", "99 %", "same top", "PPL", "ln ratio", "texts"]
            yield Table(f"Pairs on prose, {first} tokens, rotation {rotate}", columns, rows)

    def _frontier(self) -> Table:
        """Return the pairs that no pair of the same size or less beats."""
        first, types = self.options.contexts[0], self.options.types
        points = [
            (float(token_bytes(self.config, CacheSpec(k, v))), float(r["kld_mean"]), f"{k}/{v}, rotation {rotate}")
            for rotate in self.options.rotate for k in types for v in types
            if (r := self.of("score", "prose", first, k, v, rotate))
        ]  # fmt: skip
        rows = [[name, f"{size / 1024:.1f} KiB", f"{loss:.5f}"] for size, loss, name in frontier(points)]
        return Table("The best pairs by size", ["K/V", "per token", "KLD from f32"], rows)

    def _asymmetry(self) -> Table:
        """Return the loss of each type in K alone and in V alone."""
        rows, first = [], self.options.contexts[0]
        noise = self.of("score", "prose", first, "f16", "f16")
        for rotate in self.options.rotate:
            for t in self.options.types:
                k = self.of("score", "prose", first, t, "f32", rotate)
                v = self.of("score", "prose", first, "f32", t, rotate)
                if k and v and noise:
                    losses = k["kld_mean"], v["kld_mean"]
                    bits = more_bits(*losses, noise["kld_mean"])
                    said = "in the noise" if bits is None else f"{bits:+.1f}"
                    ratio = f"{losses[0] / losses[1]:.1f}" if losses[1] > 0 else ""
                    rows.append([t, rotate, *(f"{x:.5f}" for x in losses), ratio, said])
        columns = ["type", "rotation", "KLD of K", "KLD of V", "K / V", "bits that K needs more"]
        return Table("K alone and V alone in a type, the other exact", columns, rows, keys=(0, 1))

    def _tasks(self) -> Table:
        rows = []
        for task in TASKS:
            for context in sorted({*self.options.contexts, usual(self.config), long(self.config)}):
                if task == "prose" and context == self.options.contexts[0]:
                    continue  # the pairs' own table has it
                for k, v in self.options.pairs():
                    if r := self.of("score", task, context, k, v):
                        loss = f"{r['ln_ppl_ratio']:+.4f} ± {r['ln_ppl_ratio_error']:.4f}"
                        hits = "" if task == "prose" else f"{r['hits']:.0%} of {r['hits_reference']:.0%}"
                        kld = f"{r['kld_mean']:.4f} ± {r['kld_error']:.4f}"
                        same = f"{r['same_top']:.1%}"
                        rows.append([task, str(context), f"{k}/{v}", kld, loss, same, hits, str(r["samples"])])
        columns = ["task", "tokens", "K/V", "KLD", "loss of log p", "same top", "hits, of f32's", "texts"]
        return Table("Tasks and lengths", columns, rows, keys=(0, 1, 2))

    def _attention(self) -> Iterator[Table]:
        rows = []
        for rotate in self.options.rotate:
            for t in self.options.types:
                if r := self.of("attention", "prose", usual(self.config), t, t, rotate):
                    shown = ("logit_rms", "weights_kld", "far_lost", "top_overlap", "output_k", "output_v")
                    rows.append([t, rotate, *(f"{sum(r[name]) / len(r[name]):.4f}" for name in shown)])
        columns = ["type", "rotation", "logits, RMS", "weights, KLD", "far lost", "top 16 kept", "out by K", "by V"]
        yield Table(f"Attention at {usual(self.config)} tokens, mean of layers", columns, rows, keys=(0, 1))
        shapes = self.results.get(norms(self.options, self.config).key)
        losses = sensitivity(self.options, self.config, self.results)
        if shapes and losses:
            figures = ("frobenius_k", "frobenius_v", "spectral_k", "spectral_v", "outlier_k", "outlier_v")
            by_layer = [
                [str(i), *(f"{losses[s, i]:.5f}" for s in "kv"), *(f"{shapes[name][i]:.1f}" for name in figures)]
                for i in range(self.config.n_layer)
            ]
            columns = ["layer", "KLD of K", "of V", "norm K", "V", "spectral K", "V", "outlier K", "V"]
            ranks = [
                [name, *(f"{rank_correlation(_side(losses, s), shapes[f'{name}_{s}']):+.2f}" for s in "kv")]
                for name in ("frobenius", "spectral", "outlier", "weights") if shapes[f"{name}_k"]
            ]  # fmt: skip
            yield Table("How well a layer's figures tell its loss: rank correlation", ["figure", "K", "V"], ranks)
            yield Table("Layers: the loss of q4_0 in one of them, and what K and V look like", columns, by_layer)

    def _splits(self) -> Table:
        rows = []
        names = ["by measured loss", "by the weights' norm"]
        made = list(splits(self.options, self.config, self.results))
        for number, (k, v) in enumerate(targets(self.options)):
            each = [("uniform", k, v)]
            each += [(name, made[at].cache.k, made[at].cache.v) for i, name in enumerate(names)
                     if (at := i * len(targets(self.options)) + number) < len(made)]  # fmt: skip
            for name, key, value in each if len(each) > 1 else ():
                if r := self.of("score", "prose", self.options.contexts[0], key, value):
                    flags = (
                        f"--cache-type-k-layers {key} --cache-type-v-layers {value}" if ":" in key else f"{key}/{value}"
                    )
                    rows.append([name, self._bytes(key, value), f"{r['kld_mean']:.5f} ± {r['kld_error']:.5f}", flags])
        columns = ["rule", "per token", "KLD", "flags"]
        return Table("Bits by layer, of the same bytes as a uniform pair", columns, rows, left=(0, 3))

    def _generation(self) -> Table:
        rows = [
            [f"{k}/{v}", f"{r['first_difference']:.0f}", f"{r['repeated']:.1%} ({r['repeated_reference']:.1%})",
             f"{r['length']:.0f} ({r['length_reference']:.0f})"]
            for k, v in self.options.pairs() if (r := self.of("generate", "prose", usual(self.config), k, v))
        ]  # fmt: skip
        columns = ["K/V", "first token that differs", "repeated 4-grams (f32)", "length (f32)"]
        return Table("Free generation, greedy", columns, rows)
