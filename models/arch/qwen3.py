"""The architecture `qwen3`: Qwen 3, dense. As `llama`, with norms of queries and keys, head by head, before rope.

With experts it is `qwen3moe`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config
from ..hyper import Hyper
from . import llama
from .blocks import Decoder, HeadNorms

if TYPE_CHECKING:
    from ..forward.recorder import Recorder
    from ..forward.weights import Weights


class Block(llama.Block, HeadNorms):
    """One layer. Attributes carry GGUF's tensor names."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        llama.Block.__init__(self, w, c, i)
        HeadNorms.__init__(self, w, c, i)


class Qwen3(Decoder[Block]):
    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        return h.config(h.layers([h.rope(neox=True)] * h.n_layer))

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd)
        for i, blk in r.layers(self.blk):
            h = r.norm(x, blk.attn_norm)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v, q_norm=blk.attn_q_norm, k_norm=blk.attn_k_norm)
            r.add_linear(x, h, blk.attn_output)

            h = r.norm(x, blk.ffn_norm)
            if r.config.expert_count:
                r.add_experts(x, h, blk, "silu")
            else:
                gate, up = r.linear(h, blk.ffn_gate, blk.ffn_up)
                r.add_linear(x, r.gate_silu(gate, up), blk.ffn_down)

        h = r.norm(x, self.output_norm, logits_rows=True)
        r.logits(h, self.output)
