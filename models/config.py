"""A model's blueprint: its hyperparameters, checked; knows no tensor's bytes and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, slots=True)
class Rope:
    """How queries and keys are turned by their position."""

    dim: int  # how many of head_dim_k are turned; even
    base: float
    neox: bool  # pairs are values of the two halves, else neighbours
    n_ctx_orig: int  # positions before the model was stretched to more
    scaling: str = "none"  # one of ROPE_SCALINGS
    factor: float = 1.0  # positions are divided by it; yarn: where a pair turns slowly
    beta_fast: float = 32.0  # yarn: pairs of so many turns in n_ctx_orig are not stretched,
    beta_slow: float = 1.0  # ... and those of so few are stretched in full
    magnitude: float = 1.0  # of what is turned, afterwards


@dataclass(frozen=True, slots=True)
class Layer:
    """The attention of one layer: what may differ from layer to layer."""

    n_head: int  # query heads
    n_head_kv: int  # heads of K and of V; n_head is a multiple of it
    head_dim_k: int  # of a query and a key; even
    head_dim_v: int
    rope: Rope | None  # None: positions do not enter
    scale: float  # of the products of queries and keys
    window: int = 0  # a token sees so many, itself the last; 0: all
    softcap: float = 0.0  # scores s become softcap * tanh(s / softcap); 0: they do not


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of a decoder-only transformer. Counts are of values, not of bytes."""

    architecture: str
    name: str  # the model's own name for itself, else the file's
    n_layer: int
    n_embd: int
    n_ff: int
    n_vocab: int  # rows of the embedding, and logits
    n_ctx_train: int  # positions that the model was trained on
    norm_eps: float  # of RMSNorm
    layers: tuple[Layer, ...]
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of what a layer adds
    logit_scale: float = 1.0
    final_softcap: float = 0.0  # of the logits, as Layer.softcap
    temperature_scale: float = 0.0  # queries grow by temperature_scale * log(1 + position // temperature_length)
    temperature_length: int = 1
    expert_count: int = 0  # 0: no mixture of experts
    expert_used_count: int = 0
    expert_feed_forward_length: int = 0

    @property
    def window(self) -> int:
        """Tokens of the widest sliding window; 0: there is none."""
        return max(layer.window for layer in self.layers)

    # Where a buffer is shared by all layers, it is made for the widest.

    @property
    def n_head(self) -> int:
        return max(layer.n_head for layer in self.layers)

    @property
    def n_head_kv(self) -> int:
        return max(layer.n_head_kv for layer in self.layers)

    @property
    def head_dim_k(self) -> int:
        return max(layer.head_dim_k for layer in self.layers)

    @property
    def head_dim_v(self) -> int:
        return max(layer.head_dim_v for layer in self.layers)
