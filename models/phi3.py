"""The architecture `phi3`: Phi 3 and 4. Fused matrices; heads turn in part, by factors for long or short contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .blocks import Attention, Decoder
from .config import Config
from .hyper import Hyper

if TYPE_CHECKING:
    from .recorder import Recorder
    from .weights import Weights


class Block(Attention):
    """One layer. Attributes carry GGUF's tensor names."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        super().__init__(w, c, i)
        parts = {f"blk.{i}.ffn_gate.weight": c.n_ff, f"blk.{i}.ffn_up.weight": c.n_ff}
        self.ffn_gate, self.ffn_up = w.parts(f"blk.{i}.ffn_up.weight", parts, c.n_embd)
        self.ffn_down = w.matrix(f"blk.{i}.ffn_down.weight", c.n_embd, c.n_ff)
        self.attn_norm = w.vector(f"blk.{i}.attn_norm.weight", c.n_embd)
        self.ffn_norm = w.vector(f"blk.{i}.ffn_norm.weight", c.n_embd)


class Phi3(Decoder[Block]):
    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        return h.config(h.layers([h.rope(neox=True)] * h.n_layer, windows=h.windows(period=0)))

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

        h = r.norm(x, self.output_norm, outs=True)
        r.logits(h, self.output)
