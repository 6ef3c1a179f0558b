"""Reads and checks the hyperparameters that architectures share from a GGUF's metadata; knows no tensor's bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .config import ROPE_SCALINGS, Config, Layer, Rope
from .errors import ModelError
from .file.gguf import GGUF
from .file.header import CONVERT

# Larger than in any model that exists, and small enough that the product of a few of them fits in an int64.
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_EXPERTS = 1024
MAX_HEAD_DIM = 4096
MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 24
MAX_CONTEXT = (1 << 31) - 1


class Hyper:
    """The metadata of one model. The file's keys are the names here after the architecture and a dot."""

    def __init__(self, g: GGUF) -> None:
        self.gguf, self.architecture = g, g.architecture
        self.n_layer = self.integer("block_count", 1, MAX_LAYERS)
        self.n_embd = self.integer("embedding_length", 1, MAX_WIDTH)
        self.n_ff = self.same("feed_forward_length", 1, MAX_WIDTH)

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def has(self, name: str) -> bool:
        return self.key(name) in self.gguf.metadata

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        return self.gguf.integer(self.key(name), low, high, default)

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        return self.gguf.number(self.key(name), low, high, default)

    def flag(self, name: str, default: bool | None = None) -> bool:
        return self.gguf.flag(self.key(name), default)

    def refuse(self, name: str, problem: str, cure: str = CONVERT) -> ModelError:
        return ModelError(self.gguf.path, self.key(name), problem, cure)

    def each(self, name: str, low: int, high: int, default: int | None = None) -> list[int]:
        """Return a whole number for each layer, which a file gives once or as an array with an entry per layer."""
        if not isinstance(self.gguf.metadata.get(self.key(name)), np.ndarray):
            return [self.integer(name, low, high, default)] * self.n_layer
        values = self.gguf.ints(self.key(name), low, high)
        if len(values) != self.n_layer:
            raise self.refuse(name, f"has {len(values)} entries for {self.n_layer} layers")
        return [int(v) for v in values]

    def same(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number as `each` reads it, which must be the same in all layers."""
        values = self.each(name, low, high, default)
        if len(set(values)) > 1:
            raise self.refuse(name, "differs from layer to layer, which pyllm does not run", "take another model")
        return values[0]

    def windows(self, period: int, default: int = 0) -> list[int]:
        """Return the sliding window of each layer; 0: none, as in the last layer of each `period` of layers."""
        window = self.integer("attention.sliding_window", 0, MAX_CONTEXT, default)
        pattern = self.gguf.metadata.get(self.key("attention.sliding_window_pattern"))
        if isinstance(pattern, np.ndarray) and pattern.dtype.kind in "biu":
            if len(pattern) != self.n_layer:
                problem = f"has {len(pattern)} entries for {self.n_layer} layers"
                raise self.refuse("attention.sliding_window_pattern", problem)
            return [window if slides else 0 for slides in pattern]
        period = self.integer("attention.sliding_window_pattern", 0, MAX_LAYERS, period)
        return [window if period == 0 or i % period < period - 1 else 0 for i in range(self.n_layer)]

    def rope(self, *, neox: bool) -> Rope:
        """Read rope as llama.cpp does: a factor without a type is linear; yarn also scales queries and keys."""
        head_dim = self._head_dim("attention.key_length")
        dim = self.integer("rope.dimension_count", 2, head_dim, default=head_dim)
        if dim % 2:
            raise self.refuse("rope.dimension_count", f"is {dim}, must be even: values are rotated in pairs")
        old = self.number("rope.scale_linear", 0, 1e6, default=0)
        factor = self.number("rope.scaling.factor", 0, 1e6, default=old) or 1.0  # 0: no scaling
        scaling = self.gguf.text(self.key("rope.scaling.type"), default="none" if factor == 1 else "linear")
        if scaling not in ROPE_SCALINGS:
            problem = f"is {scaling[:60]!a}, which pyllm does not compute"
            raise self.refuse("rope.scaling.type", problem, f"it knows {', '.join(ROPE_SCALINGS)}")
        magnitude = self.number("rope.scaling.attn_factor", 1e-6, 1e6, default=1.0)
        if scaling == "yarn":
            part = self.number("rope.scaling.yarn_log_multiplier", 0, 100, default=0.0)
            magnitude *= (1 + 0.1 * math.log(max(factor, 1))) / (1 + 0.1 * part * math.log(max(factor, 1)))
        return Rope(
            dim=dim,
            base=self.number("rope.freq_base", 1.001 if scaling == "yarn" else 1e-3, 1e15, default=10000.0),
            neox=neox,
            n_ctx_orig=self.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT, self._n_ctx_train()),
            scaling=scaling,
            factor=1.0 if scaling == "none" else factor,
            beta_fast=self.number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, default=32.0),
            beta_slow=self.number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, default=1.0),
            magnitude=magnitude,
        )

    def layers(
        self, ropes: Sequence[Rope | None], *, windows: Sequence[int] = (), scale: float = 0.0, softcap: float = 0.0
    ) -> tuple[Layer, ...]:
        """Return the layers, given the rope and the window of each. scale: 0 stands for 1 / sqrt(head_dim_k)."""
        k, v = self._head_dim("attention.key_length"), self._head_dim("attention.value_length")
        if k % 2:
            raise self.refuse("attention.key_length", f"is {k}, must be even: values are rotated in pairs")
        n_head = self.same("attention.head_count", 1, MAX_HEADS)
        n_head_kv = self.same("attention.head_count_kv", 1, MAX_HEADS, default=n_head)
        if n_head % n_head_kv:
            raise self.refuse("attention.head_count_kv", f"is {n_head_kv}, must divide the {n_head} query heads")
        return tuple(
            Layer(n_head, n_head_kv, k, v, rope, scale or k**-0.5, window, softcap)
            for rope, window in zip(ropes, windows or [0] * self.n_layer, strict=True)
        )

    def config(self, layers: tuple[Layer, ...], *, norm_eps: float | None = None, **more: Any) -> Config:
        """Return a Config with what all models have; norm_eps: None is RMSNorm's; `more`: its other fields."""
        return Config(
            architecture=self.architecture,
            name=self.gguf.text("general.name", default=self.gguf.path.stem),
            n_layer=self.n_layer,
            n_embd=self.n_embd,
            n_ff=self.n_ff,
            n_vocab=self._n_vocab(),
            n_ctx_train=self._n_ctx_train(),
            norm_eps=self._eps("attention.layer_norm_rms_epsilon") if norm_eps is None else norm_eps,
            layers=layers,
            **more,
        )

    def layer_norm_eps(self) -> float:
        """Return the epsilon of LayerNorm, which `config` takes where norms are not RMSNorm."""
        return self._eps("attention.layer_norm_epsilon")

    def _eps(self, name: str) -> float:
        return self.number(name, 1e-30, 1.0)

    @property
    def embedding_per_head(self) -> int:
        return self.n_embd // self.same("attention.head_count", 1, MAX_HEADS)

    def experts(self, n_ff: int | None = None) -> dict[str, int]:
        """Return a Config's fields for a mixture of experts, {} without one. n_ff: default width of an expert."""
        count = self.integer("expert_count", 0, MAX_EXPERTS, default=0)
        if count == 0:
            return {}
        return {
            "expert_count": count,
            "expert_used_count": self.integer("expert_used_count", 1, count),
            "expert_feed_forward_length": self.same("expert_feed_forward_length", 1, MAX_WIDTH, n_ff),
        }

    def dense(self) -> None:
        """Raise ModelError if the model is a mixture of experts."""
        if self.integer("expert_count", 0, MAX_EXPERTS, default=0):
            problem = f"is not 0: a mixture of experts, which pyllm does not run in {self.architecture}"
            raise self.refuse("expert_count", problem, "take a dense model")

    def _n_ctx_train(self) -> int:
        return self.integer("context_length", 1, MAX_CONTEXT)

    def _head_dim(self, name: str) -> int:
        """Return the values of a head: what the file says, else n_embd / n_head."""
        n_head = self.same("attention.head_count", 1, MAX_HEADS)
        if not self.has(name) and self.n_embd % n_head:
            raise self.refuse(name, f"is missing, and {n_head} heads do not divide the {self.n_embd} values")
        return self.integer(name, 1, MAX_HEAD_DIM, default=self.n_embd // n_head)

    def _n_vocab(self) -> int:
        """Return the rows of the embedding, which must be as many as the tokens if the file has a vocabulary."""
        g, key = self.gguf, self.key("vocab_size")
        rows = g.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in g.tensors else None
        if "tokenizer.ggml.tokens" in g.metadata:
            key, n = "tokenizer.ggml.tokens", len(g.texts("tokenizer.ggml.tokens"))
        else:
            n = g.integer(key, 1, MAX_VOCAB, default=rows)
        if not 1 <= n <= MAX_VOCAB:
            raise ModelError(g.path, key, f"has {n:,} entries, must have from 1 to {MAX_VOCAB:,}", CONVERT)
        if rows not in (None, n):
            raise ModelError(g.path, key, f"has {n:,} tokens, but token_embd.weight has {rows:,} rows", CONVERT)
        return n
