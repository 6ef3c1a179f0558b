"""Puts what a function in Python makes of K and V into the body of a cache with segments, as pages leave the tail.

So a format or a policy can be tried in NumPy before there is a kernel for it: what attention reads is what the function
returned, in the types of the body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ...kernels.lang.buffers import aligned
from ...kernels.ops.reencode import reencode, scratch_bytes
from ...kernels.shapes import PAGE, columns
from ...models.cache.store import LayerCache
from ...models.errors import UsageError
from ...models.forward import segmented
from ...models.forward.model import Model
from ...models.forward.probe import cached
from ...models.forward.span import Span

F32Array = npt.NDArray[np.float32]
WhatIf = Callable[[F32Array, F32Array, int, int], tuple[F32Array, F32Array]]
"""Takes K and V of a full page, float32 (tokens, KV heads, head_dim) each, the layer and the position of the first
token, and returns K and V as attention is to see them, in the same shapes."""


class Changer:
    """Applies a function to the pages that leave the tail with a step, before the step is run."""

    def __init__(self, function: WhatIf, model: Model) -> None:
        self._function, self._name, self._kv, self._config = function, model.kv.spec.policy, model.kv, model.config
        assert model.kv.borders is not None and model.kv.borders.tail > 1  # pages are full before the step

    def apply(self, spans: Sequence[Span]) -> None:
        """Change the pages; raises UsageError if the function does, or returns something else than K and V."""
        borders = self._kv.borders
        assert borders is not None
        for span in spans:
            begin = max(borders.sink, borders.left(span.position))
            for n, (page, to) in enumerate(segmented.moves(span, borders)[segmented.BODY]):
                for i in self._kv.tails:
                    self._change(i, page, to, PAGE * (begin + n))

    def _change(self, i: int, page: int, to: int, position: int) -> None:
        layer, tail, body = self._config.layers[i], self._kv.tails[i], self._kv.layers[i]
        given = cached(tail, layer, PAGE * page + np.arange(PAGE))
        shapes = [side.shape for side in given]
        try:
            changed = [np.asarray(side, np.float32) for side in self._function(*given, i, position)]
        except (Exception, SystemExit) as error:  # whatever the user's code does
            raise UsageError(
                f"--cache-policy {self._name}: raised {type(error).__name__} in layer {i}: {error}"
            ) from error
        if [side.shape for side in changed] != shapes:
            got = " and ".join(str(side.shape) for side in changed)
            raise UsageError(f"--cache-policy {self._name}: returned {got} for K and V of {shapes[0]} and {shapes[1]}")
        if not all(np.isfinite(side).all() for side in changed):
            raise UsageError(
                f"--cache-policy {self._name}: returned values that are not numbers, in layer {i} at token {position}"
            )
        store_page(body, to, *changed)


def store_page(body: LayerCache, to: int, k: F32Array, v: F32Array) -> None:
    """Encode K and V of a page, (PAGE, KV heads, head_dim) each, in the formats of a place, as its page `to`."""
    heads, n, m = k.shape[1], columns(k.shape[2]), columns(v.shape[2])
    k_page, v_page = (aligned(4 * heads * PAGE * size).view(np.float32) for size in (n, m))
    tiles = k_page.reshape(heads, PAGE // 16, n, 16)  # as pages.py has them in float32
    tiles[:, :, : k.shape[2]] = k.reshape(PAGE // 16, 16, heads, -1).transpose(2, 0, 3, 1)
    v_page.reshape(heads, PAGE, m)[:, :, : v.shape[2]] = v.transpose(1, 0, 2)
    kernel = reencode("f32", "f32", body.k_format.name, body.v_format.name)
    args, scratch = np.zeros(1, kernel.args), aligned(scratch_bytes(n, m))
    move = np.array([0, to], np.int64)
    operands = {
        "k_pool": k_page, "v_pool": v_page, "k_head": 4 * PAGE * n, "v_head": 4 * PAGE * m,
        "k_page": 4 * PAGE * n, "v_page": 4 * PAGE * m, "moves": move, "kv_heads": heads, "k_columns": n,
        "v_columns": m, "scratch": scratch, "scratch_bytes": scratch.nbytes,
        **{f"{name}_to": getattr(body, name) for name in ("k_pool", "v_pool", "k_head", "v_head", "k_page", "v_page")},
    }  # fmt: skip
    for name, value in operands.items():
        args[name] = value.ctypes.data if isinstance(value, np.ndarray) else value
    kernel.run(args, 0, heads)
