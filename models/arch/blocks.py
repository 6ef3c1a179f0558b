"""What architectures are made of: the tensors that many of them share, under GGUF's names. Computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ..config import Config
from ..forward.positions import RopeFactors
from ..hyper import Hyper

if TYPE_CHECKING:
    from ..forward.recorder import Recorder
    from ..forward.weights import Weights


class Attention:
    """The matrices around attention."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        a = c.layers[i]
        parts = {
            f"blk.{i}.attn_q.weight": a.n_head * a.head_dim_k,
            f"blk.{i}.attn_k.weight": a.n_head_kv * a.head_dim_k,
            f"blk.{i}.attn_v.weight": a.n_head_kv * a.head_dim_v,
        }
        w.together(*(name.replace("weight", "bias") for name in parts))
        if w.has(f"blk.{i}.attn_qkv.weight"):
            self.attn_q, self.attn_k, self.attn_v = w.parts(f"blk.{i}.attn_qkv.weight", parts, c.n_embd)
        else:
            self.attn_q, self.attn_k, self.attn_v = (w.matrix(name, rows, c.n_embd) for name, rows in parts.items())
        self.attn_output = w.matrix(f"blk.{i}.attn_output.weight", c.n_embd, a.n_head * a.head_dim_v)


class FeedForward:
    """The matrices of a gated feed-forward."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        self.ffn_gate = w.matrix(f"blk.{i}.ffn_gate.weight", c.n_ff, c.n_embd)
        self.ffn_up = w.matrix(f"blk.{i}.ffn_up.weight", c.n_ff, c.n_embd)
        self.ffn_down = w.matrix(f"blk.{i}.ffn_down.weight", c.n_embd, c.n_ff)


class Experts:
    """The tensors of a mixture of experts in a layer."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        n, n_ff = c.expert_count, c.expert_feed_forward_length
        self.ffn_gate_inp = w.matrix(f"blk.{i}.ffn_gate_inp.weight", n, c.n_embd)
        self.ffn_gate_exps = w.stack(f"blk.{i}.ffn_gate_exps.weight", n, n_ff, c.n_embd)
        self.ffn_up_exps = w.stack(f"blk.{i}.ffn_up_exps.weight", n, n_ff, c.n_embd)
        self.ffn_down_exps = w.stack(f"blk.{i}.ffn_down_exps.weight", n, c.n_embd, n_ff)


class Norms:
    """What attention and the feed-forward begin with."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        self.attn_norm = w.vector(f"blk.{i}.attn_norm.weight", c.n_embd)
        self.ffn_norm = w.vector(f"blk.{i}.ffn_norm.weight", c.n_embd)


class HeadNorms:
    """Norms of the queries and of the keys, head by head."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        self.attn_q_norm = w.vector(f"blk.{i}.attn_q_norm.weight", c.layers[i].head_dim_k)
        self.attn_k_norm = w.vector(f"blk.{i}.attn_k_norm.weight", c.layers[i].head_dim_k)


class PostNorms:
    """Norms of what attention and the feed-forward add."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        self.post_attention_norm = w.vector(f"blk.{i}.post_attention_norm.weight", c.n_embd)
        self.post_ffw_norm = w.vector(f"blk.{i}.post_ffw_norm.weight", c.n_embd)


class PreNorm(Attention, FeedForward, Norms):
    """A layer whose two halves begin with a norm."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        Attention.__init__(self, w, c, i)
        FeedForward.__init__(self, w, c, i)
        Norms.__init__(self, w, c, i)


Block = TypeVar("Block", bound=Attention)


class Decoder(Generic[Block]):
    """An architecture: how it reads its hyperparameters, its weights and its forward pass."""

    block: type[Block]  # makes a layer of the weights

    @staticmethod
    def config(h: Hyper) -> Config:
        """The hyperparameters of a file; raises ModelError."""
        raise NotImplementedError

    def __init__(self, w: Weights, c: Config) -> None:
        tied = not w.has("output.weight")
        self.token_embd = w.embedding("token_embd.weight", c.n_vocab, c.n_embd)
        self.output_norm = w.vector("output_norm.weight", c.n_embd)
        self.output = w.matrix("token_embd.weight" if tied else "output.weight", c.n_vocab, c.n_embd)
        self.rope_factors = RopeFactors(w, c)
        self.blk = [self.block(w, c, i) for i in range(c.n_layer)]

    def forward(self, r: Recorder) -> None:
        """Record a step: its tokens in, the logits of the rows asked for out."""
        raise NotImplementedError


class PlainDecoder(Decoder[PreNorm]):
    """The forward pass that architectures have which differ in their hyperparameters or tensors only."""

    block = PreNorm

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd)
        for i, blk in r.layers(self.blk):
            h = r.norm(x, blk.attn_norm)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v)
            r.add_linear(x, h, blk.attn_output)

            h = r.norm(x, blk.ffn_norm)
            gate, up = r.linear(h, blk.ffn_gate, blk.ffn_up)
            r.add_linear(x, r.gate_silu(gate, up), blk.ffn_down)

        h = r.norm(x, self.output_norm, logits_rows=True)
        r.logits(h, self.output)
