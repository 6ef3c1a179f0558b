"""The architecture `smollm3`: SmolLM 3. As `llama`, with no rope in every fourth layer."""

from __future__ import annotations

from ..config import Config
from ..hyper import Hyper
from .llama import Llama


class SmolLM3(Llama):
    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        rope = h.rope(neox=False)
        return h.config(h.layers([None if i % 4 == 3 else rope for i in range(h.n_layer)]))
