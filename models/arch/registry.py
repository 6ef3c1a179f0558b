"""The architectures by the name that a GGUF gives them: each is registered here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import ModelError
from ..file.gguf import GGUF
from ..file.lookalikes import check_model
from ..hyper import Hyper
from .blocks import Decoder
from .gemma2 import Gemma2
from .gemma3 import Gemma3
from .gpt_oss import GptOss
from .granite import Granite
from .llama import Llama
from .mistral3 import Mistral3
from .olmo2 import Olmo2
from .phi3 import Phi3
from .qwen2 import Qwen2
from .qwen3 import Qwen3
from .qwen3moe import Qwen3MoE
from .smollm3 import SmolLM3

if TYPE_CHECKING:
    from ..forward.loaded import Loaded

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
    """Return the hyperparameters of a file, as its architecture reads and checks them; raises ModelError."""
    check_model(g)
    name = g.architecture
    if name not in ARCHITECTURES:
        problem = f"is {name[:60]!a}, which pyllm does not run"
        raise ModelError(g.path, "general.architecture", problem, f"it runs {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name].config(Hyper(g))


def load_weights(g: GGUF, config: Config) -> Loaded:
    """Take the weights of a file for the architecture that `config` names; raises ModelError."""
    from ..forward.loaded import Loaded  # imports Numba, which reading hyperparameters does not need

    return Loaded(g, config, ARCHITECTURES[config.architecture])
