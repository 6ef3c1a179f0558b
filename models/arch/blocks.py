"""The parts that architectures share: a layer's tensors under GGUF's names, and `Decoder`. Computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ..config import Config
from ..forward.positions import RopeFactors
from ..hyper import Hyper

if TYPE_CHECKING:
    from ..forward.recorder import Recorder
    from ..forward.weights import Weights


class Attention:
    """The matrices before and after attention."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        a = c.layers[i]
        parts = {
            f"blk.{i}.attn_q.weight": a.n_head * a.head_dim_k,
            f"blk.{i}.attn_k.weight": a.n_head_kv * a.head_dim_k,
            f"blk.{i}.attn_v.weight": a.n_head_kv * a.head_dim_v,
        }
        w.has_all(*(name.replace("weight", "bias") for name in parts))
        if w.has(f"blk.{i}.attn_qkv.weight"):
            self.attn_q, self.attn_k, self.attn_v = w.parts(f"blk.{i}.attn_qkv.weight", parts, c.n_embd)
        else:
            self.attn_q, self.attn_k, self.attn_v = (w.matrix(name, rows, c.n_embd) for name, rows in parts.items())
        self.attn_output = w.matrix(f"blk.{i}.attn_output.weight", c.n_embd, a.n_head * a.head_dim_v)


class FeedForward:
    """The matrices of a gated feed-forward half."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        self.ffn_gate = w.matrix(f"blk.{i}.ffn_gate.weight", c.n_ff, c.n_embd)
        self.ffn_up = w.matrix(f"blk.{i}.ffn_up.weight", c.n_ff, c.n_embd)
        self.ffn_down = w.matrix(f"blk.{i}.ffn_down.weight", c.n_embd, c.n_ff)


class Experts:
    """The tensors of a layer's mixture of experts."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        n, n_ff = c.expert_count, c.expert_feed_forward_length
        self.ffn_gate_inp = w.matrix(f"blk.{i}.ffn_gate_inp.weight", n, c.n_embd)
        self.ffn_gate_exps = w.stack(f"blk.{i}.ffn_gate_exps.weight", n, n_ff, c.n_embd)
        self.ffn_up_exps = w.stack(f"blk.{i}.ffn_up_exps.weight", n, n_ff, c.n_embd)
        self.ffn_down_exps = w.stack(f"blk.{i}.ffn_down_exps.weight", n, c.n_embd, n_ff)


class Norms:
    """The norms before attention and before the feed-forward half."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        self.attn_norm = w.vector(f"blk.{i}.attn_norm.weight", c.n_embd)
        self.ffn_norm = w.vector(f"blk.{i}.ffn_norm.weight", c.n_embd)


class HeadNorms:
    """The norms of queries and keys, head by head."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        self.attn_q_norm = w.vector(f"blk.{i}.attn_q_norm.weight", c.layers[i].head_dim_k)
        self.attn_k_norm = w.vector(f"blk.{i}.attn_k_norm.weight", c.layers[i].head_dim_k)


class PostNorms:
    """The norms after attention and after the feed-forward half, before each is added to the residual stream."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        self.post_attention_norm = w.vector(f"blk.{i}.post_attention_norm.weight", c.n_embd)
        self.post_ffw_norm = w.vector(f"blk.{i}.post_ffw_norm.weight", c.n_embd)


class PreNorm(Attention, FeedForward, Norms):
    """A dense layer with a norm before each half."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        Attention.__init__(self, w, c, i)
        FeedForward.__init__(self, w, c, i)
        Norms.__init__(self, w, c, i)


Block = TypeVar("Block", bound=Attention)


class Decoder(Generic[Block]):
    """An architecture with its tensors: it reads the hyperparameters and records the forward pass."""

    block: type[Block]  # takes the tensors of one layer

    @staticmethod
    def config(h: Hyper) -> Config:
        """Return the hyperparameters of a file; raises ModelError."""
        raise NotImplementedError

    def __init__(self, w: Weights, c: Config) -> None:
        tied = not w.has("output.weight")
        self.token_embd = w.embedding("token_embd.weight", c.n_vocab, c.n_embd)
        self.output_norm = w.vector("output_norm.weight", c.n_embd)
        self.output = w.matrix("token_embd.weight" if tied else "output.weight", c.n_vocab, c.n_embd)
        self.rope_factors = RopeFactors(w, c)
        self.blk = [self.block(w, c, i) for i in range(c.n_layer)]

    def forward(self, r: Recorder) -> None:
        """Record a step, from its tokens to the logits of the rows that were asked for."""
        raise NotImplementedError
