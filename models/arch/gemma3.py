"""The architecture `gemma3`: Gemma 3. As `gemma2`, with norms of heads for softcaps, five windows to a full layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..config import Config
from ..hyper import Hyper
from .blocks import Decoder, HeadNorms, PostNorms, PreNorm

if TYPE_CHECKING:
    from ..forward.recorder import Recorder
    from ..forward.weights import Weights


class Block(PreNorm, HeadNorms, PostNorms):
    """One layer. Attributes carry GGUF's tensor names."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        PreNorm.__init__(self, w, c, i)
        HeadNorms.__init__(self, w, c, i)
        PostNorms.__init__(self, w, c, i)


class Gemma3(Decoder[Block]):
    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        windows, rope = h.windows(period=6), h.rope(neox=True)
        local = replace(
            rope, base=h.number("rope.freq_base_swa", 1e-3, 1e15, default=10000.0), scaling="none", factor=1.0
        )
        layers = h.layers(
            [local if window else rope for window in windows],
            windows=windows,
            scale=h.embedding_per_head**-0.5 if h.n_layer == 62 else 0.0,  # Gemma 3 27B
        )
        final_softcap = h.number("final_logit_softcapping", 0, 1e6, default=0.0)
        return h.config(layers, embedding_scale=h.n_embd**0.5, final_softcap=final_softcap)

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd, scale=r.config.embedding_scale)
        for i, blk in r.layers(self.blk):
            h = r.norm(x, blk.attn_norm)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v, q_norm=blk.attn_q_norm, k_norm=blk.attn_k_norm)
            (h,) = r.linear(h, blk.attn_output)
            r.add_norm(x, h, blk.post_attention_norm)

            h = r.norm(x, blk.ffn_norm)
            gate, up = r.linear(h, blk.ffn_gate, blk.ffn_up)
            (h,) = r.linear(r.gate_gelu(gate, up), blk.ffn_down)
            r.add_norm(x, h, blk.post_ffw_norm)

        h = r.norm(x, self.output_norm, logits_rows=True)
        r.logits(h, self.output, softcap=r.config.final_softcap)
