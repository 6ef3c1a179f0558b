"""The architecture `phi3`: Phi 3 and 4. As `llama`, with fused matrices, partial rope and factors by context length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Config
from ..hyper import Hyper
from . import llama
from .blocks import Attention, Norms

if TYPE_CHECKING:
    from ..forward.weights import Weights


class Block(llama.Block):
    """One layer. The file holds gate and up as one matrix."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        Attention.__init__(self, w, c, i)
        Norms.__init__(self, w, c, i)
        parts = {f"blk.{i}.ffn_gate.weight": c.n_ff, f"blk.{i}.ffn_up.weight": c.n_ff}
        self.ffn_gate, self.ffn_up = w.parts(f"blk.{i}.ffn_up.weight", parts, c.n_embd)
        self.ffn_down = w.matrix(f"blk.{i}.ffn_down.weight", c.n_embd, c.n_ff)


class Phi3(llama.Llama):
    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        return h.config(h.layers([h.rope(neox=True)] * h.n_layer, windows=h.windows(period=0)))
