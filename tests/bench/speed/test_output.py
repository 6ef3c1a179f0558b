"""Each output format, read back as one reads llama-bench's."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fake_bench import case

from pyllm.bench.speed import output, record
from pyllm.bench.speed.record import FIELDS, LLAMA_BENCH, OURS, SAMPLES, Record
from pyllm.bench.speed.throughput import Samples, Traffic

# What llama-bench b11434 prints with -o json.
SCHEMA = """
build_commit build_number cpu_info gpu_info backends model_filename model_type model_size model_n_params n_batch
n_ubatch
n_threads cpu_mask cpu_strict poll type_k type_v n_gpu_layers n_cpu_moe split_mode main_gpu no_kv_offload
flash_attn devices tensor_split tensor_buft_overrides load_mode lazy_mode embeddings no_op_offload no_host repack
fit_target fit_min_ctx n_prompt n_gen n_depth test_time avg_ns stddev_ns avg_ts stddev_ts
"""


def made(*, theirs: Samples | None = None, peer: bool = False, **values: Any) -> Record:
    system = {**record.system(), "model_filename": "it's.gguf", "model_type": 'a "b", c', "model_size": 1 << 20,
              "model_n_params": 2_000_000, "compile_s": 1.5, "rss_peak": 1 << 30}  # fmt: skip
    ours = Samples(10, [1_000_000_000, 2_000_000_000, 4_000_000_000])
    traffic = Traffic(weights=8e9, k=1e9, v=1e9)
    parts = [system, record.case(case(**{"n_gen": 10, **values}), ours, traffic, 10e9)]
    return record.complete(*parts, *([record.peer("llama.cpp", "on", ours, theirs)] if peer else []))


RECORDS = [made(), made(n_depth=64, type_k="q8_0")]


def test_the_columns_are_llama_benchs_and_then_ours() -> None:
    assert list(LLAMA_BENCH) == SCHEMA.split()
    assert list(FIELDS) == [*LLAMA_BENCH, *OURS]
    for one in RECORDS:
        assert list(one) == [*FIELDS, *SAMPLES]
        for name in LLAMA_BENCH:
            assert isinstance(one[name], LLAMA_BENCH[name]), name
        for name in OURS:
            assert one[name] is None or isinstance(one[name], OURS[name]), name


def test_figures() -> None:
    one = RECORDS[0]
    assert (one["median_ts"], one["min_ts"], one["max_ts"]) == (5, 2.5, 10)
    assert (one["bytes_weights"], one["bytes_k"], one["bytes_v"]) == (800_000_000, 100_000_000, 100_000_000)
    assert (one["gbps"], one["gbps_ceiling"], one["mbu"]) == (5, 10, 0.5)
    assert (one["peer"], one["ratio"]) == (None, None)
    both = made(peer=True, theirs=Samples(10, [4_000_000_000]))
    assert (both["peer_median_ts"], both["ratio"], both["peer_samples_ts"]) == (2.5, 2, [2.5])


def test_json() -> None:
    assert json.loads(output.as_json(RECORDS)) == RECORDS
    assert [json.loads(line) for line in output.as_jsonl(RECORDS).splitlines()] == RECORDS
    assert RECORDS[0]["samples_ns"] == [1_000_000_000, 2_000_000_000, 4_000_000_000]


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(output.as_csv(RECORDS))))
    assert [list(row) for row in rows] == [list(FIELDS)] * 2
    assert rows[0]["model_type"] == 'a "b", c' and rows[1]["n_depth"] == "64" and rows[0]["cpu_strict"] == "0"
    assert rows[0]["ratio"] == ""


def test_sql() -> None:
    base = sqlite3.connect(":memory:")
    for _ in range(2):  # results are added to a table that is there
        base.executescript(output.as_sql(RECORDS))
    columns = [row[1] for row in base.execute("PRAGMA table_info(llama_bench)")]
    assert columns == list(FIELDS)
    found = base.execute("SELECT model_filename, n_depth, median_ts, ratio FROM llama_bench").fetchall()
    assert found == [("it's.gguf", 0, 5.0, None), ("it's.gguf", 64, 5.0, None)] * 2


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_markdown() -> None:
    text = output.as_markdown(RECORDS)
    assert len({len(line) for line in text.splitlines()}) == 1
    head, rule, first, second = cells(text)
    assert {"model", "size", "params", "backend", "threads", "type_k", "test", "t/s"} <= set(head)
    assert not {"type_v", "n_batch", "n_ubatch", "ratio"} & set(head), "as everybody has it"
    assert all(set(cell) <= set("-:") for cell in rule)
    assert dict(zip(head, first, strict=True))["bus"] == "50%"
    assert (first[head.index("test")], second[head.index("test")]) == ("tg10", "tg10 @ d64")


@pytest.mark.parametrize("theirs", [None, Samples(10, [4_000_000_000])])
def test_markdown_with_a_peer(theirs: Samples | None) -> None:
    head, _, row = cells(output.as_markdown([made(peer=True, theirs=theirs)]))
    assert row[head.index("peer t/s")] == ("2.50" if theirs else "")
    assert row[head.index("ratio")] == ("2.00" if theirs else "")


def test_every_format_is_there(tmp_path: Path) -> None:
    assert set(output.FORMATS) == {"md", "csv", "json", "jsonl", "sql"}
