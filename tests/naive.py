"""The oracle: what the engine computes, in plain NumPy and float64, straight from the formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyllm.kernels.formats.table import FORMATS
from pyllm.models.arch.registry import read_config
from pyllm.models.file.gguf import GGUF

Array = npt.NDArray[Any]


def nmse(got: Array, expected: Array) -> float:
    """Return the mean squared error, relative to the mean square of the expected values."""
    expected = expected.astype(np.float64)
    return float(np.mean((got - expected) ** 2) / np.mean(expected**2))


def decoded(x: Array, fmt: str) -> Array:
    """Return x after a round trip through a format."""
    f = FORMATS[fmt]
    return f.decode(f.encode(np.ascontiguousarray(x, np.float32))).astype(np.float64)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True) + eps) * weight


def layer_norm(x: Array, weight: Array, bias: Array | float, eps: float) -> Array:
    x = x.astype(np.float64)
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight + bias


def quantize_row(x: Array) -> tuple[Array, Array]:
    """Return x (..., n) as int8, and a float32 scale for each block of 32; in float32, to compare bit for bit."""
    v = x.astype(np.float32).reshape(*x.shape[:-1], -1, 32)
    top = np.abs(v).max(axis=-1, keepdims=True)
    with np.errstate(all="ignore"):
        inverse = np.float32(127) / top
    scaled = v * np.where(np.isfinite(inverse), inverse, np.float32(0))
    q = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled).astype(np.int8)
    return q.reshape(x.shape), (top / np.float32(127))[..., 0]


def dequantized(x: Array) -> Array:
    """Return activations after a round trip through quantize_row."""
    q, d = quantize_row(x)
    return q.astype(np.float64) * np.repeat(d, 32, axis=-1)


def linear(w: Array, x: Array) -> Array:
    """Return x Wᵀ, (rows, outputs), for w (outputs, inputs) and x (rows, inputs)."""
    return x.astype(np.float64) @ w.astype(np.float64).T


def angles(positions: Array, dim: int, base: float, factor: float = 1.0, freqs: Array | None = None) -> Array:
    """Return the angle of each pair, (positions, dim / 2)."""
    speed = base ** (-np.arange(0, dim, 2) / dim) / factor
    return positions[:, None] * (speed if freqs is None else speed / freqs)


def rope(x: Array, angle: Array, neox: bool = False) -> Array:
    """Return x (rows, heads, dim), pairs turned by `angle` (rows, pairs): neighbours, or (neox) from the two halves."""
    x, n = x.astype(np.float64), angle.shape[1]
    at = np.arange(n)
    first, second = (at, at + n) if neox else (2 * at, 2 * at + 1)
    a, b, c, s = x[..., first], x[..., second], np.cos(angle)[:, None], np.sin(angle)[:, None]
    x[..., first], x[..., second] = a * c - b * s, a * s + b * c
    return x


def hadamard(x: Array, size: int) -> Array:
    """Return x (..., n), blocks of `size` values rotated; the bits that i and j share give entry (i, j) its sign."""
    if not size:
        return x
    at = np.arange(size)
    signs = 1.0 - 2.0 * (np.array([bin(i).count("1") for i in range(size)])[at[:, None] & at] % 2)
    return (x.astype(np.float64).reshape(*x.shape[:-1], -1, size) @ signs * size**-0.5).reshape(x.shape)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(q: Array, k: Array, v: Array, window: int = 0, softcap: float = 0.0, sinks: Array | None = None) -> Array:
    """Return causal attention: q (rows, heads, dim), scaled already, are the last rows of k, v (tokens, KV heads, dim).

    window: tokens that a row sees, itself included. sinks: a score for each head, which has no value.
    """
    rows, heads, _ = q.shape
    group = heads // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), group, axis=1) for x in (k, v))
    scores = np.einsum("rhd,thd->hrt", q, k)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    ahead = np.arange(len(k)) - np.arange(len(k) - rows, len(k))[:, None]
    scores = np.where((ahead > 0) | (ahead <= -(window or np.inf)), -np.inf, scores)
    sink = np.full((heads, rows, 1), -np.inf) if sinks is None else np.repeat(sinks[:, None, None], rows, axis=1)
    weights = softmax(np.concatenate([scores, sink], axis=-1))[..., :-1]
    return np.einsum("hrt,thd->rhd", weights, v)


def route(logits: Array, used: int) -> tuple[Array, Array]:
    """Return each row's experts by the largest logits (rows, experts), and their shares, both (rows, used).

    Of equal logits, the first comes first.
    """
    chosen = np.argsort(-logits, axis=-1, kind="stable")[:, :used]
    return chosen, softmax(np.take_along_axis(logits.astype(np.float64), chosen, axis=-1))


def project(x: Array, chosen: Array, w: Array, bias: Array | float = 0.0) -> Array:
    """Return each row of x (rows, inputs) times its experts' w[e], plus their bias[e]: (rows, used, outputs)."""
    y = np.stack([np.stack([w[e].astype(np.float64) @ row for e in its]) for row, its in zip(x, chosen, strict=True)])
    return y + np.broadcast_to(bias, w.shape[:2])[chosen]


