"""The architecture `gpt-oss`: experts with biases and a clamped gate, sinks, a window in every other layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config
from ..hyper import Hyper
from .blocks import Attention, Decoder, Experts

if TYPE_CHECKING:
    from ..forward.recorder import Recorder
    from ..forward.weights import Weights


class Block(Attention, Experts):
    """One layer. Attributes carry GGUF's tensor names."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        Attention.__init__(self, w, c, i)
        Experts.__init__(self, w, c, i)
        self.attn_norm = w.vector(f"blk.{i}.attn_norm.weight", c.n_embd)
        self.attn_sinks = w.vector(f"blk.{i}.attn_sinks.weight", c.layers[i].n_head)
        self.post_attention_norm = w.vector(f"blk.{i}.post_attention_norm.weight", c.n_embd)


class GptOss(Decoder[Block]):
    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        rope, windows = h.rope(neox=True), h.windows(2)
        return h.config(h.layers([rope] * h.n_layer, windows=windows), **h.experts())

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd)
        for i, blk in r.layers(self.blk):
            h = r.norm(x, blk.attn_norm)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v, sinks=blk.attn_sinks)
            r.add_linear(x, h, blk.attn_output)

            h = r.norm(x, blk.post_attention_norm)
            r.add_experts(x, h, blk, "swiglu_oai")

        h = r.norm(x, self.output_norm, logits_rows=True)
        r.logits(h, self.output)
