"""The architecture `gemma2`: Gemma 2. Norms before and after each half, a window in every other layer, softcaps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..config import Config
from ..hyper import Hyper
from .blocks import Decoder, PostNorms, PreNorm

if TYPE_CHECKING:
    from ..forward.recorder import Recorder
    from ..forward.weights import Weights


class Block(PreNorm, PostNorms):
    """One layer. Attributes carry GGUF's tensor names."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        PreNorm.__init__(self, w, c, i)
        PostNorms.__init__(self, w, c, i)


class Gemma2(Decoder[Block]):
    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        windows, rope = h.windows(period=2, default=4096), h.rope(neox=True)
        local = replace(rope, base=h.number("rope.freq_base_swa", 1e-3, 1e15, default=rope.base))
        layers = h.layers(
            [local if window else rope for window in windows],
            windows=windows,
            scale=h.embedding_per_head**-0.5 if h.n_layer == 46 else 0.0,  # Gemma 2 27B
            softcap=h.number("attn_logit_softcapping", 1e-3, 1e6, default=50.0),
        )
        final_softcap = h.number("final_logit_softcapping", 1e-3, 1e6, default=30.0)
        return h.config(layers, embedding_scale=h.n_embd**0.5, final_softcap=final_softcap)

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd, scale=r.config.embedding_scale)
        for i, blk in r.layers(self.blk):
            h = r.norm(x, blk.attn_norm)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v)
            (h,) = r.linear(h, blk.attn_output)
            r.add_norm(x, h, blk.post_attention_norm)

            h = r.norm(x, blk.ffn_norm)
            gate, up = r.linear(h, blk.ffn_gate, blk.ffn_up)
            (h,) = r.linear(r.gate_gelu(gate, up), blk.ffn_down)
            r.add_norm(x, h, blk.post_ffw_norm)

        h = r.norm(x, self.output_norm, logits_rows=True)
        r.logits(h, self.output, softcap=r.config.final_softcap)
