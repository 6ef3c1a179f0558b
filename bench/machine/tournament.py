"""Finds the fastest shapes of a model's products on this machine, by measuring all that come into question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ...kernels.formats.table import FORMATS
from ...kernels.ops import linear
from ...kernels.plan import Op, Plan, Team
from ...kernels.shapes import CHUNK, Shape
from ...models.progress import Progress, silent

AT_ONCE = (2, 4, 6, 8, 12)
CHUNKS = (16, 32, 64, 128)
ROUNDS = 7
SECONDS = 0.01  # that a measurement takes at least
BETTER = 1.03  # times as fast as the default: what is less may be chance
MATRICES = 4  # of a format that are measured: those with the most multiply-adds


@dataclass(frozen=True)
class Winner:
    """The result of a format's tournament."""

    fmt: str
    shape: Shape
    gain: float  # times as fast as the default
    seconds: dict[Shape, float]  # of each candidate


def products(plan: Plan) -> dict[str, list[Op]]:
    """Return the products of a plan whose shape can be chosen, by format: of the largest matrices, one of each size."""
    formats = {linear.linear(fmt, linear.SHAPE.rows): fmt for fmt in FORMATS}
    found: dict[str, dict[tuple[int, int], Op]] = {}
    for op in plan.ops:
        if op.kernel in formats and op.part:  # not the logits: few rows
            size = (int(op.args["tiles"][0]), int(op.args["columns"][0]))
            found.setdefault(formats[op.kernel], {}).setdefault(size, op)
    return {fmt: [op for _, op in sorted(sizes.items(), key=lambda s: -s[0][0] * s[0][1])[:MATRICES]]
            for fmt, sizes in found.items()}  # fmt: skip


def candidates(rows: Iterable[int], chunk: int) -> list[Shape]:
    """Return the shapes with these rows at once and a chunk of about `chunk` rows."""
    return [Shape(n, -(-chunk // n) * n) for n in rows]


def compete(fmt: str, ops: Sequence[Op], rows: int, team: Team, progress: Progress = silent) -> Winner:
    """Return the best shape for some products of a plan: first of the rows at once, then of a chunk's rows."""
    default = linear.SHAPE
    first = dict.fromkeys([default, *candidates(AT_ONCE, CHUNK)])
    took = _times(fmt, ops, list(first), rows, team, progress)
    best = min(took, key=took.__getitem__)
    second = dict.fromkeys([default, best, *(s for c in CHUNKS for s in candidates([best.rows], c))])
    took |= (final := _times(fmt, ops, list(second), rows, team, progress))
    best = min(final, key=final.__getitem__)
    gain = final[default] / final[best]
    return Winner(fmt, best, gain, took) if gain > BETTER else Winner(fmt, default, 1.0, took)


def _times(
    fmt: str, ops: Sequence[Op], shapes: Sequence[Shape], rows: int, team: Team, progress: Progress
) -> dict[Shape, float]:
    """Return the median seconds of each shape, measured in turns."""
    plans: dict[Shape, Plan] = {}
    for i, shape in enumerate(shapes):
        progress("compiling", i, len(shapes), f"{fmt}, {shape.rows} rows at once")
        plans[shape] = _plan(fmt, ops, shape, rows)
        team.run(plans[shape])
    begin = perf_counter()
    team.run(plans[shapes[0]])
    times = max(1, int(SECONDS / (perf_counter() - begin)))
    took: dict[Shape, list[float]] = {shape: [] for shape in shapes}
    for turn in range(ROUNDS):
        progress("measuring", turn, ROUNDS, f"{fmt}, {len(shapes)} shapes")
        for shape, plan in plans.items():
            begin = perf_counter()
            for _ in range(times):
                team.run(plan)
            took[shape].append((perf_counter() - begin) / times)
    return {shape: median(found) for shape, found in took.items()}


def _plan(fmt: str, ops: Sequence[Op], shape: Shape, rows: int) -> Plan:
    """Return a plan of the same products in another shape, over `rows` rows."""
    plan, kernel = Plan(), linear.linear(fmt, shape.rows)
    count, chunks = np.array([rows]), np.array([-(-rows // shape.chunk)])
    for op in ops:
        operands: dict[str, Any] = {name: op.args[name][0] for name in op.args.dtype.names or ()}
        operands |= {"rows": count, "chunk": shape.chunk}
        plan.add(op.name, kernel, items=op.items, times=chunks, grain=op.grain, **operands)
    return plan


def winners(plan: Plan, rows: int, team: Team, progress: Progress = silent) -> Iterator[Winner]:
    """Yield the winner for each format of a plan's products."""
    for fmt, ops in products(plan).items():
        yield compete(fmt, ops, rows, team, progress)
