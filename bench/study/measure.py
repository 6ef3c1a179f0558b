"""Measures a study's cells: each measure is a function of the model, the texts and the cell; keeps no results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ...engine.stepper import Session
from ...kernels.formats.table import FORMATS
from ...models.cache import rotation
from ...models.forward import upcast
from ..quality import divergence
from ..quality.attention_errors import errors, rounded, shape
from ..quality.caches import EXACT, Caches
from ..quality.divergence import Divergence
from ..quality.scoring import divergences, restart
from ..speed.engines import random_tokens
from .cells import Cell
from .tasks import TASKS, Sample, samples
from .texts import Sources

GENERATED = 96
"""Most tokens of a free generation."""
QUERIES = 48
"""Rows in the second half of the context whose attention is compared."""
STEPS, ROUNDS = 8, 5
"""Decode steps of a round, and rounds in which caches take turns, so that noise meets all alike."""
NGRAM = 4
"""Tokens of the n-grams whose repetition is counted."""


@dataclass
class Bench:
    """The model, texts and seed that all cells share."""

    caches: Caches
    sources: Sources
    seed: int

    def samples(self, cell: Cell) -> list[Sample]:
        """Return the samples that a cell asks for, fewer if the texts do not have as many."""
        return samples(TASKS[cell.task], self.sources, self.caches.tokenizer, cell.context, self.seed, cell.samples)


def groups(bench: Bench, cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Yield the cells in their order, in groups that can be measured side by side. Raises FitError."""
    run: list[Cell] = []
    for cell in cells:
        if run and _alike(run[0]) != _alike(cell):
            yield from _fitting(bench, run)
            run = []
        run.append(cell)
    if run:
        yield from _fitting(bench, run)


def _alike(cell: Cell) -> tuple[str, str, int, bool, bool]:
    """Return what cells that are measured side by side have in common."""
    return cell.measure, cell.task, cell.context, cell.fast, cell.few


def _fitting(bench: Bench, cells: list[Cell]) -> Iterator[list[Cell]]:
    if cells[0].measure not in BESIDE:
        yield cells
        return
    bench.caches.n_ctx = cells[0].context
    waiting = iter(cells)
    for group in bench.caches.groups([cell.cache for cell in cells], [EXACT]):
        yield [next(waiting) for _ in group]


def prepare(bench: Bench, cells: Sequence[Cell]) -> None:
    """Have the kernels of these cells compiled, where they are not yet."""
    for cell in cells:
        if cell.measure in BESIDE:
            bench.caches.n_ctx = max(cell.context, 64)
            with bench.caches.open([cell.cache], fast=cell.fast):
                pass


