"""The oracle for whole models: runs an architecture's own `forward` in float64 over the decoded tensors of a file.

`Weights` and `Recorder` have the verbs of models/forward/weights.py and recorder.py, but compute at once, in plain
NumPy, instead of packing and recording. A new verb gets its formula here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import naive
import numpy as np
from naive import Array

from pyllm.kernels.formats.table import FORMATS
from pyllm.models.arch.registry import ARCHITECTURES, read_config
from pyllm.models.config import Config, Rope
from pyllm.models.file.gguf import GGUF


@dataclass(frozen=True, eq=False)
class Matrix:
    """W (outputs, inputs) of y = W x + bias, or one for each expert (experts, outputs, inputs)."""

    w: Array
    bias: Array | float


class Weights:
    """The tensors of a file as float64."""

    def __init__(self, g: GGUF) -> None:
        self.tensors: dict[str, Array] = {
            name: FORMATS[t.type].decode(t.data).reshape(t.shape).astype(np.float64) for name, t in g.tensors.items()
        }

    def has(self, name: str) -> bool:
        return name in self.tensors

    def has_all(self, *names: str) -> bool:
        return all(self.has(name) for name in names)

    def vector(self, name: str, *shape: int) -> Array:
        assert self.tensors[name].shape == shape, name
        return self.tensors[name]

    def positive(self, name: str, n: int) -> Array:
        return self.vector(name, n)

    def embedding(self, name: str, rows: int, columns: int) -> Array:
        return self.vector(name, rows, columns)

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        return Matrix(self.vector(name, rows, columns), self._bias(name))

    def stack(self, name: str, n: int, rows: int, columns: int) -> Matrix:
        return Matrix(self.vector(name, n, rows, columns), self._bias(name))

    def parts(self, name: str, parts: dict[str, int], columns: int) -> list[Matrix]:
        whole, ends = self.matrix(name, sum(parts.values()), columns), np.cumsum(list(parts.values()))[:-1]
        bias = np.broadcast_to(whole.bias, whole.w.shape[:1])
        return [Matrix(w, b) for w, b in zip(np.split(whole.w, ends), np.split(bias, ends), strict=True)]

    def _bias(self, name: str) -> Array | float:
        return self.tensors.get(name.removesuffix("weight") + "bias", 0.0)


class Recorder:
    """The verbs of a forward pass, over a whole sequence at once: rows of activations are (tokens, n)."""

    def __init__(self, config: Config, tokens: Sequence[int], weights: Weights, n_ctx: int) -> None:
        self.config, self.tokens, self._tensors, self._n_ctx = config, list(tokens), weights.tensors, n_ctx
        self.found = np.empty(0)
        """The logits after each token."""

    def layers(self, blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        return iter(enumerate(blocks))

    def embedding(self, table: Array, *, scale: float = 1.0) -> Array:
        return table[self.tokens] * scale

    def norm(self, x: Array, weight: Array, *, logits_rows: bool = False) -> Array:
        return naive.rms_norm(x, weight, self.config.norm_eps)

    def layer_norm(self, x: Array, weight: Array, bias: Array | None = None, *, logits_rows: bool = False) -> Array:
        return naive.layer_norm(x, weight, 0.0 if bias is None else bias, self.config.norm_eps)

    def add_norm(self, to: Array, x: Array, weight: Array) -> None:
        to += self.norm(x, weight)

    def hand_over(self, x: Array) -> Array:
        return x

    def linear(self, x: Array, *matrices: Matrix) -> list[Array]:
        return [naive.linear(m.w, x) + m.bias for m in matrices]

    def add_linear(self, to: Array, x: Array, matrix: Matrix, *, scale: float = 1.0) -> None:
        to += scale * self.linear(x, matrix)[0]

    def logits(self, x: Array, matrix: Matrix, *, scale: float = 1.0, softcap: float = 0.0) -> None:
        found = scale * self.linear(x, matrix)[0]
        self.found = softcap * np.tanh(found / softcap) if softcap else found

    def gate_silu(self, gate: Array, up: Array) -> Array:
        return naive.gated("silu", gate, up)

    def gate_gelu(self, gate: Array, up: Array) -> Array:
        return naive.gated("gelu", gate, up)

    def gelu(self, x: Array) -> Array:
        return naive.gelu(x)

    def relu2(self, x: Array) -> Array:
        return naive.relu2(x)

    def add_experts(self, to: Array, x: Array, e: Any, activation: str) -> None:
        names = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
        w = {name: getattr(e, name).w for name in names} | {f"{name}.bias": getattr(e, name).bias for name in names}
        to += naive.experts(w, x, self.config.expert_used_count, activation)

    def attention(self, i: int, q: Array, k: Array, v: Array, *, q_norm: Array | None = None,
                  k_norm: Array | None = None, sinks: Array | None = None) -> Array:  # fmt: skip
        c, layer, rows = self.config, self.config.layers[i], len(q)
        at = np.arange(rows)
        q, k = (
            self._turned(self._by_head(x, layer.head_dim_k, weight), layer.rope, at)
            for x, weight in ((q, q_norm), (k, k_norm))
        )
        q = q * (layer.scale * (1 + c.temperature_scale * np.log1p(at // c.temperature_length)))[:, None, None]
        v = v.reshape(rows, -1, layer.head_dim_v)
        return naive.attention(q, k, v, layer.window, layer.softcap, sinks).reshape(rows, -1)

    def _by_head(self, x: Array, dim: int, weight: Array | None) -> Array:
        """Return x as (rows, heads, dim), normalized by head, or by row where `weight` is as long as a row."""
        heads = x.reshape(len(x), -1, dim)
        if weight is None:
            return heads
        return (self.norm(heads, weight) if len(weight) == dim else self.norm(x, weight)).reshape(heads.shape)

    def _turned(self, x: Array, rope: Rope | None, positions: Array) -> Array:
        if rope is None:
            return x
        turned = naive.rope(x, positions[:, None] * self._speeds(rope), rope.neox)
        turned[..., : rope.dim] *= rope.magnitude
        return turned

    def _speeds(self, rope: Rope) -> Array:
        """Return the angle by which each pair turns from one position to the next.

        yarn: pairs that turn beta_fast times in n_ctx_orig positions, or more often, keep their speed; those that turn
        beta_slow times, or less, are slowed by the factor; in between both are mixed.
        """
        speed = rope.base ** (-np.arange(0, rope.dim, 2) / rope.dim)
        length = "long" if self._n_ctx > rope.n_ctx_orig else "short"
        speed = speed / self._tensors.get("rope_freqs.weight", self._tensors.get(f"rope_factors_{length}.weight", 1.0))
        if rope.scaling != "yarn":
            return speed / rope.factor
        # Pair p turns n_ctx_orig * base^(-2p / dim) / 2pi times; solved for p.
        fast, slow = (
            rope.dim / 2 * np.log(rope.n_ctx_orig / (2 * np.pi * turns)) / np.log(rope.base)
            for turns in (rope.beta_fast, rope.beta_slow)
        )
        first, last = max(0, np.floor(fast)), min(rope.dim - 1, np.ceil(slow))
        slowed = np.clip((np.arange(rope.dim // 2) - first) / max(1e-3, last - first), 0, 1)
        return speed * (1 - slowed + slowed / rope.factor)


def logits(g: GGUF, tokens: Sequence[int], n_ctx: int) -> Array:
    """Return the logits after each of the tokens, (tokens, n_vocab), in a context of n_ctx positions."""
    return played(read_config(g), Weights(g), tokens, n_ctx)


def played(config: Config, weights: Weights, tokens: Sequence[int], n_ctx: int) -> Array:
    """Return the same from hyperparameters and tensors."""
    recorder: Any = Recorder(config, tokens, weights, n_ctx)
    ARCHITECTURES[config.architecture](weights, config).forward(recorder)  # type: ignore[arg-type]
    return recorder.found
