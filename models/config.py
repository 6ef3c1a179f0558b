"""A model's blueprint: its hyperparameters, checked; knows no tensor's bytes and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ..kernels.formats import CACHE_TYPES, FORMATS, Format
from . import layer_map
from .errors import UsageError
from .gguf import GGUF

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

    @classmethod
    def from_gguf(cls, g: GGUF) -> Config:
        """Reads and checks the metadata of a supported architecture; raises ModelError."""
        from .architectures import read_config  # they make Configs, so they import this module

        return read_config(g)

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


def check_cache_type(config: Config, side: str, cache_type: str) -> Format:
    """The format named `cache_type`, if the cache of the `side` "k" or "v" can be kept in it; raises UsageError."""
    flag = f"--cache-type-{side} {cache_type}"
    if cache_type not in CACHE_TYPES:
        raise UsageError(f"{flag}: unknown cache type; use one of {', '.join(CACHE_TYPES)}")
    fmt = FORMATS[cache_type]
    for head_dim in sorted({_head_dim(layer, side) for layer in config.layers}):
        if head_dim % fmt.size:
            able = ", ".join(t for t in CACHE_TYPES if head_dim % FORMATS[t].size == 0)
            problem = f"this model's heads have {head_dim} values, not a multiple of {cache_type}'s block of {fmt.size}"
            raise UsageError(f"{flag}: {problem}; use one of {able}")
    return fmt


def side_bytes_per_token(config: Config, side: str, types: str, *, windows: bool | None = None) -> int:
    """Bytes that the K (side "k") or V (side "v") of one token take in all layers together; raises UsageError.

    types: a type, or a map of types by layer. windows: only of layers with a sliding window, or only of those without.
    """
    formats = [check_cache_type(config, side, name) for name in layer_map.types(side, types, config.n_layer)]
    each = zip(config.layers, formats, strict=True)
    return sum(
        layer.n_head_kv * fmt.row_bytes(_head_dim(layer, side))
        for layer, fmt in each
        if windows is None or windows == (layer.window > 0)
    )


def kv_bytes_per_token(config: Config, k_types: str, v_types: str, *, windows: bool | None = None) -> int:
    """Bytes that one token takes in the KV cache, in all layers together; raises UsageError. windows: as above."""
    k = side_bytes_per_token(config, "k", k_types, windows=windows)
    return k + side_bytes_per_token(config, "v", v_types, windows=windows)


def _head_dim(layer: Layer, side: str) -> int:
    return layer.head_dim_k if side == "k" else layer.head_dim_v
