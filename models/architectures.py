"""The architectures by the name that a GGUF gives them: here each is registered, once."""

from __future__ import annotations

from .blocks import Decoder
from .config import Config
from .errors import ModelError
from .gguf import GGUF
from .hyper import Hyper
from .llama import Llama

ARCHITECTURES: dict[str, type[Decoder]] = {
    "llama": Llama,
}


def read_config(g: GGUF) -> Config:
    """The hyperparameters of a file, as its architecture reads them; raises ModelError."""
    name = g.architecture
    if name not in ARCHITECTURES:
        problem = f"is {name[:60]!a}, which pyllm does not run"
        raise ModelError(g.path, "general.architecture", problem, f"it runs {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name].config(Hyper(g))
