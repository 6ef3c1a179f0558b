"""Finds the operation that first gives NaN or infinity, by running a step again one by one; knows no model."""

from __future__ import annotations

import numpy as np

from ...kernels.plan import Op, Plan


def first_broken(plan: Plan) -> Op | None:
    """Run the plan again with one thread; return the first operation that leaves NaN or infinity, or None."""
    for op in plan.ops:
        op.kernel.run(op.args, 0, op.items * int(op.times[0]))
        if op.output is not None and not all_numbers(*op.output):
            return op
    return None


def all_numbers(values: np.ndarray, rows: np.ndarray) -> bool:
    """Return whether the first rows[0] rows hold neither NaN nor infinity."""
    return bool(np.isfinite(values[: int(rows[0])]).all())
