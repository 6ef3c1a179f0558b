"""A result as a flat record: llama-batched-bench's names, then pyllm's own; and its columns in the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np

from ...engine.machine.tables import Table
from ..machine.roofs import Roofs
from ..speed import output
from ..speed.output import HELD, NO_PEER, SETUP, Column, in_bytes, number
from ..speed.record import Record
from .grid import BatchedCase
from .steps import Sample, StepCost

# llama-batched-bench's, in its order. n_kv_max is what the cache has room for. Seconds, and tokens per second.
PEERS: dict[str, type] = {
    "n_kv_max": int, "n_batch": int, "n_ubatch": int, "flash_attn": int, "is_pp_shared": int, "n_gpu_layers": int,
    "n_threads": int, "n_threads_batch": int, "pp": int, "tg": int, "pl": int, "n_kv": int, "t_pp": float,
    "speed_pp": float, "t_tg": float, "speed_tg": float, "t": float, "speed": float,
}  # fmt: skip

# pyllm's own. Bytes and multiply-adds are of a decode step; GB are 10^9 bytes; itl is the time from token to token.
# bytes_held is what the KV cache of a sequence takes at the end.
# bus and unit: shares of a step's time that its bytes and its multiply-adds take at the least; bound: the larger.
OURS: dict[str, type] = {
    "model_filename": str, "model_type": str, "type_k": str, "type_v": str, "cache_rotate": str, "cache_policy": str,
    "bytes_held": int, "pages": int,
    "itl_p50_ms": float, "itl_p99_ms": float, "bytes_weights": int, "bytes_k": int, "bytes_v": int, "macs": int,
    "gbps": float, "bus": float, "unit": float, "bound": float, "gain": float, "build_commit": str, "cpu_info": str,
    "cpu_features": str, "numba_version": str, "test_time": str, "peer": str, "peer_rotation": str, "peer_t_pp": float,
    "peer_speed_pp": float, "peer_t_tg": float, "peer_speed_tg": float, "ratio_pp": float, "ratio_tg": float,
}  # fmt: skip

FIELDS = {**PEERS, **OURS}
SAMPLES = ("samples_t_pp", "samples_t_tg", "peer_samples_t_pp", "peer_samples_t_tg")
"""Lists of seconds, which only the JSON formats contain."""


def times(case: BatchedCase, samples: Sequence[Sample], prefix: str = "") -> Record:
    """Return the medians of the times, the speeds that follow, and all samples."""
    t_pp, t_tg = (median(ns) / 1e9 for ns in zip(*((s.prompt, s.gen) for s in samples), strict=True))
    prompt, gen = case.prompts * case.n_prompt, case.n_sequences * case.n_gen
    found = {"t_pp": t_pp, "speed_pp": prompt and prompt / t_pp, "t_tg": t_tg, "speed_tg": gen and gen / t_tg}
    lists = {"samples_t_pp": [s.prompt / 1e9 for s in samples], "samples_t_tg": [s.gen / 1e9 for s in samples]}
    return {prefix + name: value for name, value in (found | lists).items()}


def of_case(case: BatchedCase, n_ctx: int) -> Record:
    """Return the fields that say what was asked for. n_ctx: tokens that the cache has room for."""
    return {
        "n_kv_max": n_ctx, "n_batch": case.n_batch, "n_ubatch": case.n_ubatch, "flash_attn": 1,
        "is_pp_shared": int(case.shared), "n_gpu_layers": 0, "n_threads": case.n_threads,
        "n_threads_batch": case.n_threads, "pp": case.n_prompt, "tg": case.n_gen, "pl": case.n_sequences,
        "n_kv": case.n_kv, "type_k": case.cache.k, "type_v": case.cache.v, "cache_rotate": case.cache.rotate,
        "cache_policy": case.cache.policy, "pages": None if case.cache.policy else case.n_pages,
    }  # fmt: skip


def ours(case: BatchedCase, samples: Sequence[Sample], cost: StepCost | None, roofs: Roofs) -> Record:
    """Return the fields of what was measured of pyllm."""
    record = times(case, samples)
    record["t"] = record["t_pp"] + record["t_tg"]
    record["speed"] = (case.prompts * case.n_prompt + case.n_sequences * case.n_gen) / record["t"]
    if cost is None:
        return record
    step = record["t_tg"] / case.n_gen
    p50, p99 = np.percentile([ns for s in samples for ns in s.steps], (50, 99)) / 1e6
    bus, unit = cost.shares(step, roofs, case.n_threads)
    return record | {
        "itl_p50_ms": float(p50),
        "itl_p99_ms": float(p99),
        "bytes_weights": round(cost.weights),
        "bytes_k": round(cost.k),
        "bytes_v": round(cost.v),
        "macs": round(sum(cost.macs.values())),
        "gbps": cost.streamed / step / 1e9,
        "bus": bus,
        "unit": unit,
        "bound": max(bus, unit),
    }


def compared(record: Record, theirs: Record) -> Record:
    """Return how many times as fast pyllm is as its peer, in prompts and in decode; None where there is none."""

    def ratio(name: str) -> float | None:
        return record[name] / theirs[f"peer_{name}"] if theirs.get(f"peer_{name}") else None

    return {"ratio_pp": ratio("speed_pp"), "ratio_tg": ratio("speed_tg")}


def complete(*parts: Record) -> Record:
    """Return one record with every field, in order; None is what is unknown."""
    known = {name: value for part in parts for name, value in part.items()}
    return {name: known.get(name) for name in FIELDS} | {name: known.get(name, []) for name in SAMPLES}


def gains(records: Sequence[Record]) -> None:
    """Set of each record how many times the decode speed of one sequence it reaches, where that was measured too."""

    def rest(record: Record) -> tuple[object, ...]:
        names = (
            "model_filename",
            "n_batch",
            "n_ubatch",
            "n_threads",
            "type_k",
            "type_v",
            "cache_rotate",
            "cache_policy",
            "pp",
            "tg",
        )
        return tuple(record[name] for name in names)

    single = {rest(r): r["speed_tg"] for r in records if r["pl"] == 1}
    for r in records:
        if alone := single.get(rest(r)):
            r["gain"] = r["speed_tg"] / alone


COLUMNS = (
    Column("model", number("model_type", "{}"), left=True, names=True),
    *SETUP,
    Column("PP", number("pp", "{}"), names=True),
    Column("TG", number("tg", "{}"), names=True),
    Column("B", number("pl", "{}"), names=True, key=True),
    Column("N_KV", number("n_kv", "{}")),
    Column("T_PP s", number("t_pp", "{:.3f}")),
    Column("S_PP t/s", number("speed_pp", "{:.2f}")),
    Column("T_TG s", number("t_tg", "{:.3f}")),
    Column("S_TG t/s", number("speed_tg", "{:.2f}")),
    Column("T s", number("t", "{:.3f}")),
    Column("S t/s", number("speed", "{:.2f}")),
    Column("× B=1", number("gain", "{:.2f}")),
    Column("peer S_PP", number("peer_speed_pp", "{:.2f}"), usual=NO_PEER),
    Column("peer S_TG", number("peer_speed_tg", "{:.2f}"), usual=NO_PEER),
    Column("ratio PP", number("ratio_pp", "{:.2f}"), usual=NO_PEER),
    Column("ratio TG", number("ratio_tg", "{:.2f}"), usual=NO_PEER),
    Column("p50 ms", number("itl_p50_ms", "{:.2f}")),
    Column("p99 ms", number("itl_p99_ms", "{:.2f}")),
    Column("weights/step", in_bytes("bytes_weights")),
    Column("K/step", in_bytes("bytes_k")),
    Column("V/step", in_bytes("bytes_v")),
    Column("GB/s", number("gbps", "{:.1f}")),
    Column("bus", number("bus", "{:.0%}")),
    Column("unit", number("unit", "{:.0%}")),
    HELD,
    Column("pages", number("pages", "{}")),
)


def as_table(records: Sequence[Record]) -> Table:
    """Return llama-batched-bench's table with more columns, without those of settings that all have their default."""
    return output.as_table(records, COLUMNS)


FORMATS: dict[str, Callable[[Sequence[Record]], str]] = {
    "md": lambda records: as_table(records).markdown(),
    "csv": partial(output.as_csv, fields=FIELDS),
    "json": output.as_json,
    "jsonl": output.as_jsonl,
    "sql": partial(output.as_sql, fields=FIELDS, table="llama_batched_bench"),
}
