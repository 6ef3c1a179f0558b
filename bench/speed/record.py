"""A result as a flat record: llama-bench's columns with its names, then pyllm's own."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Any

from ...engine.machine import host
from ...models.file.gguf import GGUF
from ..machine import noise
from .cases import Case
from .throughput import Samples, Traffic, average

Record = dict[str, Any]

# llama-bench's, in its order. What concerns GPUs, and choices that pyllm does not offer, is the same in every row.
LLAMA_BENCH: dict[str, type] = {
    "build_commit": str, "build_number": int, "cpu_info": str, "gpu_info": str, "backends": str,
    "model_filename": str, "model_type": str, "model_size": int, "model_n_params": int, "n_batch": int,
    "n_ubatch": int, "n_threads": int, "cpu_mask": str, "cpu_strict": bool, "poll": int, "type_k": str, "type_v": str,
    "n_gpu_layers": int, "n_cpu_moe": int, "split_mode": str, "main_gpu": int, "no_kv_offload": bool,
    "flash_attn": int, "devices": str, "tensor_split": str, "tensor_buft_overrides": str, "load_mode": str,
    "lazy_mode": str, "embeddings": bool, "no_op_offload": int, "no_host": bool, "repack": bool, "fit_target": int,
    "fit_min_ctx": int, "n_prompt": int, "n_gen": int, "n_depth": int, "test_time": str, "avg_ns": int,
    "stddev_ns": int, "avg_ts": float, "stddev_ts": float,
}  # fmt: skip

# pyllm's own. Bytes are per token; GB are 10^9 bytes; mbu is gbps / gbps_ceiling, the share of the memory bus.
# bytes_held is what the KV cache of a sequence takes at the end.
OURS: dict[str, type] = {
    "median_ns": int, "median_ts": float, "min_ts": float, "max_ts": float, "bytes_weights": int, "bytes_k": int,
    "bytes_v": int, "gbps": float, "gbps_ceiling": float, "mbu": float, "compile_s": float, "rss_peak": int,
    "cache_rotate": str, "cache_policy": str, "bytes_held": int, "cpu_features": str, "numba_version": str,
    "peer": str, "peer_rotation": str,
    "peer_median_ts": float, "peer_min_ts": float, "peer_max_ts": float, "ratio": float,
}  # fmt: skip

FIELDS: dict[str, type] = {**LLAMA_BENCH, **OURS}
SAMPLES = ("samples_ns", "samples_ts", "peer_samples_ts")
"""Lists, which only the JSON formats contain."""

_CONSTANT: Record = {
    "build_number": 0, "gpu_info": "", "backends": "CPU", "cpu_mask": "0x0", "cpu_strict": False, "poll": 0,
    "n_gpu_layers": 0, "n_cpu_moe": 0, "split_mode": "none", "main_gpu": 0, "no_kv_offload": False, "flash_attn": 1,
    "devices": "none", "tensor_split": "0.00", "tensor_buft_overrides": "none", "load_mode": "none",
    "lazy_mode": "off", "embeddings": False, "no_op_offload": 0, "no_host": False, "repack": True, "fit_target": 0,
    "fit_min_ctx": 0,
}  # fmt: skip


def system() -> Record:
    """Return the fields that are the same in all records of a run."""
    from importlib.metadata import version

    return {
        **_CONSTANT,
        "build_commit": noise.build(),
        "cpu_info": host.cpu_info(),
        "cpu_features": host.cpu_features(),
        "numba_version": version("numba"),
        "test_time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def model(gguf: GGUF) -> Record:
    """Return the fields that describe a model."""
    parameters = sum(math.prod(tensor.shape) for tensor in gguf.tensors.values())
    by_type: dict[str, int] = {}
    for tensor in gguf.tensors.values():
        by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.data.nbytes
    main = max(by_type, key=lambda kind: by_type[kind])
    return {
        "model_filename": str(gguf.path),
        "model_type": f"{gguf.architecture} {count(parameters)} {main.upper()}",
        "model_size": sum(by_type.values()),
        "model_n_params": parameters,
    }


def count(n: float) -> str:
    """Return a number of parameters in short: 135M, 1.5B."""
    return f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.0f}M" if n >= 1e6 else f"{n / 1e3:.0f}K"


def case(case: Case, ours: Samples, traffic: Traffic, ceiling: float) -> Record:
    """Return the fields of what was measured. ceiling: bytes per second that the same threads read at most."""
    tokens, (avg_ns, stddev_ns), (avg_ts, stddev_ts) = case.n_tokens, average(ours.ns), average(ours.ts)
    gbps = traffic.total / ours.median_ns
    shared = (
        "n_prompt",
        "n_gen",
        "n_depth",
        "n_batch",
        "n_ubatch",
        "n_threads",
        "type_k",
        "type_v",
        "cache_rotate",
        "cache_policy",
    )
    return {
        **{name: getattr(case, name) for name in shared},
        "avg_ns": round(avg_ns),
        "stddev_ns": round(stddev_ns),
        "avg_ts": avg_ts,
        "stddev_ts": stddev_ts,
        "median_ns": ours.median_ns,
        "median_ts": ours.median_ts,
        "min_ts": min(ours.ts),
        "max_ts": max(ours.ts),
        "bytes_weights": round(traffic.weights / tokens),
        "bytes_k": round(traffic.k / tokens),
        "bytes_v": round(traffic.v / tokens),
        "gbps": gbps,
        "gbps_ceiling": ceiling / 1e9,
        "mbu": gbps * 1e9 / ceiling,
        "samples_ns": ours.ns,
        "samples_ts": ours.ts,
    }


def peer(name: str, rotation: str, ours: Samples, theirs: Samples | None) -> Record:
    """Return the fields of the comparison, without figures if the peer could not run the case."""
    record: Record = {"peer": name, "peer_rotation": rotation}
    if theirs is None:
        return record
    return {
        **record,
        "peer_median_ts": theirs.median_ts,
        "peer_min_ts": min(theirs.ts),
        "peer_max_ts": max(theirs.ts),
        "ratio": ours.median_ts / theirs.median_ts,
        "peer_samples_ts": theirs.ts,
    }


def complete(*parts: Record) -> Record:
    """Return one record with every field, in order; None is what is unknown."""
    known = {name: value for part in parts for name, value in part.items()}
    record = {name: known.get(name) for name in FIELDS}
    return record | {name: known.get(name, []) for name in SAMPLES}
