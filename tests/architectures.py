"""Tiny models of each architecture, whose logits llama.cpp gave: see models/record_logits.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny

TOKENS: list[int] = np.random.default_rng(0).integers(3, 259, 80).tolist()
"""Longer than any window."""

MIXED = {"": "q4_0", "ffn_down": "q8_0", "token_embd": "q8_0", "output.": "f16"}

# Three query heads to a KV head, as in SmolLM2 and in most of the kernels' tests: nothing more to compile.
_SHAPE: dict[str, Any] = {"n_embd": 192, "n_head": 6, "n_head_kv": 2, "n_ff": 96}

MODELS: dict[str, dict[str, Any]] = {
    "llama": _SHAPE,
    "mixtral": _SHAPE | {"n_expert": 5, "n_expert_used": 2},
}
"""Arguments of tiny.write but for the types."""

CASES = [(name, kind) for name in MODELS for kind in ("f32", "mixed")]
"""Each as float32, and with quantized matrices."""

STEP = 4
"""Of the vocabulary's logits each fourth is kept."""


def write(folder: Path, name: str, kind: str) -> Path:
    model: dict[str, Any] = {"types": MIXED if kind == "mixed" else "f32"} | MODELS[name]
    return tiny.write(folder / f"{name}-{kind}.gguf", **model)


def recording(name: str, kind: str) -> Path:
    return Path(__file__).parent / "models" / "logits" / f"{name}-{kind}.npz"
