"""A model's blueprint: the hyperparameters in its GGUF file, checked; knows no tensor's bytes and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernels.formats import CACHE_TYPES, FORMATS, Format
from .errors import ModelError, UsageError
from .gguf import CONVERT, GGUF

SUPPORTED = ("llama",)
ROPE_SCALINGS = ("none", "linear")

# Beyond every model that exists, and small enough that no product of a few of them leaves an int64.
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HEAD_DIM = 4096
MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 24
MAX_CONTEXT = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of a decoder-only transformer. Counts are of values, not of bytes."""

    architecture: str
    name: str  # the model's own name for itself, else the file's
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int  # query heads
    n_head_kv: int  # heads of K and of V; n_head is a multiple of it
    head_dim_k: int  # of a query and a key; even
    head_dim_v: int
    n_vocab: int  # rows of the embedding, and logits
    n_ctx_train: int  # positions that the model was trained on
    rope_dim: int  # how many of head_dim_k are rotated; even
    rope_freq_base: float
    rope_scaling: str  # one of ROPE_SCALINGS
    rope_scale_factor: float  # positions are divided by it; 1 where rope_scaling is "none"
    norm_eps: float  # of RMSNorm

    @classmethod
    def from_gguf(cls, g: GGUF) -> Config:
        """Reads and checks the metadata of a supported architecture; raises ModelError."""
        arch = g.architecture
        if arch not in SUPPORTED:
            problem = f"is {arch[:60]!a}, which pyllm does not run"
            raise ModelError(g.path, "general.architecture", problem, f"it runs {', '.join(SUPPORTED)}")

        def refuse(key: str, problem: str) -> ModelError:
            return ModelError(g.path, key, problem, CONVERT)

        if g.integer(f"{arch}.expert_count", 0, MAX_VOCAB, default=0):
            key, problem = f"{arch}.expert_count", "is not 0: a mixture of experts, which pyllm does not run"
            raise ModelError(g.path, key, problem, "take a dense model")
        n_layer = g.integer(f"{arch}.block_count", 1, MAX_LAYERS)
        n_embd = g.integer(f"{arch}.embedding_length", 1, MAX_WIDTH)
        n_head = _same(g, f"{arch}.attention.head_count", n_layer, MAX_HEADS)
        n_head_kv = _same(g, f"{arch}.attention.head_count_kv", n_layer, MAX_HEADS, default=n_head)
        if n_head % n_head_kv:
            raise refuse(f"{arch}.attention.head_count_kv", f"is {n_head_kv}, must divide the {n_head} query heads")
        head_dim_k = _head_dim(g, f"{arch}.attention.key_length", n_embd, n_head)
        head_dim_v = _head_dim(g, f"{arch}.attention.value_length", n_embd, n_head)
        if head_dim_k % 2:
            raise refuse(f"{arch}.attention.key_length", f"is {head_dim_k}, must be even: values are rotated in pairs")
        rope_dim = g.integer(f"{arch}.rope.dimension_count", 2, head_dim_k, default=head_dim_k)
        if rope_dim % 2:
            raise refuse(f"{arch}.rope.dimension_count", f"is {rope_dim}, must be even: values are rotated in pairs")
        scaling, factor = _rope_scaling(g, arch)
        return cls(
            architecture=arch,
            name=g.text("general.name", default=g.path.stem),
            n_layer=n_layer,
            n_embd=n_embd,
            n_ff=_same(g, f"{arch}.feed_forward_length", n_layer, MAX_WIDTH),
            n_head=n_head,
            n_head_kv=n_head_kv,
            head_dim_k=head_dim_k,
            head_dim_v=head_dim_v,
            n_vocab=_n_vocab(g, arch),
            n_ctx_train=g.integer(f"{arch}.context_length", 1, MAX_CONTEXT),
            rope_dim=rope_dim,
            rope_freq_base=g.number(f"{arch}.rope.freq_base", 1e-3, 1e15, default=10000.0),
            rope_scaling=scaling,
            rope_scale_factor=factor,
            norm_eps=g.number(f"{arch}.attention.layer_norm_rms_epsilon", 1e-30, 1.0),
        )


