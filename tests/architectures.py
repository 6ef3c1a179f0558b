"""Tiny models of each architecture, and their particular traits: the tests loop over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiny

TOKENS: list[int] = np.random.default_rng(0).integers(3, 259, 80).tolist()
"""Longer than any window."""

MIXED = {"": "q4_0", "ffn_down": "f16", "ffn_up": "f16", "token_embd": "q8_0", "output.": "f16"}
"""Not all matrices are quantized: for those, llama.cpp rounds activations to int8, pyllm with a matrix unit to
bfloat16, and each rounding adds to the difference of the two."""

# Three query heads to a KV head, as in SmolLM2 and in most of the kernels' tests: nothing more to compile.
_SHAPE: dict[str, Any] = {"n_embd": 192, "n_head": 6, "n_head_kv": 2, "n_ff": 96}

_EXPERTS = _SHAPE | {"n_expert": 5, "n_expert_used": 2}

_FACTORS = {
    "rope_factors_long.weight": np.geomspace(2, 9, 12),
    "rope_factors_short.weight": np.geomspace(1, 3, 12),
}

_HALF = {"": "f16", "attn_": "q4_0", "token_embd": "q8_0"}
"""For models of many layers: each rounding adds to the difference of two engines."""

MODELS: dict[str, dict[str, Any]] = {
    "llama": _SHAPE,
    "llama-factors": _SHAPE
    | {"overrides": {"llama.rope.freq_base": 500.0}, "tensors": {"rope_freqs.weight": np.geomspace(1, 8, 16)}},
    "llama-linear": _SHAPE | {"overrides": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}},
    "qwen2": _SHAPE | {"arch": "qwen2"},
    "qwen3": _SHAPE
    | {
        "arch": "qwen3",
        "head_dim": 64,
        "overrides": {
            "qwen3.rope.scaling.type": "yarn",
            "qwen3.rope.scaling.factor": 4.0,
            "qwen3.rope.scaling.original_context_length": 32,
        },
    },
    "gemma2": _SHAPE
    | {
        "arch": "gemma2",
        "n_layer": 3,
        "tied": True,
        "mixed": MIXED | {"token_embd": "f16"},
        "overrides": {
            "gemma2.attention.sliding_window": 20,
            "gemma2.attn_logit_softcapping": 2.0,
            "gemma2.final_logit_softcapping": 3.0,
        },
    },
    "gemma3": _SHAPE
    | {
        "arch": "gemma3",
        "n_layer": 7,
        "head_dim": 64,
        "tied": True,
        "overrides": {
            "gemma3.attention.sliding_window": 24,
            "gemma3.rope.freq_base": 1e6,
            "gemma3.rope.scaling.type": "linear",
            "gemma3.rope.scaling.factor": 8.0,
        },
    },
    "phi3": _SHAPE
    | {
        "arch": "phi3",
        "overrides": {
            "phi3.rope.dimension_count": 24,
            "phi3.rope.scaling.original_context_length": 64,
            "phi3.rope.scaling.attn_factor": 1.3,
        },
        "tensors": _FACTORS,
    },
    "phi3-short": _SHAPE | {"arch": "phi3", "overrides": {"phi3.rope.dimension_count": 24}, "tensors": _FACTORS},
    "smollm3": _SHAPE | {"arch": "smollm3", "n_layer": 4, "mixed": _HALF},
    "mistral3": _SHAPE
    | {
        "arch": "mistral3",
        "overrides": {
            "mistral3.rope.scaling.type": "yarn",
            "mistral3.rope.scaling.factor": 4.0,
            "mistral3.rope.scaling.original_context_length": 32,
            "mistral3.rope.scaling.yarn_beta_fast": 1.5,
            "mistral3.rope.scaling.yarn_beta_slow": 0.25,
            "mistral3.rope.scaling.yarn_log_multiplier": 0.7,
            "mistral3.attention.temperature_scale": 0.5,
        },
    },
    "granite": _SHAPE
    | {
        "arch": "granite",
        "overrides": {
            "granite.attention.scale": 0.3,
            "granite.embedding_scale": 3.0,
            "granite.residual_scale": 0.4,
            "granite.logit_scale": 7.0,
        },
    },
    "granite-nope": _SHAPE
    | {"arch": "granite", "overrides": {"granite.logit_scale": 1.0, "granite.rope.scaling.finetuned": False}},
    "olmo2": _SHAPE
    | {
        "arch": "olmo2",
        "overrides": {
            "olmo2.attention.sliding_window": 24,
            "olmo2.attention.sliding_window_pattern": [True, False],
            "olmo2.rope.scaling.type": "yarn",
            "olmo2.rope.scaling.factor": 4.0,
            "olmo2.rope.scaling.original_context_length": 32,
        },
    },
    "mixtral": _EXPERTS,
    "qwen3moe": _EXPERTS
    | {
        "arch": "qwen3moe",
        "seed": 1,  # no near ties in its routers: rounding may decide them otherwise in two engines
        "head_dim": 32,
        "overrides": {"qwen3moe.feed_forward_length": 256, "qwen3moe.expert_feed_forward_length": 96},
    },
    "gpt-oss": _EXPERTS
    | {
        "arch": "gpt-oss",
        "head_dim": 32,
        "mixed": {"": "q8_0", "_exps": "mxfp4", "output.": "f16"},
        "overrides": {
            "gpt-oss.expert_feed_forward_length": 96,
            "gpt-oss.attention.sliding_window": 24,
            "gpt-oss.rope.freq_base": 150000.0,
            "gpt-oss.rope.scaling.type": "yarn",
            "gpt-oss.rope.scaling.factor": 8.0,
            "gpt-oss.rope.scaling.original_context_length": 64,
        },
    },
}
"""Arguments of tiny.write without the types; "mixed": the types of the quantized model, if not MIXED."""

_WINDOW = {"attention.sliding_window": 9}
_LOCAL = _WINDOW | {"rope.freq_base": 1e6, "rope.scaling.factor": 8.0}
_WIDE = {"attention.key_length": 64, "attention.value_length": 64, "rope.dimension_count": 64}  # 4 heads of 128 values
_SPARSE = {"expert_count": 5, "expert_used_count": 2, "expert_feed_forward_length": 96}


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The traits of an architecture, besides its tensors (layouts.py); keys lack the architecture's name."""

    halves: bool | None
    """RoPE pairs values of a head's two halves (llama.cpp: NEOX) or neighbours (NORM); None: there is no RoPE."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """Metadata that its files have and a `llama` lacks, or (None) the other way round; tiny models have it too."""
    reads: Sequence[tuple[Mapping[str, Any], Mapping[str, Sequence[Any]]]] = ()
    """The metadata of a file of 8 layers, and what is read from it for each layer: a field of Layer or of its Rope, or
    "turned", whether it has a Rope."""
    barriers: int = 7
    """How often threads wait for each other in a layer of a decode step; with experts, once more."""


TRAITS: dict[str, Traits] = {
    "llama": Traits(halves=False, reads=[(_WINDOW, {"window": [0] * 8})]),
    "qwen2": Traits(halves=True),
    "qwen3": Traits(halves=True),
    "gemma2": Traits(
        halves=True,
        reads=[
            ({}, {"window": [4096, 0] * 4}),
            (_WINDOW, {"window": [9, 0] * 4}),
            (_LOCAL, {"base": [1e6] * 8, "factor": [8.0] * 8}),
            (_WIDE | {"block_count": 46}, {"scale": [32**-0.5] * 46}),  # of the largest: by the embedding's width
            (_WIDE, {"scale": [64**-0.5] * 8}),
        ],
    ),
    "gemma3": Traits(
        halves=True,
        reads=[
            ({}, {"window": [0] * 8}),
            (_WINDOW, {"window": [9] * 5 + [0] + [9] * 2}),
            (_LOCAL, {"base": [1e4] * 5 + [1e6] + [1e4] * 2, "factor": [1.0] * 5 + [8.0] + [1.0] * 2}),
            (_WIDE | {"block_count": 62}, {"scale": [32**-0.5] * 62}),
            (_WIDE, {"scale": [64**-0.5] * 8}),
        ],
    ),
    "phi3": Traits(halves=True, reads=[({}, {"window": [0] * 8}), (_WINDOW, {"window": [9] * 8})]),
    "smollm3": Traits(halves=False, reads=[({}, {"turned": [True, True, True, False] * 2})]),
    "mistral3": Traits(halves=False),
    "granite": Traits(
        halves=False,
        needs={"logit_scale": 1.0},
        reads=[({}, {"turned": [True] * 8}), ({"rope.scaling.finetuned": False}, {"turned": [False] * 8})],
    ),
    "olmo2": Traits(
        halves=True,
        reads=[
            (_WINDOW, {"window": [9, 9, 9, 0] * 2}),
            (_LOCAL, {"base": [1e6] * 8, "factor": [1.0, 1.0, 1.0, 8.0] * 2}),
        ],
    ),
    "qwen3moe": Traits(halves=True, needs=_SPARSE),
    "gpt-oss": Traits(halves=True, needs=_SPARSE, reads=[(_WINDOW, {"window": [9, 0] * 4})]),
}

CASES = [(name, kind) for name in MODELS for kind in ("f32", "mixed")]
"""Each model as float32, and with quantized matrices."""

STEP = 4
"""Every fourth logit of the vocabulary is recorded."""


def write(folder: Path, name: str, kind: str, **changes: Any) -> Path:
    """Write a model with its matrices in `kind`: a format, or "mixed". changes: arguments of tiny.write."""
    model = MODELS[name] | changes
    mixed, own = model.pop("mixed", MIXED), model.get("overrides", {})
    arch = model.get("arch", "llama")
    model["overrides"] = own | {f"{arch}.{k}": v for k, v in TRAITS[arch].needs.items() if f"{arch}.{k}" not in own}
    model["types"] = mixed if kind == "mixed" else kind
    return tiny.write(folder / f"{name}-{kind}.gguf", **model)


N_CTX = 128
"""Positions of the context that the models are run with."""


def logits(path: Path, *, exact: bool = False) -> dict[str, np.ndarray]:
    """Return the engine's logits after each of TOKENS, taken in at once and token by token, with K and V in float32."""
    from pyllm.engine.llm import LLM

    llm = LLM(path, n_ctx=N_CTX, cache_type_k="f32", cache_type_v="f32", n_threads=1, max_logits=len(TOKENS),
              exact=exact)  # fmt: skip
    try:
        session = llm.session()
        ((_, at_once),) = session.score(TOKENS)
        at_once = at_once.copy()
        session.rewind(0)
        return {"at once": at_once, "one by one": np.stack([session.decode(token).copy() for token in TOKENS])}
    finally:
        llm.close()


def recording(name: str, kind: str) -> Path:
    return Path(__file__).parent / "models" / "arch" / "logits" / f"{name}-{kind}.npz"
