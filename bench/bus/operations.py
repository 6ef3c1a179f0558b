"""A step by operation: time, waiting, bytes and multiply-adds, from its plan's stamps and costs; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ...kernels.lang import cpu
from ...kernels.plan import Cost, Plan
from ...models.config import Config
from ..machine.roofs import Roofs

F64Array = npt.NDArray[np.float64]
I64Array = npt.NDArray[np.int64]

LOGITS = ("output", "token_embd")  # the matrix's name, as the operation's
ATTEND = "attend"
PARTS = ("Q·Kᵀ", "softmax", "A·V")
"""Of attention, which one operation does."""


@dataclass(frozen=True)
class Operation:
    """All operations of a step that have the same name."""

    name: str
    seconds: float  # from the end of the one before to its own end
    waiting: float = 0.0  # of these: how long the threads stood at its barrier, on average
    cost: Cost = field(default_factory=Cost)
    times: int = 1  # in a step

    @property
    def streamed(self) -> int:
        """Bytes of what is too much to stay near: weights, K and V."""
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
    """The roof that binds an operation, and how near to it the operation is: 1 is at it."""

    roof: str
    share: float


def bound(op: Operation, roofs: Roofs, threads: int, footprint: float) -> Bound | None:
    """The roof under which the operation takes longest; None where none binds it: it is small, and waits for itself.

    footprint: bytes that a step streams, which decide from which cache they come.
    """
    if not op.streamed or not op.seconds:
        return None
    products = {cpu.DOT: op.cost.macs_i8, "f32": op.cost.macs_f32, "amx": op.cost.macs_bf16}
    least = {path: macs / roofs.peak(path, threads) for path, macs in products.items() if macs}
    least["memory"] = op.streamed / roofs.bandwidth(threads, footprint)
    roof = max(least, key=lambda name: least[name])
    return Bound(roof, least[roof] / op.seconds)


def timed(plan: Plan, stamps: I64Array) -> tuple[F64Array, F64Array]:
    """Of each operation of a replay, in ticks: how long it took, and how much of that its threads waited on average."""
    threads = len(stamps) - 1
    ends = np.maximum.accumulate(stamps[0])  # without a barrier between, a thread may be ahead of the others
    took, told = np.diff(ends).astype(np.float64), stamps[1:, 1:].mean(axis=0)
    waits = np.zeros_like(took)
    barrier = 0
    for i, op in enumerate(plan.ops):
        if op.solo:  # all others wait meanwhile, and tell so at the barrier, which comes after it
            waits[i] = took[i] * (threads - 1) / threads
            waits[barrier] -= waits[i]
        else:
            barrier = i
        waits[barrier] += told[i]
    return took, np.clip(waits, 0, took)


def by_name(plan: Plan, seconds: F64Array, waits: F64Array, rows: int, context: int) -> list[Operation]:
    """The operations of a step of `rows` tokens after which the cache holds `context`, those of all layers together."""
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


def with_parts(operations: Sequence[Operation], parts: Sequence[float], config: Config) -> list[Operation]:
    """Attention as three operations. parts: time of Q·Kᵀ alone, of that and the softmax, and of all of it.

    Their proportion divides the time that attention took within its step.
    """
    return [part for op in operations for part in (_split(op, parts, config) if op.name == ATTEND else [op])]


def _split(op: Operation, parts: Sequence[float], config: Config) -> list[Operation]:
    ends = np.maximum.accumulate(np.clip(parts, 0, parts[-1]))
    shares = np.diff(ends, prepend=0.0) / (ends[-1] or 1.0)
    keys = sum(layer.n_head * layer.head_dim_k for layer in config.layers)
    values = sum(layer.n_head * layer.head_dim_v for layer in config.layers)
    cost = op.cost
    product = op.macs * values // (keys + values)
    kind = "macs_bf16" if cost.macs_bf16 else "macs_f32"
    costs = (
        replace(cost, v=0, activations=0, **{kind: getattr(cost, kind) - product}),
        Cost(activations=cost.activations),
        Cost(v=cost.v, **{kind: product}),
    )
    return [
        replace(op, name=f"{ATTEND} {name}", seconds=op.seconds * share, waiting=op.waiting * share, cost=part)
        for name, share, part in zip(PARTS, shares, costs, strict=True)
    ]