def _same(g: GGUF, key: str, n_layer: int, high: int, default: int | None = None) -> int:
    """A count from 1 to `high`, which a file may also give as an array with an entry a layer: all must be the same."""
    if not isinstance(g.metadata.get(key), np.ndarray):
        return g.integer(key, 1, high, default)
    values = g.ints(key, 1, high)
    if len(values) != n_layer:
        raise ModelError(g.path, key, f"has {len(values)} entries for {n_layer} layers", CONVERT)
    if (values != values[0]).any():
        raise ModelError(g.path, key, "differs from layer to layer, which pyllm does not run", "take another model")
    return int(values[0])


def _head_dim(g: GGUF, key: str, n_embd: int, n_head: int) -> int:
    """Values of a head: what the file says, else its share of the embedding."""
    if key not in g.metadata and n_embd % n_head:
        raise ModelError(g.path, key, f"is missing, and {n_head} heads do not divide the {n_embd} values", CONVERT)
    return g.integer(key, 1, MAX_HEAD_DIM, default=n_embd // n_head)


def _n_vocab(g: GGUF, arch: str) -> int:
    """Rows of the embedding; where the vocabulary is in the file, it must have as many tokens."""
    rows = g.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in g.tensors else None
    if "tokenizer.ggml.tokens" in g.metadata:
        key, n = "tokenizer.ggml.tokens", len(g.texts("tokenizer.ggml.tokens"))
    else:
        key = f"{arch}.vocab_size"
        n = g.integer(key, 1, MAX_VOCAB, default=rows)
    if not 1 <= n <= MAX_VOCAB:
        raise ModelError(g.path, key, f"has {n:,} entries, must have from 1 to {MAX_VOCAB:,}", CONVERT)
    if rows not in (None, n):
        raise ModelError(g.path, key, f"has {n:,} tokens, but token_embd.weight has {rows:,} rows", CONVERT)
    return n


def _rope_scaling(g: GGUF, arch: str) -> tuple[str, float]:
    """How positions are stretched: (one of ROPE_SCALINGS, factor). As in llama.cpp, a factor alone is linear."""
    old = g.number(f"{arch}.rope.scale_linear", 0, 1e6, default=0)
    factor = g.number(f"{arch}.rope.scaling.factor", 0, 1e6, default=old) or 1.0  # 0 is no scaling
    scaling = g.text(f"{arch}.rope.scaling.type", default="none" if factor == 1 else "linear")
    if scaling not in ROPE_SCALINGS:
        problem = f"is {scaling[:60]!a}, which pyllm does not compute"
        raise ModelError(g.path, f"{arch}.rope.scaling.type", problem, f"it knows {', '.join(ROPE_SCALINGS)}")
    return (scaling, factor) if scaling == "linear" else ("none", 1.0)


def check_cache_type(config: Config, side: str, cache_type: str) -> Format:
    """The format named `cache_type`, if the cache of the `side` "k" or "v" can be kept in it; raises UsageError."""
    head_dim = config.head_dim_k if side == "k" else config.head_dim_v
    flag = f"--cache-type-{side} {cache_type}"
    if cache_type not in CACHE_TYPES:
        raise UsageError(f"{flag}: unknown cache type; use one of {', '.join(CACHE_TYPES)}")
    fmt = FORMATS[cache_type]
    if head_dim % fmt.size:
        able = ", ".join(t for t in CACHE_TYPES if head_dim % FORMATS[t].size == 0)
        problem = f"this model's heads have {head_dim} values, not a multiple of {cache_type}'s block of {fmt.size}"
        raise UsageError(f"{flag}: {problem}; use one of {able}")
    return fmt


def side_bytes_per_token(config: Config, side: str, cache_type: str) -> int:
    """Bytes that the K (side "k") or V (side "v") of one token take in all layers together; raises UsageError."""
    fmt = check_cache_type(config, side, cache_type)
    head_dim = config.head_dim_k if side == "k" else config.head_dim_v
    return config.n_layer * config.n_head_kv * fmt.row_bytes(head_dim)


def kv_bytes_per_token(config: Config, k_type: str, v_type: str) -> int:
    """Bytes that one token takes in the KV cache, in all layers together; raises UsageError."""
    return side_bytes_per_token(config, "k", k_type) + side_bytes_per_token(config, "v", v_type)
