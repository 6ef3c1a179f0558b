"""Finds the operation that first gives NaN or infinity, by running a step again one by one; knows no model."""

from __future__ import annotations

import numpy as np

from ...kernels.plan import Op, Output, Plan, Team


def first_broken(plan: Plan, team: Team) -> Op | None:
    """Run the plan again, one operation at a time; return the first that leaves NaN or infinity, or None."""
    for op in plan.ops:
        alone = Plan()
        alone.ops.append(op)
        team.run(alone)
        if op.output is not None and not all_numbers(op.output):
            return op
    return None


def all_numbers(output: Output) -> bool:
    """Return whether an operation's output holds neither NaN nor infinity."""
    if callable(output):
        return all(np.isfinite(numbers).all() for numbers in output())
    values, rows = output
    return bool(np.isfinite(values[: int(rows[0])]).all())