def measure(bench: Bench, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Measure the cells of one group and return their results by key."""
    bench.caches.n_ctx = max(cells[0].context, 64)
    if cells[0].measure in BESIDE:
        own = bench.caches.open([cell.cache for cell in cells], fast=cells[0].fast)
        with bench.caches.open([EXACT]) as reference, own as engines:
            exact, *others = [engine.session() for engine in [*reference, *engines]]
            found = BESIDE[cells[0].measure](bench, cells[0], exact, others)
        return {cell.key: result for cell, result in zip(cells, found, strict=True)}
    return {cell.key: result for cell, result in zip(cells, ALONE[cells[0].measure](bench, cells), strict=True)}


# Side by side with the exact cache ---------------------------------------------------------------------------------


def _score(bench: Bench, cell: Cell, exact: Session, others: Sequence[Session]) -> list[dict[str, Any]]:
    asked = bench.samples(cell)
    if not asked:
        return [{"samples": 0} for _ in others]
    parts: list[list[Divergence]] = [[] for _ in others]
    for sample in asked:
        for found, part in zip(parts, divergences(exact, others, sample.tokens, len(sample.prompt) - 1), strict=True):
            found.append(part)
    return [_summary(found) for found in parts]


def _summary(parts: Sequence[Divergence]) -> dict[str, Any]:
    """Return the statistics of a cell's samples, how often the whole answer is right, and the loss along the answer."""
    whole = divergence.statistics(Divergence.joined(parts))
    keys = (
        "ppl", "ppl_error", "ppl_reference", "ppl_reference_error", "nll", "ln_ppl_ratio", "ln_ppl_ratio_error",
        "kld_mean", "kld_error", "kld_max", "delta_p_mean", "delta_p_rms", "same_top", "same_top_error",
    )  # fmt: skip
    length = min(len(part.kld) for part in parts)
    course = np.mean(
        [[piece.mean() for piece in np.array_split(part.kld[:length], min(8, length))] for part in parts], axis=0
    )
    return {
        **{key: whole[key] for key in keys},
        "kld_median": whole["kld_percentiles"]["50"],
        "kld_99": whole["kld_percentiles"]["99"],
        "samples": len(parts),
        "tokens": sum(len(part.kld) for part in parts),
        "hits": float(np.mean([part.right.all() for part in parts])),
        "hits_reference": float(np.mean([part.right_reference.all() for part in parts])),
        "kld_course": [float(x) for x in course],
    }


def _generate(bench: Bench, cell: Cell, exact: Session, others: Sequence[Session]) -> list[dict[str, Any]]:
    eog = bench.caches.tokenizer.eog
    found: list[list[dict[str, float]]] = [[] for _ in others]
    for sample in bench.samples(cell):
        prompt = sample.prompt[: max(1, cell.context - GENERATED)]
        reference = _greedy(exact, prompt, eog)
        for results, session in zip(found, others, strict=True):
            text = _greedy(session, prompt, eog)
            differ = (i for i, (a, b) in enumerate(zip(text, reference, strict=False)) if a != b)
            same = next(differ, min(len(text), len(reference)))
            results.append({"first_difference": same, "repeated": repeated(text), "length": len(text),
                            "repeated_reference": repeated(reference), "length_reference": len(reference)})  # fmt: skip
    return [{key: float(np.mean([r[key] for r in results])) for key in results[0]} for results in found]


def _speed(bench: Bench, cell: Cell, exact: Session, others: Sequence[Session]) -> list[dict[str, Any]]:
    """Return the tokens/s of decode steps at the cell's context: the median of rounds in turns, and their range."""
    tokens = random_tokens(bench.caches.config.n_vocab, cell.context - STEPS)
    rates: list[list[float]] = [[] for _ in others]
    for session in others:
        session.prefill(tokens)
    for turn in range(ROUNDS + 1):  # the first one warms up
        for session, found in zip(others, rates, strict=True):
            session.rewind(len(tokens))
            begin = perf_counter()
            for token in tokens[:STEPS]:
                session.decode(token)
            found += [STEPS / (perf_counter() - begin)] if turn else []
    return [{"tokens_per_s": median(found), "low": min(found), "high": max(found)} for found in rates]


def _greedy(session: Session, prompt: Sequence[int], eog: frozenset[int]) -> list[int]:
    known = restart(session, prompt[:-1])  # the last is taken in again, for its logits
    logits, found = session.prefill(prompt[known:]), list[int]()
    while len(found) < GENERATED and (token := int(logits.argmax())) not in eog:
        found.append(token)
        logits = session.decode(token)
    return found


def repeated(tokens: Sequence[int]) -> float:
    """Return the share of n-grams that occurred before."""
    grams = [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


# From exact queries, keys and values --------------------------------------------------------------------------------


def _attention(bench: Bench, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return, for each cell, a list of each error with an entry per layer."""
    config = bench.caches.config
    types = [cell.cache.layers(config.n_layer) for cell in cells]
    found: list[dict[str, Any]] = [{} for _ in cells]
    for i, exact in enumerate(bench.caches.attended(bench.samples(cells[0])[0].tokens)):
        layer, n = config.layers[i], len(exact.k)
        rows = np.linspace(n // 2, n - 1, min(QUERIES, n // 2)).astype(np.int64)
        for cell, pairs, result in zip(cells, types, found, strict=True):
            sizes = rotation.sizes(cell.cache.rotate, layer, *(FORMATS[name] for name in pairs[i]))
            k_hat, v_hat = rounded(exact.k, pairs[i][0], sizes[0]), rounded(exact.v, pairs[i][1], sizes[1])
            for key, value in errors(exact, k_hat, v_hat, layer, rows).items():
                result.setdefault(key, []).append(value)
    return found


def _norms(bench: Bench, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return a list of each figure with an entry per layer; weights_k and weights_v are empty for a fused QKV."""
    found: dict[str, list[float]] = {"weights_k": [], "weights_v": []}
    tensors = bench.caches.gguf.tensors
    for i, exact in enumerate(bench.caches.attended(bench.samples(cells[0])[0].tokens)):
        for side, x in (("k", exact.k), ("v", exact.v)):
            for key, value in shape(x).items():
                found.setdefault(f"{key}_{side}", []).append(value)
            if (tensor := tensors.get(f"blk.{i}.attn_{side}.weight")) is not None:
                weights = upcast.decode(tensor.type, tensor.data.reshape(tensor.shape[0], -1)).astype(np.float64)
                found[f"weights_{side}"].append(float(np.linalg.norm(weights)))
    return [found for _ in cells]


BESIDE = {"score": _score, "layer": _score, "generate": _generate, "speed": _speed}
ALONE = {"attention": _attention, "norms": _norms}
