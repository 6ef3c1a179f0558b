"""A step by operation: time, waiting, bytes and multiply-adds, from its plan's stamps and costs; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ...kernels.lang import cpu
from ...kernels.plan import Cost, Plan
from ...models.forward.attention import AttendCost
from ..machine.roofs import Roofs

F64Array = npt.NDArray[np.float64]
I64Array = npt.NDArray[np.int64]

LOGITS = ("output", "token_embd")  # operations that compute logits, by the names of their matrices
ATTEND = "attend"
PARTS = ("Q·Kᵀ", "softmax", "A·V")
"""The parts of attention, which are one operation in the plan."""


@dataclass(frozen=True)
class Operation:
    """All operations of a step that have the same name, merged."""

    name: str
    seconds: float  # from the end of the one before to its own end
    waiting: float = 0.0  # part of these seconds that the threads spent at its barrier, on average
    cost: Cost = field(default_factory=Cost)
    times: int = 1  # how often it runs in a step

    @property
    def streamed(self) -> int:
        """Bytes of weights, K and V, which are too large to stay in a cache near the core."""
        return self.cost.weights + self.cost.k + self.cost.v

    @property
    def nbytes(self) -> int:
        return self.streamed + self.cost.activations

    @property
    def macs(self) -> int:
        return self.cost.macs_i8 + self.cost.macs_bf16 + self.cost.macs_f32

    @property
    def gbps(self) -> float:
        return self.nbytes / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gmacs(self) -> float:
        return self.macs / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def intensity(self) -> float:
        """Multiply-adds per byte."""
        return self.macs / self.nbytes if self.nbytes else 0.0


@dataclass(frozen=True)
class Bound:
    """The roof that limits an operation, and the share of it that the operation reaches, 1 being all."""

    roof: str
    share: float


def bound(op: Operation, roofs: Roofs, threads: int, footprint: float) -> Bound | None:
    """Return the roof under which the operation takes longest; None if it streams nothing: no roof limits it.

    footprint: bytes that a step streams, which decide in which cache they fit.
    """
    if not op.streamed or not op.seconds:
        return None
    products = {cpu.DOT: op.cost.macs_i8, "f32": op.cost.macs_f32, "amx": op.cost.macs_bf16}
    least = {path: macs / roofs.peak(path, threads) for path, macs in products.items() if macs}
    least["memory"] = op.streamed / roofs.bandwidth(threads, footprint)
    roof = max(least, key=lambda name: least[name])
    return Bound(roof, least[roof] / op.seconds)


def timed(plan: Plan, stamps: I64Array) -> tuple[F64Array, F64Array]:
    """Return, for each operation of a replay, its ticks and how many of these its threads waited on average."""
    threads = len(stamps) - 1
    ends = np.maximum.accumulate(stamps[0])  # where no barrier stands between, a thread may run ahead
    took, recorded = np.diff(ends).astype(np.float64), stamps[1:, 1:].mean(axis=0)
    waits = np.zeros_like(took)
    barrier = 0
    for i, op in enumerate(plan.ops):
        if op.solo:  # one thread works; the others wait for it at the next barrier, which records that
            waits[i] = took[i] * (threads - 1) / threads
            waits[barrier] -= waits[i]
        else:
            barrier = i
        waits[barrier] += recorded[i]
    return took, np.clip(waits, 0, took)


def by_name(plan: Plan, seconds: F64Array, waits: F64Array, rows: int, context: int) -> list[Operation]:
    """Merge the operations of all layers by name, for a step of `rows` tokens after which the cache holds `context`."""
    found: dict[str, Operation] = {}
    for op, took, waited in zip(plan.ops, seconds, waits, strict=True):
        name = "logits" if op.name in LOGITS else op.name
        before = found.get(name, Operation(name, 0.0, times=0))
        found[name] = Operation(
            name,
            before.seconds + float(took),
            before.waiting + float(waited),
            before.cost + op.cost(rows, context),
            before.times + 1,
        )
    return list(found.values())


def with_parts(operations: Sequence[Operation], parts: Sequence[float], values: Cost) -> list[Operation]:
    """Return the operations with attention split into three.

    parts: time of Q·Kᵀ alone, of Q·Kᵀ and softmax, and of all three. Attention's time is divided in this proportion.
    values: the cost of A·V.
    """
    return [part for op in operations for part in (_split(op, parts, values) if op.name == ATTEND else [op])]


def values_cost(plan: Plan, rows: int, context: int) -> Cost:
    """Return the cost of A·V in all layers, for a step as in `by_name`."""
    costs = [op.cost for op in plan.ops if isinstance(op.cost, AttendCost)]
    return sum((cost.values(rows, context) for cost in costs), Cost())


def _split(op: Operation, parts: Sequence[float], values: Cost) -> list[Operation]:
    ends = np.maximum.accumulate(np.clip(parts, 0, parts[-1]))
    shares = np.diff(ends, prepend=0.0) / (ends[-1] or 1.0)
    keys = Cost(*(all_ - its for all_, its in zip(op.cost.values(), values.values(), strict=True)))
    costs = replace(keys, activations=0), Cost(activations=keys.activations), values
    return [
        replace(op, name=f"{ATTEND} {name}", seconds=op.seconds * share, waiting=op.waiting * share, cost=part)
        for name, share, part in zip(PARTS, shares, costs, strict=True)
    ]
