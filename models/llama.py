"""The architecture `llama`: Llama 2 and 3, Mistral, SmolLM and their kin. RMSNorm before, grouped heads, SwiGLU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .config import Config
from .recorder import Recorder
from .weights import Matrix, Weights

F32Array = npt.NDArray[np.float32]


class Block:
    """One layer. Attributes carry GGUF's tensor names."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        def matrix(name: str, rows: int, columns: int) -> Matrix:
            return w.matrix(f"blk.{i}.{name}.weight", rows, columns)

        self.attn_norm = w.vector(f"blk.{i}.attn_norm.weight", c.n_embd)
        self.attn_q = matrix("attn_q", c.n_head * c.head_dim_k, c.n_embd)
        self.attn_k = matrix("attn_k", c.n_head_kv * c.head_dim_k, c.n_embd)
        self.attn_v = matrix("attn_v", c.n_head_kv * c.head_dim_v, c.n_embd)
        self.attn_output = matrix("attn_output", c.n_embd, c.n_head * c.head_dim_v)
        self.ffn_norm = w.vector(f"blk.{i}.ffn_norm.weight", c.n_embd)
        self.ffn_gate = matrix("ffn_gate", c.n_ff, c.n_embd)
        self.ffn_up = matrix("ffn_up", c.n_ff, c.n_embd)
        self.ffn_down = matrix("ffn_down", c.n_embd, c.n_ff)


class Llama:
    """Weights and forward pass."""

    def __init__(self, w: Weights, c: Config) -> None:
        self.config = c
        self.token_embd = w.embedding("token_embd.weight", c.n_vocab, c.n_embd)
        self.blk = [Block(w, c, i) for i in range(c.n_layer)]
        self.output_norm = w.vector("output_norm.weight", c.n_embd)
        tied = not w.has("output.weight")
        self.output = w.matrix("token_embd.weight" if tied else "output.weight", c.n_vocab, c.n_embd)
        self.rope_freqs = w.vector("rope_freqs.weight", c.rope_dim // 2) if w.has("rope_freqs.weight") else None

    def turns(self, n_ctx: int) -> F32Array:
        """Cosine and sine of each pair's angle at each position: (n_ctx, rope_dim / 2, 2)."""
        c = self.config
        speed = c.rope_freq_base ** (-np.arange(0, c.rope_dim, 2) / c.rope_dim) / c.rope_scale_factor
        if self.rope_freqs is not None:
            speed = speed / self.rope_freqs
        angle = np.arange(n_ctx)[:, None] * speed
        turns = np.empty((*angle.shape, 2), np.float32)
        np.cos(angle, out=turns[..., 0])
        np.sin(angle, out=turns[..., 1])
        return turns

    def forward(self, r: Recorder, turns: F32Array) -> None:
        """Record a step: its tokens in, the logits of the rows asked for out."""
        x = r.embedding(self.token_embd)
        for i, blk in enumerate(self.blk):
            h = r.norm(x, blk.attn_norm)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            h = r.attention(i, q, k, v, turns, neox=False, scale=self.config.head_dim_k**-0.5)
            r.add_linear(x, h, blk.attn_output)

            h = r.norm(x, blk.ffn_norm)
            gate, up = r.linear(h, blk.ffn_gate, blk.ffn_up)
            r.add_linear(x, r.gate_silu(gate, up), blk.ffn_down)

        h = r.norm(x, self.output_norm, outs=True)
        r.logits(h, self.output)
