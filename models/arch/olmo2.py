"""The architecture `olmo2`: OLMo 2 and 3. Norms after each half, not before; norms of all heads of Q or K at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..config import Config
from ..hyper import Hyper
from .blocks import Attention, Decoder, FeedForward, PostNorms

if TYPE_CHECKING:
    from ..forward.recorder import Recorder
    from ..forward.weights import Weights


class Block(Attention, FeedForward, PostNorms):
    """One layer. Attributes carry GGUF's tensor names."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        Attention.__init__(self, w, c, i)
        FeedForward.__init__(self, w, c, i)
        PostNorms.__init__(self, w, c, i)
        a = c.layers[i]
        self.attn_q_norm = w.vector(f"blk.{i}.attn_q_norm.weight", a.n_head * a.head_dim_k)
        self.attn_k_norm = w.vector(f"blk.{i}.attn_k_norm.weight", a.n_head_kv * a.head_dim_k)


class Olmo2(Decoder[Block]):
    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        windows, rope = h.windows(period=4), h.rope(neox=True)
        local = replace(rope, scaling="none", factor=1.0, magnitude=1.0)
        return h.config(h.layers([local if window else rope for window in windows], windows=windows))

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd)
        for i, blk in r.layers(self.blk):
            h = r.hand_over(x)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v, q_norm=blk.attn_q_norm, k_norm=blk.attn_k_norm)
            (h,) = r.linear(h, blk.attn_output)
            r.add_norm(x, h, blk.post_attention_norm)

            h = r.hand_over(x)
            gate, up = r.linear(h, blk.ffn_gate, blk.ffn_up)
            (h,) = r.linear(r.gate_silu(gate, up), blk.ffn_down)
            r.add_norm(x, h, blk.post_ffw_norm)

        h = r.norm(x, self.output_norm, logits_rows=True)
        r.logits(h, self.output)
