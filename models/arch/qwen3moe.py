"""The architecture `qwen3moe`: Qwen 3 with experts. Queries and keys are normalized head by head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config
from ..hyper import Hyper
from .blocks import Attention, Decoder, Experts, HeadNorms, Norms

if TYPE_CHECKING:
    from ..forward.recorder import Recorder
    from ..forward.weights import Weights


class Block(Attention, HeadNorms, Experts, Norms):
    """One layer. Attributes carry GGUF's tensor names."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        Attention.__init__(self, w, c, i)
        HeadNorms.__init__(self, w, c, i)
        Experts.__init__(self, w, c, i)
        Norms.__init__(self, w, c, i)


class Qwen3MoE(Decoder[Block]):
    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        return h.config(h.layers([h.rope(neox=True)] * h.n_layer), **h.experts())

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd)
        for i, blk in r.layers(self.blk):
            h = r.norm(x, blk.attn_norm)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v, q_norm=blk.attn_q_norm, k_norm=blk.attn_k_norm)
            r.add_linear(x, h, blk.attn_output)

            h = r.norm(x, blk.ffn_norm)
            r.add_experts(x, h, blk, "silu")

        h = r.norm(x, self.output_norm, logits_rows=True)
        r.logits(h, self.output)
