"""The architecture `granite`: Granite 3 and 4, dense. As `llama`, with scaled embeddings, scores, layers and logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config
from ..hyper import Hyper
from .blocks import Decoder, PreNorm

if TYPE_CHECKING:
    from ..forward.recorder import Recorder


class Granite(Decoder[PreNorm]):
    block = PreNorm

    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        rope = h.rope(neox=False) if h.flag("rope.scaling.finetuned", default=True) else None
        return h.config(
            h.layers([rope] * h.n_layer, scale=h.number("attention.scale", 0, 1e6, default=0.0)),
            embedding_scale=h.number("embedding_scale", 0, 1e6, default=0.0) or 1.0,
            residual_scale=h.number("residual_scale", 0, 1e6, default=0.0) or 1.0,
            logit_scale=1 / h.number("logit_scale", 1e-6, 1e6),
        )

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd, scale=r.config.embedding_scale)
        for i, blk in r.layers(self.blk):
            h = r.norm(x, blk.attn_norm)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v)
            r.add_linear(x, h, blk.attn_output, scale=r.config.residual_scale)

            h = r.norm(x, blk.ffn_norm)
            gate, up = r.linear(h, blk.ffn_gate, blk.ffn_up)
            r.add_linear(x, r.gate_silu(gate, up), blk.ffn_down, scale=r.config.residual_scale)

        h = r.norm(x, self.output_norm, logits_rows=True)
        r.logits(h, self.output, scale=r.config.logit_scale)