def experts(w: Mapping[str, Array], x: Array, used: int, activation: str = "silu") -> Array:
    """Return the feed-forward of a mixture of experts, from a layer's tensors by name."""
    chosen, shares = route(linear(w["ffn_gate_inp"], x) + w.get("ffn_gate_inp.bias", 0.0), used)
    rows, bias = len(x), {n: w.get(f"ffn_{n}_exps.bias", 0.0) for n in ("gate", "up", "down")}
    gate, up = (project(x, chosen, w[f"ffn_{n}_exps"], bias[n]) for n in ("gate", "up"))
    hidden = gated(activation, gate, up).reshape(rows * used, -1)
    down = project(hidden, chosen.reshape(-1, 1), w["ffn_down_exps"], bias["down"])
    return (down.reshape(rows, used, -1) * shares[..., None]).sum(axis=1)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x.astype(np.float64)))


def gelu(x: Array) -> Array:
    """Return gelu(x), by tanh."""
    x = x.astype(np.float64)
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def relu2(x: Array) -> Array:
    return np.maximum(x.astype(np.float64), 0) ** 2


UNGATED = {"gelu": gelu, "relu2": relu2}


def gated(activation: str, gate: Array, up: Array) -> Array:
    """Return activation(gate) * up, which enters the last matrix of a feed-forward."""
    if activation == "swiglu_oai":
        x, y = np.minimum(gate.astype(np.float64), 7), np.clip(up.astype(np.float64), -7, 7)
        return x / (1 + np.exp(-1.702 * x)) * (y + 1)
    return {"silu": silu, "gelu": gelu}[activation](gate) * up


def llama(g: GGUF, tokens: Sequence[int], cache: Sequence[tuple[str, str]] | None = None,
          rotation: tuple[int, int] = (0, 0)) -> Array:  # fmt: skip
    """Return the logits after each token, from a file's decoded tensors; cache: (K, V) types by layer, else float64.

    rotation: values in the blocks that K and V are rotated in before they are rounded, and back after.
    """
    c = read_config(g)
    f = {n: FORMATS[t.type].decode(t.data).reshape(t.shape).astype(np.float64) for n, t in g.tensors.items()}
    rope_ = c.layers[0].rope
    assert rope_ is not None
    freqs = f.get("rope_freqs.weight")
    angle = angles(np.arange(len(tokens)), rope_.dim, rope_.base, rope_.factor, freqs)

    x = f["token_embd.weight"][list(tokens)]
    for i in range(c.n_layer):
        w = {n.removeprefix(f"blk.{i}.").removesuffix(".weight"): t for n, t in f.items() if n.startswith(f"blk.{i}.")}
        h = rms_norm(x, w["attn_norm"], c.norm_eps)
        q, k, v = (linear(w[n], h) for n in ("attn_q", "attn_k", "attn_v"))
        q = rope(q.reshape(len(x), c.n_head, c.head_dim_k), angle) * c.head_dim_k**-0.5
        k = rope(k.reshape(len(x), c.n_head_kv, c.head_dim_k), angle)
        v = v.reshape(len(x), c.n_head_kv, c.head_dim_v)
        if cache is not None:
            sides = zip((k, v), cache[i], rotation, strict=True)
            k, v = (hadamard(decoded(hadamard(x, size), fmt), size) for x, fmt, size in sides)
        x = x + linear(w["attn_output"], attention(q, k, v).reshape(len(x), -1))
        h = rms_norm(x, w["ffn_norm"], c.norm_eps)
        if c.expert_count:
            x = x + experts(w, h, c.expert_used_count)
        else:
            x = x + linear(w["ffn_down"], silu(linear(w["ffn_gate"], h)) * linear(w["ffn_up"], h))
    return linear(f.get("output.weight", f["token_embd.weight"]), rms_norm(x, f["output_norm.weight"], c.norm_eps))
