"""The architecture `qwen3moe`: Qwen 3 with experts."""

from __future__ import annotations

from ..config import Config
from ..hyper import Hyper
from .qwen3 import Qwen3


class Qwen3MoE(Qwen3):
    @staticmethod
    def config(h: Hyper) -> Config:
        return h.config(h.layers([h.rope(neox=True)] * h.n_layer), **h.experts())
