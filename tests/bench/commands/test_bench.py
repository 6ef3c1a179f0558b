"""`pyllm bench` as a user sees it, on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from fake_bench import LLAMA, FakeLlamaBench, case

from pyllm.__main__ import main
from pyllm.bench.machine import bandwidth
from pyllm.bench.speed import engines, suite
from pyllm.bench.speed.cases import Case
from pyllm.bench.speed.engines import Models, groups, positions
from pyllm.bench.speed.throughput import Ours
from pyllm.models.errors import FitError, UsageError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "buffer_bytes", lambda: bandwidth.CHUNK)


def bench(capsys: pytest.CaptureFixture[str], flags: str, *argv: str) -> tuple[int, str, str]:
    code = main(["bench", *flags.split(), *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_grid_measured(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = bench(capsys, "-p 8 -n 4 -d 0,70 -ctk f16,q8_0 -t 1 -r 2 -o json", model)
    assert code == 0, err
    records = json.loads(out)
    tests = [(r["n_prompt"], r["n_gen"], r["n_depth"], r["type_k"]) for r in records]
    assert tests == [(p, g, d, k) for d in (0, 70) for k in ("f16", "q8_0") for p, g in ((8, 0), (0, 4))]
    for r in records:
        assert len(r["samples_ns"]) == len(r["samples_ts"]) == 2 and min(r["samples_ns"]) > 0
        assert r["min_ts"] <= r["median_ts"] <= r["max_ts"]
        assert r["gbps_ceiling"] > 0 and r["mbu"] == pytest.approx(r["gbps"] / r["gbps_ceiling"])
        assert r["rss_peak"] > 1 << 20 and r["compile_s"] > 0
    by = {(r["n_gen"], r["n_depth"], r["type_k"]): r for r in records}
    # 2 layers, 2 KV heads of 32 values; a token sees itself and, on average, 1.5 of the others.
    assert by[4, 0, "f16"]["bytes_k"] == 2.5 * 2 * 2 * 32 * 2
    assert by[4, 70, "q8_0"]["bytes_k"] == 72.5 * 2 * 2 * 34
    assert by[4, 0, "f16"]["bytes_weights"] == 8 * by[0, 0, "f16"]["bytes_weights"], "a prompt of 8 reads them once"
    assert "read bandwidth" in err and "cpu: " in err


def test_policies_side_by_side(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A step reads, and a sequence holds, what the policy keeps; going back by pages is filled again."""
    flags = ["--cache-policy", "none", "--cache-policy", "h2o,keep=64,tail=0", "--cache-policy", "sink=64:q8_0,tail=64"]
    code, out, err = bench(capsys, "-p 0 -n 70 -d 300 -t 1 -r 2 -o json", *flags, model)
    assert code == 0, err
    every = {r["cache_policy"].partition(",")[0]: r for r in json.loads(out)}
    assert list(every) == ["", "h2o", "sink=64:q8_0"]
    token = 2 * 2 * 2 * 32 * 2  # layers, K and V, KV heads, values, bytes
    assert every[""]["bytes_held"] == 370 * token
    assert every["h2o"]["bytes_held"] == (64 + 370 - 256) * (token + 2 * 2 * 8), "with a mass and a position each"
    assert every["h2o"]["bytes_v"] < every["sink=64:q8_0"]["bytes_v"] < every[""]["bytes_v"]
    flags = ["-npp", "200", "-ntg", "4", "-npl", "2", *flags]
    code, out, err = bench(capsys, "-t 1 -r 1 -o json", *flags, model)
    assert code == 0, err
    assert [r["pages"] for r in json.loads(out)] == [8, None, None]
    code, out, _ = bench(capsys, "-t 1 -r 1", *flags, model)
    assert code == 0 and "h2o,keep=64" in out and "KV held" in out
    code, _, err = bench(capsys, "-pps", *flags, model)
    assert code == 2 and "does not go with -pps" in err
    code, _, err = bench(capsys, "-t 1", "--cache-policy", "kivi", model)
    assert code == 2 and "kivi,tail=128:f32: has no kernel, so its speed says nothing" in err


