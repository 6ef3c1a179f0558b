"""Describes a GGUF file as plain data; knows no terminal and loads no weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..kernels.formats.table import CACHE_TYPES, WEIGHT_TYPES
from .arch.registry import read_config
from .cache.kinds import kinds
from .cache.sizes import held_bytes, side_bytes
from .cache.spec import CacheSpec
from .config import Config
from .errors import ModelError, UsageError
from .file.gguf import GGUF
from .file.header import quote
from .file.strings import Texts
from .forward.upcast import DECODED, READABLE

CONTROL_TOKEN = 3  # a kind in tokenizer.ggml.token_type


def describe(g: GGUF) -> dict[str, Any]:
    """Return a description of the file in JSON types. Sizes are bytes.

    A model that pyllm cannot run is described too: `problem` says why (None: its hyperparameters and tensor types are
    supported), and `config` and `cache` are None if the hyperparameters are not supported.
    """
    config, problem = None, None
    try:
        config = read_config(g)
        _check_types(g)
    except ModelError as e:
        problem = str(e)
    template = _text(g, "tokenizer.chat_template") or ""
    weights = sum(t.data.nbytes for t in g.tensors.values())
    parameters = sum(math.prod(t.shape) for t in g.tensors.values())
    return {
        "file": {"paths": [str(p) for p in g.paths], "bytes": g.nbytes, "gguf_version": g.version},
        "architecture": _text(g, "general.architecture"),
        "name": _text(g, "general.name"),
        "problem": problem,
        "parameters": parameters,
        "active_parameters": _active(g, config) if config else None,
        "weights_bytes": weights,
        "bits_per_weight": 8 * weights / parameters if parameters else None,
        "config": asdict(config) | {"layers": [asdict(layer) for layer in config.layers]} if config else None,
        "quantization": _quantization(g),
        "tokenizer": _tokenizer(g),
        "chat_template": {"present": bool(template), "characters": len(template)},
        "cache": _cache(config) if config else None,
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "type": t.type, "bytes": t.data.nbytes} for t in g.tensors.values()
        ],
    }


def _active(g: GGUF, config: Config) -> int:
    """Return how many parameters a token uses: of all experts, those that it is sent to."""
    experts = sum(math.prod(t.shape) for t in g.tensors.values() if "_exps." in t.name)
    idle = experts * (config.expert_count - config.expert_used_count) // max(1, config.expert_count)
    return sum(math.prod(t.shape) for t in g.tensors.values()) - idle


def _check_types(g: GGUF) -> None:
    for t in g.tensors.values():
        if t.type not in READABLE:
            problem = f"has type {t.type}, pyllm reads {', '.join((*WEIGHT_TYPES, *DECODED))}"
            raise ModelError(g.path, quote("tensor", t.name), problem, "take another quantization of the model")


def _text(g: GGUF, key: str) -> str | None:
    value = g.metadata.get(key)
    return value if isinstance(value, str) else None


def _quantization(g: GGUF) -> list[dict[str, Any]]:
    """Return the tensors, values and bytes of each tensor type, most bytes first."""
    found: dict[str, dict[str, Any]] = {}
    for t in g.tensors.values():
        row = found.setdefault(t.type, {"type": t.type, "tensors": 0, "parameters": 0, "bytes": 0})
        row["tensors"] += 1
        row["parameters"] += math.prod(t.shape)
        row["bytes"] += t.data.nbytes
    return sorted(found.values(), key=lambda row: -int(row["bytes"]))


def _tokenizer(g: GGUF) -> dict[str, Any]:
    """Return what the file says of its vocabulary; None for what is missing or of the wrong type."""
    said: dict[str, Any] = {"model": _text(g, "tokenizer.ggml.model"), "pre": _text(g, "tokenizer.ggml.pre")}
    for name in ("tokens", "merges"):
        value = g.metadata.get(f"tokenizer.ggml.{name}")
        said[name] = len(value) if isinstance(value, Texts) else None
    tokens = g.metadata.get("tokenizer.ggml.tokens")
    for role in ("bos", "eos", "eot", "unknown", "padding"):
        number = g.metadata.get(f"tokenizer.ggml.{role}_token_id")
        known = isinstance(number, int) and isinstance(tokens, Texts) and 0 <= number < len(tokens)
        said[role] = {"id": number, "text": tokens[number]} if known and tokens else None
    try:
        kinds = g.ints("tokenizer.ggml.token_type", -(1 << 31), (1 << 31) - 1, default=[])
        said["control_tokens"] = int((kinds == CONTROL_TOKEN).sum())
    except ModelError:
        said["control_tokens"] = None
    for name in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        value = g.metadata.get(f"tokenizer.ggml.{name}")
        said[name] = value if isinstance(value, bool) else None
    return said


def _cache(config: Config) -> dict[str, Any]:
    """Return a token's bytes in the layers that keep all tokens and, separately, in those that keep a window."""
    whole, *others = kinds(config)
    layers = [i for kind in others for i in kind.layers]
    windows = {"layers": len(layers), "window": config.window, **_bytes(config, layers)} if layers else None
    return {"layers": len(whole.layers), **_bytes(config, whole.layers), "windows": windows}


def _bytes(config: Config, layers: Sequence[int]) -> dict[str, Any]:
    """Return the bytes of a token by format: of K, of V, of each pair; None where heads do not fill the blocks."""
    sides = {side: {t: _side(config, side, t, layers) for t in CACHE_TYPES} for side in ("k", "v")}
    pairs = {
        f"{k_type}/{v_type}": None if k is None or v is None else k + v
        for k_type, k in sides["k"].items()
        for v_type, v in sides["v"].items()
    }
    return {**sides, "pairs": pairs}


def with_policy(g: GGUF, policy: str, tokens: int) -> dict[str, Any]:
    """Return the bytes that K and V of a sequence take with a policy, by pair of types; raises ModelError.

    None where heads do not fill the blocks, or where the policy's tail cannot be encoded anew as that pair.
    """
    config = read_config(g)
    pairs = {f"{k}/{v}": _held(config, k, v, policy, tokens) for k in CACHE_TYPES for v in CACHE_TYPES}
    return {"policy": policy, "tokens": tokens, "k": CACHE_TYPES, "v": CACHE_TYPES, "pairs": pairs}


def _held(config: Config, k: str, v: str, policy: str, tokens: int) -> int | None:
    try:
        return held_bytes(config, CacheSpec(k, v, policy=policy), tokens)
    except UsageError:
        return None


def _side(config: Config, side: str, cache_type: str, layers: Sequence[int]) -> int | None:
    try:
        return side_bytes(config, CacheSpec(cache_type, cache_type), side, layers)
    except UsageError:
        return None
