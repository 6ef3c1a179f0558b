"""An open model file with all that is read from it once: what it says, its weights, tokenizer and template."""

from __future__ import annotations

from dataclasses import dataclass

from .arch.registry import load_weights, read_config
from .config import Config
from .file.gguf import GGUF
from .forward.loaded import Loaded
from .text.template import ChatTemplate
from .text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Opened:
    """An open model file with its weights, which several caches can share."""

    gguf: GGUF
    config: Config
    loaded: Loaded
    tokenizer: Tokenizer
    template: ChatTemplate | None

    @classmethod
    def open(cls, gguf: GGUF, config: Config | None = None, tokenizer: Tokenizer | None = None) -> Opened:
        """Check a file's hyperparameters, tensors, tokenizer and template; raises ModelError.

        config, tokenizer: those of this file, if they were read before.
        """
        config = config or read_config(gguf)
        loaded = load_weights(gguf, config)
        return cls(gguf, config, loaded, tokenizer or Tokenizer.from_gguf(gguf), ChatTemplate.from_gguf(gguf))
