"""The functions that Python calls, compiled before they are needed: the first token must not wait for a compiler."""

from __future__ import annotations

import numpy as np
from numba import types

from . import plan
from .ops.sample import Scratch, draw, narrow


def compile_functions() -> None:
    """Compile or load all of them, for the types that they are called with."""
    for function, arguments in ((plan.replay, 2), (plan._serve, 3), (plan._post, 1), (plan._all_left, 2)):
        function.compile((types.int64,) * arguments)
    scratch = Scratch(16)
    n = narrow(np.zeros(16, np.float32), 0.0, scratch, top_k=4, top_p=0.5, min_p=0.0, temp=1.0)
    draw(scratch.ids, scratch.weight, n, 0.5)
