"""pyllm: GGUF language models on CPUs in pure Python, and what the KV cache's format costs and buys.

From Python: `pyllm.LLM` and `pyllm.SamplingParams`; see docs/python.md. Importing this package imports neither NumPy
nor Numba: its names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .engine.llm import LLM as LLM
    from .engine.results import Bytes as Bytes
    from .engine.results import Completion as Completion
    from .engine.results import Piece as Piece
    from .engine.results import Timings as Timings
    from .engine.sampler import SamplingParams as SamplingParams
    from .models.cache.spec import CacheSpec as CacheSpec
    from .models.errors import FitError as FitError
    from .models.errors import ModelError as ModelError
    from .models.errors import NumberError as NumberError
    from .models.errors import PyllmError as PyllmError
    from .models.errors import UsageError as UsageError

_WHERE = {
    "LLM": "engine.llm",
    **dict.fromkeys(("Bytes", "Completion", "Piece", "Timings"), "engine.results"),
    "SamplingParams": "engine.sampler",
    "CacheSpec": "models.cache.spec",
    **dict.fromkeys(("FitError", "ModelError", "NumberError", "PyllmError", "UsageError"), "models.errors"),
}

__all__ = [
    "LLM",
    "Bytes",
    "CacheSpec",
    "Completion",
    "FitError",
    "ModelError",
    "NumberError",
    "Piece",
    "PyllmError",
    "SamplingParams",
    "Timings",
    "UsageError",
    "__version__",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
