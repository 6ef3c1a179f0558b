"""Errors that rounding K and V causes in one layer's attention: plain NumPy over its queries, keys and values.

Each side is rounded alone, and the layers before are exact: errors do not add up from layer to layer here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ...kernels.formats.table import FORMATS
from ...models.cache.rounding import rotated
from ...models.config import Layer
from ...models.forward.probe import Attended

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]

TOP = 16
"""Number of most attended tokens whose overlap is counted."""
FAR = 256
"""Distance, in tokens back, from which on a token counts as far."""
DISTANCES = (0, 16, 64, 256, 1024, 4096, 1 << 30)
"""Edges of the bins of distance that errors are reported for."""


def rounded(x: F32Array, cache_type: str, rotation: int) -> F32Array:
    """Return K or V (tokens, heads, dim) as a cache gives it back that stores it rotated in blocks of `rotation`."""
    fmt = FORMATS[cache_type]
    return rotated(fmt.decode(fmt.encode(rotated(x, rotation))), rotation)


def errors(
    exact: Attended, k_hat: F32Array, v_hat: F32Array, layer: Layer, rows: npt.NDArray[np.int64]
) -> dict[str, float | list[float | None]]:
    """Return the errors at the queries of `rows`, as means over rows and heads. Row i of q is at position i."""
    distance = rows[:, None] - np.arange(len(exact.k))
    seen = (distance >= 0) & ((distance < layer.window) if layer.window else True)
    q = exact.q[rows]
    scores, scores_hat = (_scores(q, k, layer) for k in (exact.k, k_hat))
    p, p_hat = _softmax(scores, seen), _softmax(scores_hat, seen)
    off = np.where(seen, scores_hat - scores, 0)
    off -= off.sum(axis=-1, keepdims=True) / seen.sum(axis=-1, keepdims=True)  # softmax ignores a common offset
    off = np.where(seen, off, 0)
    count = seen.sum() * layer.n_head
    out = _output(p, exact.v)
    far = seen & (distance >= FAR)
    top = min(TOP, int(seen.sum(axis=-1).min()))
    return {
        "logit_rms": float(np.sqrt((off**2).sum() / count)),
        "weights_kld": float(_divergence(p, p_hat).mean()),
        "far_weight": float((p * far).sum(axis=-1).mean()),
        "far_lost": float(((p - p_hat) * far).sum(axis=-1).mean()),
        "top_overlap": _overlap(p, p_hat, top),
        "output_k": _relative(_output(p_hat, exact.v) - out, out),
        "output_v": _relative(_output(p, v_hat) - out, out),
        "logit_rms_by_distance": [
            float(np.sqrt((off**2 * near).sum() / (near.sum() * layer.n_head))) if near.any() else None
            for near in (seen & (distance >= a) & (distance < b) for a, b in pairwise(DISTANCES))
        ],
    }


def _scores(q: F32Array, k: F32Array, layer: Layer) -> F64Array:
    """Return attention logits (heads, rows, tokens), capped where the layer caps them. q is scaled already."""
    k = np.repeat(k, layer.n_head // layer.n_head_kv, axis=1)
    found: F64Array = np.einsum("rhd,thd->hrt", q.astype(np.float64), k.astype(np.float64), optimize=True)
    if layer.softcap:
        found = layer.softcap * np.tanh(found / layer.softcap)
    return found


def _softmax(scores: F64Array, seen: npt.NDArray[np.bool_]) -> F64Array:
    hidden = np.where(seen, scores, -np.inf)
    e = np.exp(hidden - hidden.max(axis=-1, keepdims=True))
    found: F64Array = e / e.sum(axis=-1, keepdims=True)
    return found


def _divergence(p: F64Array, p_hat: F64Array) -> F64Array:
    tiny = np.finfo(np.float64).tiny
    found: F64Array = (p * (np.log(p + tiny) - np.log(p_hat + tiny))).sum(axis=-1)
    return found


def _overlap(p: F64Array, p_hat: F64Array, top: int) -> float:
    """Return the share of the `top` most attended tokens that are still among the top with p_hat."""
    both = np.zeros(p.shape, np.int8)
    for weights in (p, p_hat):
        at = np.argpartition(weights, -top, axis=-1)[..., -top:]
        np.put_along_axis(both, at, np.take_along_axis(both, at, -1) + np.int8(1), -1)
    return float((both == 2).sum(axis=-1).mean() / top)


def _output(p: F64Array, v: F32Array) -> F64Array:
    v = np.repeat(v, p.shape[0] // v.shape[1], axis=1)
    found: F64Array = np.einsum("hrt,thd->rhd", p, v.astype(np.float64), optimize=True)
    return found


def _relative(error: F64Array, whole: F64Array) -> float:
    return float(np.sqrt((error**2).sum() / (whole**2).sum()))


def shape(x: F32Array) -> Mapping[str, float]:
    """Return norms per head of a layer's K or V (tokens, heads, dim), and how much single channels stand out."""
    channels = np.sqrt((x.astype(np.float64) ** 2).mean(axis=0))  # (heads, dim)
    spectral = [float(np.linalg.norm(x[:, h].astype(np.float64), 2)) for h in range(x.shape[1])]
    return {
        "frobenius": float(np.sqrt((x.astype(np.float64) ** 2).sum() / x.shape[1])),
        "spectral": float(np.mean(spectral)),
        "outlier": float((channels.max(axis=-1) / np.median(channels, axis=-1)).max()),
        "outliers": float((channels > 4 * np.median(channels, axis=-1, keepdims=True)).sum()),
    }
