"""`pyllm bench -npl` as a user sees it, on a tiny model."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from fake_bench import BATCHED, LLAMA, FakeBatchedBench
from given_roofs import GIVEN

from pyllm.__main__ import main
from pyllm.bench.batched import rounds
from pyllm.bench.batched.steps import Sample, sample
from pyllm.bench.machine import roofs
from pyllm.bench.speed import engines
from pyllm.kernels.roofs import peak
from pyllm.models.errors import FitError, UsageError

# As llama-batched-bench writes them, in its order.
NAMES = ["n_kv_max", "n_batch", "n_ubatch", "flash_attn", "is_pp_shared", "n_gpu_layers", "n_threads",
         "n_threads_batch", "pp", "tg", "pl", "n_kv", "t_pp", "speed_pp", "t_tg", "speed_tg", "t", "speed"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(GIVEN, peaks={path: {1: 1e6} for path in peak.PATHS})
    monkeypatch.setattr(roofs, "of_this_machine", lambda *_, **__: slow)


def bench(capsys: pytest.CaptureFixture[str], flags: str, *argv: str) -> tuple[int, str, str]:
    code = main(["bench", *flags.split(), *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_grid_measured(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "-npp 8,70 -ntg 4 -npl 1,3 -ctk f16,q8_0 -t 1 -r 2 -o jsonl"
    code, out, err = bench(capsys, flags, model)
    assert code == 0, err
    records = [json.loads(line) for line in out.splitlines()]
    tests = [(r["type_k"], r["pp"], r["tg"], r["pl"]) for r in records]
    assert tests == [(k, p, 4, b) for k in ("f16", "q8_0") for p in (8, 70) for b in (1, 3)]
    for r in records:
        assert list(r)[: len(NAMES)] == NAMES
        assert len(r["samples_t_pp"]) == len(r["samples_t_tg"]) == 2
        assert r["n_kv"] == r["pl"] * (r["pp"] + r["tg"]) and r["pages"] == r["pl"] * -(-(r["pp"] + r["tg"]) // 64)
        assert r["speed_pp"] == pytest.approx(r["pl"] * r["pp"] / r["t_pp"])
        assert r["speed_tg"] == pytest.approx(r["pl"] * r["tg"] / r["t_tg"])
        assert r["speed"] == pytest.approx(r["n_kv"] / r["t"]) and r["t"] == r["t_pp"] + r["t_tg"]
        assert r["n_kv_max"] == 6 * 64 and r["is_pp_shared"] == 0
        assert 0 < r["itl_p50_ms"] <= r["itl_p99_ms"]
        assert r["bound"] == r["unit"] > r["bus"] > 0, "a machine that multiplies slowly"
        moved = r["bytes_weights"] + r["bytes_k"] + r["bytes_v"]
        assert r["gbps"] == pytest.approx(moved * r["tg"] / r["t_tg"] / 1e9)
    by = {(r["type_k"], r["pp"], r["pl"]): r for r in records}
    # 2 layers, 2 KV heads of 32 values; a row sees itself, its prompt and, on average, 1.5 of the others.
    assert by["f16", 8, 3]["bytes_k"] == 3 * 10.5 * 2 * 2 * 32 * 2
    assert by["q8_0", 70, 1]["bytes_k"] == 72.5 * 2 * 2 * 34
    assert by["f16", 8, 3]["bytes_weights"] == by["f16", 8, 1]["bytes_weights"]
    assert by["f16", 8, 1]["gain"] == 1
    assert by["f16", 8, 3]["gain"] == pytest.approx(by["f16", 8, 3]["speed_tg"] / by["f16", 8, 1]["speed_tg"])
    assert "warming up" in err and "cpu: " in err


def test_a_shared_prompt(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = bench(capsys, "-pps -npp 300 -ntg 2 -npl 2,8 -t 1 -r 1 --no-warmup -o jsonl", model)
    assert code == 0
    two, eight = map(json.loads, out.splitlines())
    assert (two["n_kv"], eight["n_kv"], eight["pages"], eight["is_pp_shared"]) == (304, 316, 4 + 8, 1)
    assert eight["speed_pp"] == pytest.approx(300 / eight["t_pp"])
    assert two["bytes_k"] == 2 * 301.5 * 256 and eight["bytes_k"] == (256 + 8 * 45.5) * 256
    assert eight["gain"] is None, "one sequence was not measured"


def test_the_table(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = bench(capsys, "-npp 8 -ntg 2 -npl 1,2 -t 1 -r 1", model)
    head, rule, *_, blank, first_note = out.splitlines()[:6]
    assert code == 0 and set(rule) == {"─"} and blank == "" and "build: " not in err
    assert " PP TG B N_KV T_PP s S_PP t/s T_TG s S_TG t/s T s S t/s " in " ".join(head.split())
    for part in ("× B=1", "p99 ms", "weights/step", "bus", "unit", "pages"):
        assert part in head
    assert "type_k" not in head and "peer" not in head and first_note.startswith("build: ")
    assert "Nothing is sampled" in " ".join(out.split())


def test_other_formats(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "-npp 8 -ntg 2 -npl 1,2 -t 1 -r 1 --no-warmup -o "
    rows = list(csv.DictReader(io.StringIO(bench(capsys, flags + "csv", model)[1])))
    assert [row["pl"] for row in rows] == ["1", "2"] and list(rows[0])[: len(NAMES)] == NAMES
    with sqlite3.connect(":memory:") as database:
        database.executescript(bench(capsys, flags + "sql", model)[1])
        assert database.execute("SELECT pp, pl FROM llama_batched_bench").fetchall() == [(8, 1), (8, 2)]
    assert len(json.loads(bench(capsys, flags + "json", model)[1])) == 2
    assert "| S_TG t/s |" in bench(capsys, flags + "md", model)[1].replace("  ", "")


def test_in_turns_with_a_peer(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeBatchedBench(tmp_path, BATCHED)
    flags = "-npp 8 -ntg 4 -npl 2 -ctk f16,f32 -t 1 -r 3 -o jsonl --against"
    code, out, err = bench(capsys, flags, str(fake.path), model)
    assert code == 0, err
    f16, f32 = map(json.loads, out.splitlines())
    assert f16["peer_samples_t_pp"] == [0.016] * 3 and f16["peer_speed_tg"] == pytest.approx(2000)
    assert f16["ratio_pp"] == pytest.approx(f16["speed_pp"] / 1000)
    assert f16["ratio_tg"] == pytest.approx(f16["speed_tg"] / 2000)
    assert (f32["ratio_tg"], f32["peer_samples_t_tg"], len(f32["samples_t_tg"])) == (None, [], 3)
    assert err.count("llama.cpp cannot run") == 1 and f"peer: llama.cpp, {fake.path} -fa on" in err.replace("\n", " ")


def test_without_prompts_or_steps(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = bench(capsys, "-npp 8,0 -ntg 2,0 -npl 2 -t 1 -r 1 -o jsonl", model)
    both, prompts, steps = map(json.loads, out.splitlines())
    assert code == 0 and [(r["pp"], r["tg"]) for r in (both, prompts, steps)] == [(8, 2), (8, 0), (0, 2)]
    assert prompts["speed_tg"] == 0 and prompts["itl_p50_ms"] is None and prompts["bytes_k"] is None
    assert steps["speed_pp"] == 0 < steps["speed_tg"]
    code, out, _ = bench(capsys, "-npp 8 -ntg 0 -npl 2 -t 1 -r 1", model)
    assert code == 0 and "0.00" in out


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ("-npl 0", "-npl: "),
        ("-npl x", "-npl: "),
        ("-npp -1", "-npp"),
        ("-npp 0 -ntg 0", "nothing to measure"),
        ("-npl 1024", "-npl 1024: a step has at most 512 rows"),
        ("-npl 2 -p 8", "-p: does not go with -npp"),
        ("-pps -d 8", "-d: does not go with -npp"),
        ("-npl 2 -ctk q9_9", "-ctk: "),
        ("-npl 2 --against /nowhere/llama-batched-bench", "--against /nowhere/llama-batched-bench: "),
    ],
)
def test_mistakes(model: str, argv: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = bench(capsys, argv, model)
    assert code == UsageError.exit_code and out == ""
    assert err.startswith("pyllm: ") and err.count("\n") == 1 and part in err


def test_a_llama_bench_is_the_wrong_peer(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeBatchedBench(tmp_path, LLAMA)
    code, _, err = bench(capsys, "-npl 2 --against", str(fake.path), model)
    assert code == UsageError.exit_code and "give the path of one" in err


def test_more_than_memory_holds(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "free_memory", lambda: (engines.PROGRAM + engines.buffer_bytes() + (1 << 20), "X"))
    code, out, err = bench(capsys, "-npp 4000 -npl 500 -ntg 1 -t 1", model)
    assert (code, out) == (FitError.exit_code, "") and err.count("\n") == 1
    assert "2016000 tokens of 500 sequences), but X leaves 1.0 MiB, enough for 0 tokens; fewer sequences (-npl)" in err


def test_ctrl_c_prints_what_is_there(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def impatient(*args: Any) -> Sample:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return sample(*args)

    monkeypatch.setattr(rounds, "sample", impatient)
    code, out, _ = bench(capsys, "-npp 4 -ntg 2 -npl 1,2 -t 1 -r 5 --no-warmup -o jsonl", model)
    assert code == 130
    assert [len(json.loads(line)["samples_t_tg"]) for line in out.splitlines()] == [2, 1]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = bench(capsys, "--help")
    assert code == 0 and {"-npp", "-ntg", "-npl", "-pps"} <= set(out.replace(",", " ").split())
