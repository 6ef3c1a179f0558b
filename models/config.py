"""A model's hyperparameters, checked; knows no tensor's bytes and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, slots=True)
class Rope:
    """How rope rotates queries and keys by their position."""

    dim: int  # how many of the head_dim_k values are rotated; even
    base: float
    neox: bool  # a pair is two values dim / 2 apart, else two neighbours
    n_ctx_orig: int  # context length before it was extended
    scaling: str = "none"  # one of ROPE_SCALINGS
    factor: float = 1.0  # divides positions; with yarn, those of slow pairs only
    beta_fast: float = 32.0  # yarn: pairs with this many turns in n_ctx_orig or more are not scaled,
    beta_slow: float = 1.0  # ... and those with this many or fewer are scaled in full
    magnitude: float = 1.0  # multiplies the rotated values


@dataclass(frozen=True, slots=True)
class Layer:
    """The hyperparameters of one layer's attention, which may differ from layer to layer."""

    n_head: int  # query heads
    n_head_kv: int  # heads of K and of V; n_head is a multiple of it
    head_dim_k: int  # values of a query's and a key's head; even
    head_dim_v: int
    rope: Rope | None  # None: no rope
    scale: float  # multiplies the products of queries and keys
    window: int = 0  # a token attends to this many tokens, itself the last; 0: all
    softcap: float = 0.0  # scores s become softcap * tanh(s / softcap); 0: off


@dataclass(frozen=True, slots=True)
class Config:
    """The hyperparameters of a decoder-only transformer. Sizes are numbers of values, not bytes."""

    architecture: str
    name: str  # general.name, else the file's name
    n_layer: int
    n_embd: int
    n_ff: int
    n_vocab: int  # rows of the embedding, and logits of a token
    n_ctx_train: int  # context length that the model was trained on
    norm_eps: float  # epsilon of RMSNorm, or of LayerNorm
    layers: tuple[Layer, ...]
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # multiplies what each half of a layer adds
    logit_scale: float = 1.0
    final_softcap: float = 0.0  # Layer.softcap for the logits
    temperature_scale: float = 0.0  # queries grow by temperature_scale * log(1 + position // temperature_length)
    temperature_length: int = 1
    expert_count: int = 0  # 0: no mixture of experts
    expert_used_count: int = 0
    expert_feed_forward_length: int = 0

    @property
    def window(self) -> int:
        """Return the tokens of the widest sliding window; 0 if there is none."""
        return max(layer.window for layer in self.layers)

    # Buffers that all layers share are made for the widest layer.

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
