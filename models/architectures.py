"""The architectures by the name that a GGUF gives them: here each is registered, once."""

from __future__ import annotations

from typing import Any

from .blocks import Decoder
from .config import Config
from .errors import ModelError
from .gemma2 import Gemma2
from .gemma3 import Gemma3
from .gguf import GGUF
from .gpt_oss import GptOss
from .granite import Granite
from .hyper import Hyper
from .llama import Llama
from .mistral3 import Mistral3
from .olmo2 import Olmo2
from .phi3 import Phi3
from .qwen2 import Qwen2
from .qwen3 import Qwen3
from .qwen3moe import Qwen3MoE
from .smollm3 import SmolLM3

ARCHITECTURES: dict[str, type[Decoder[Any]]] = {
    "llama": Llama,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "gemma2": Gemma2,
    "gemma3": Gemma3,
    "phi3": Phi3,
    "smollm3": SmolLM3,
    "mistral3": Mistral3,
    "granite": Granite,
    "olmo2": Olmo2,
    "qwen3moe": Qwen3MoE,
    "gpt-oss": GptOss,
}


def read_config(g: GGUF) -> Config:
    """The hyperparameters of a file, as its architecture reads them; raises ModelError."""
    name = g.architecture
    if name not in ARCHITECTURES:
        problem = f"is {name[:60]!a}, which pyllm does not run"
        raise ModelError(g.path, "general.architecture", problem, f"it runs {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name].config(Hyper(g))