def test_markdown_says_what_it_was_measured_on(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = bench(capsys, "-p 4 -n 0 -r 1 -t 1 --no-warmup -o md -m", model)
    assert code == 0 and "warming up" not in err
    for part in ("| pp4", "build: ", "cpu: ", "read bandwidth, -t 1: ", "GB/s"):
        assert part in out.replace("  ", " ").replace("|  ", "| "), part


def test_a_table_for_people(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = bench(capsys, "-p 4,8 -n 0 -r 1 -t 1 --no-warmup", model)
    head, rule, first, second, blank, *notes = out.splitlines()
    assert code == 0 and "|" not in out and set(rule) == {"─"} and blank == ""
    assert head.startswith("model") and "pp4" in first and "pp8" in second and notes[0].startswith("build: ")
    end = head.index("t/s") + 3
    assert first[end - 1].isdigit() and first[end : end + 2] == "  ", "numbers end below the end of their title"


def test_in_turns_with_a_peer(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeLlamaBench(tmp_path, LLAMA)
    flags = "-p 8 -n 0 -ctk f16,f32 -t 1 -r 3 -o jsonl --no-peer-rotation --against"
    code, out, err = bench(capsys, flags, str(fake.path), model)
    assert code == 0, err
    f16, f32 = map(json.loads, out.splitlines())
    assert f16["peer_samples_ts"] == [1e6] * 3 and f16["ratio"] == pytest.approx(f16["median_ts"] / 1e6)
    assert (f32["ratio"], f32["peer_samples_ts"], len(f32["samples_ts"])) == (None, [], 3)
    assert {rotation for _, rotation in fake.asked} == {"1"} and f16["peer_rotation"] == "off"
    assert err.count("llama.cpp cannot run") == 1 and "rotation of quantized K and V: off" in err


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ("-p 5-1", "-p: "),
        ("-ctk q9_9", "-ctk: "),
        ("-t 0", "-t: "),
        ("-pg 5", "-pg: "),
        ("-r 0", "-r"),
        ("-o xml", "-o"),
        ("--synthetic 7T", "--synthetic: "),
        ("--synthetic-type q1", "--synthetic-type: "),
        ("--against /nowhere/llama-bench", "--against /nowhere/llama-bench: "),
        ("-p 0 -n 0", "nothing to measure"),
    ],
)
def test_mistakes(model: str, argv: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = bench(capsys, argv, model)
    assert code == UsageError.exit_code and out == ""
    assert err.startswith("pyllm: ") and err.count("\n") == 1 and part in err


def test_ctrl_c_prints_what_is_there(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(Ours):
        count = 0

        def sample(self, case: Case) -> int:
            Impatient.count += 1
            if Impatient.count == 3:
                raise KeyboardInterrupt
            return super().sample(case)

    monkeypatch.setattr(suite, "Ours", Impatient)
    code, out, _ = bench(capsys, "-p 4 -n 2 -t 1 -r 5 --no-warmup -o jsonl", model)
    assert code == 130
    assert [len(json.loads(line)["samples_ns"]) for line in out.splitlines()] == [1, 1]


def test_the_cache_holds_a_session_for_each_depth() -> None:
    cases = [case(n_prompt=100), case(n_gen=10), case(n_gen=10, n_depth=64), case(n_gen=10, type_k="q8_0")]
    assert positions(cases[0].setup, cases) == (128 + 128, 2)


def test_engines_that_do_not_fit_grouped(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(model=Path(model), n_gen=4, n_depth=d, type_k=k) for d in (0, 64) for k in ("f16", "q8_0", "f32")]

    def grouped(free: int) -> list[list[tuple[str, int]]]:
        monkeypatch.setattr(engines, "free_memory", lambda: (free, "the machine"))
        monkeypatch.setattr(engines, "buffer_bytes", lambda: 0)
        return [[(c.type_k, c.n_depth) for c in group] for group in groups(cases, Models())]

    gguf, config = Models()[Path(model)]
    needs = [engines.needs(gguf, config, positions(c.setup, cases)[0], c.cache) for c in cases]
    need, weights = max(n.total - engines.PROGRAM for n in needs), needs[0].weights

    def of(k: str) -> list[tuple[str, int]]:
        return [(k, 0), (k, 64)]

    assert grouped(1 << 40) == [of("f16") + of("q8_0") + of("f32")]
    assert grouped(engines.PROGRAM + 2 * need - weights) == [of("f16") + of("q8_0"), of("f32")]
    assert grouped(engines.PROGRAM + need) == [of("f16"), of("q8_0"), of("f32")]
    with pytest.raises(FitError, match=r"the machine leaves .*\(-d\)"):
        grouped(engines.PROGRAM)


def test_the_command_line_knows_the_command_by_name_only() -> None:
    """A command's module is loaded when the command runs; --help loads only the modules of the flags."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from pyllm.__main__ import main; main(['--help']);"
        "print([m for m in sys.modules if m == 'numba'"
        " or m.startswith('pyllm.bench.commands.') and not m.endswith('_flags')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "bench" in done.stdout and done.stdout.endswith("\n[]\n")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = bench(capsys, "--help")
    assert code == 0
    flags: Any = "-m -p -n -pg -d -r -t -ctk -ctv -b -ub -o --against --no-peer-rotation --synthetic --synthetic-type"
    assert set(flags.split()) <= set(out.replace(",", " ").split())
