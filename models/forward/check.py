"""Where values stop being numbers: a step is done again, an operation at a time, and looked at; knows no model."""

from __future__ import annotations

import numpy as np

from ...kernels.plan import Op, Plan


def first_broken(plan: Plan) -> Op | None:
    """The first operation that leaves NaN or infinity when the plan's last run is repeated; by one thread."""
    for op in plan.ops:
        op.kernel.run(op.args, 0, op.items * int(op.times[0]))
        if op.output is not None and not all_numbers(*op.output):
            return op
    return None


def all_numbers(values: np.ndarray, rows: np.ndarray) -> bool:
    """Whether the first rows[0] rows hold neither NaN nor infinity."""
    return bool(np.isfinite(values[: int(rows[0])]).all())
