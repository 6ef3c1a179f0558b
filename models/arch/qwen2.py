"""The architecture `qwen2`: Qwen 2 and 2.5. As `llama`, with biases on queries, keys and values, and NeoX rope."""

from __future__ import annotations

from ..config import Config
from ..hyper import Hyper
from .llama import Llama


class Qwen2(Llama):
    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        return h.config(h.layers([h.rope(neox=True)] * h.n_layer))
