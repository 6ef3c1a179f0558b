"""The architecture `mistral3`: Mistral 3 and Ministral 3. As `llama`, with queries that grow with their position."""

from __future__ import annotations

from ..config import Config
from ..hyper import Hyper
from .llama import Llama


class Mistral3(Llama):
    @staticmethod
    def config(h: Hyper) -> Config:
        h.dense()
        rope = h.rope(neox=False)
        temperature = h.number("attention.temperature_scale", 0, 1e3, default=0.0)
        layers = h.layers([rope] * h.n_layer)
        return h.config(layers, temperature_scale=temperature, temperature_length=rope.n_ctx_orig)
