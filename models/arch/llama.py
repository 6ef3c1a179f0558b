"""The architecture `llama`: Llama 2 and 3, Mistral, SmolLM. A norm before each half, grouped heads, SwiGLU.

With experts instead of one feed-forward half it is Mixtral. Architectures that differ in their hyperparameters or
tensors alone inherit this forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config
from ..hyper import Hyper
from .blocks import Attention, Decoder, Experts, FeedForward, Norms

if TYPE_CHECKING:
    from ..forward.recorder import Recorder
    from ..forward.weights import Weights


class Block(Attention, FeedForward, Experts, Norms):
    """One layer. Attributes carry GGUF's tensor names."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        Attention.__init__(self, w, c, i)
        (Experts if c.expert_count else FeedForward).__init__(self, w, c, i)
        Norms.__init__(self, w, c, i)


class Llama(Decoder[Block]):
    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        return h.config(h.layers([h.rope(neox=False)] * h.n_layer), **h.experts(n_ff=h.n_ff))

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd)
        for i, blk in r.layers(self.blk):
            h = r.norm(x, blk.attn_norm)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v)
            r.add_linear(x, h, blk.attn_output)

            h = r.norm(x, blk.ffn_norm)
            if r.config.expert_count:
                r.add_experts(x, h, blk, "silu")
            else:
                gate, up = r.linear(h, blk.ffn_gate, blk.ffn_up)
                r.add_linear(x, r.gate_silu(gate, up), blk.ffn_down)

        h = r.norm(x, self.output_norm, logits_rows=True)
        r.logits(h, self.output)
