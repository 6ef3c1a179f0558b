"""`pyllm run --parallel` as a user meets it, on a tiny model: answers, resumption, mistakes, signals."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny

from pyllm.__main__ import main
from pyllm.engine.batch import room
from pyllm.engine.request import Running
from pyllm.kernels.lang import cpu
from pyllm.models.errors import NumberError

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
same_text = pytest.mark.skipif(cpu.AMX, reason="prompts take other sums on the matrix unit: PYLLM_AMX=0 tests this")
PREFIX = "a long beginning that all of them have in common " * 3
PROMPTS: list[Any] = [
    *({"id": f"p{n}", "prompt": PREFIX * (n % 3) + "hello the world " * n, "seed": n} for n in range(1, 9)),
    {"id": "talk", "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the"},
                                {"role": "user", "content": "world"}], "temperature": 0, "max_tokens": 3},
    {"id": "raw", "prompt": "hello", "raw": True, "temperature": 1.2},
    {"id": "system", "prompt": "hello", "system": "in the world", "repeat_penalty": 1.3},
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write(tmp_path_factory.mktemp("batch") / "tiny.gguf", types="q4_0"))


def written(path: Path, *lines: Any) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def run(model: str, prompts: str, *flags: str) -> int:
    return main(["run", model, "-f", prompts, "-n", "12", "-c", "512", "-s", "5", "-t", "2", *flags])


def answers(text: str) -> dict[Any, dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert len({answer["id"] for answer in found}) == len(found)
    return {answer["id"]: answer for answer in found}


def said(found: dict[Any, dict[str, Any]]) -> dict[Any, Any]:
    """Return what does not depend on times and neighbours."""
    names = ("text", "stop", "tokens", "prompt_tokens", "seed", "error", "request")
    return {id: [answer.get(name) for name in names] for id, answer in found.items()}


@pytest.fixture(scope="module")
def alone(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    folder = tmp_path_factory.mktemp("alone")
    out = folder / "out.jsonl"
    assert run(model, written(folder / "p.jsonl", *PROMPTS), "--parallel", "1", "-o", str(out)) == 0
    return said(answers(out.read_text()))


@same_text
def test_the_same_text_whatever_runs_beside(
    model: str, tmp_path: Path, alone: dict[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shuffled = random.Random(1).sample(PROMPTS, len(PROMPTS))
    assert run(model, written(tmp_path / "p.jsonl", *shuffled), "--parallel", "4", "--max-step", "1.5") == 0
    out, err = capsys.readouterr()
    assert said(answers(out)) == alone
    for part in (
        "11 answered",
        "tokens in:",
        "from the prefix cache",
        "between tokens:",
        "for 2048 tokens",
        "% in use",
    ):
        assert part in err
    assert len({answer["text"] for answer in answers(out).values()}) > 5


@same_text
def test_in_order(model: str, tmp_path: Path, alone: dict[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    prompts = written(tmp_path / "p.jsonl", PROMPTS[0], *PROMPTS[:0:-1])
    assert run(model, prompts, "--parallel", "3", "--keep-order") == 0
    found = answers(capsys.readouterr().out)
    assert list(found) == [PROMPTS[0]["id"], *(line["id"] for line in PROMPTS[:0:-1])] and said(found) == alone


@same_text
def test_as_run_answers_them(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-n", "9", "-s", "3", "-sys", "in the world"]
    assert main(["run", model, "-p", "hello", *flags, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["text"]
    prompts = written(tmp_path / "p.jsonl", "hello", "other", "hello")
    assert main(["run", model, "--parallel", "auto", "-f", prompts, *flags]) == 0
    found = answers(capsys.readouterr().out)
    assert found[1]["text"] == found[3]["text"] == expected and found[2]["text"] != expected


@same_text
def test_going_on_half_way(
    model: str, tmp_path: Path, alone: dict[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = written(tmp_path / "p.jsonl", *PROMPTS), tmp_path / "out.jsonl"
    flags = ["--parallel", "4", "-o", str(out)]
    assert run(model, prompts, *flags) == 0
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    capsys.readouterr()
    assert run(model, prompts, *flags) == 0
    assert "6 answered, 5 were there" in capsys.readouterr().err
    assert out.read_bytes().splitlines(keepends=True)[:5] == lines[:5]
    assert said(answers(out.read_text())) == alone
    assert run(model, prompts, *flags) == 0
    assert "all 11 lines have their answers" in capsys.readouterr().err
    assert run(model, prompts, *flags, "--temp", "0.1") == 2
    assert "made with temperature 0.8, now it is 0.1" in capsys.readouterr().err
    assert said(answers(out.read_text())) == alone


def test_a_lines_error_is_its_answer(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [
        {"prompt": "hello", "id": "a"},
        {"prompt": "hello " * 600, "id": "long"},
        {"prompt": "the world", "id": "b"},
    ]
    begin, broken = Running.begin, NumberError("tiny", "weights", "they give NaN", "--check says where")

    def bad(self: Running, *given: Any) -> None:
        begin(self, *given)
        if self.params.max_tokens == 7:
            monkeypatch.setattr(self.sampler, "chosen", lambda: broken)

    monkeypatch.setattr(Running, "begin", bad)
    nan = {"prompt": "the the the", "id": "nan", "max_tokens": 7}
    path, out = written(tmp_path / "p.jsonl", *prompts, nan), tmp_path / "out.jsonl"
    assert run(model, path, "--parallel", "2", "-o", str(out)) == 1
    found = answers(out.read_text())
    assert "a sequence at most 512" in found["long"]["error"] and found["nan"]["error"] == str(broken)
    assert found["a"]["text"] is not None and found["b"]["tokens"] > 0
    err = capsys.readouterr().err
    assert "2 answered, 2 failed" in err and "2 of 4 lines failed: their answers hold an error" in err
    assert run(model, path, "--parallel", "2", "-o", str(out)) == 1, "an error that is there counts too"
    assert "--retry-errors tries them again" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(model, path, "--parallel", "2", "-o", str(out), "--retry-errors") == 1, "one is still too long"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["id"] for line in lines[4:]] in (["long", "nan"], ["nan", "long"])
    assert {line["id"]: line for line in lines}["nan"]["tokens"] > 0
    assert "1 answered, 1 failed, 2 were there" in capsys.readouterr().err
    assert run(model, path, "--parallel", "2", "-o", str(out)) == 1
    assert "1 of 4 lines failed" in capsys.readouterr().err


def test_bad_lines(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, out = written(tmp_path / "p.jsonl", "hello", {"prompt": "x", "temp": -1e999}, 7), tmp_path / "out.jsonl"
    assert run(model, prompts, "--parallel", "2", "-o", str(out)) == 2
    err = capsys.readouterr().err
    assert f"{prompts} line 2: temp: is -inf" in err and err.count("\n") == 1 and not out.exists()
    for _ in range(2):  # the second run finds all of them answered
        assert run(model, prompts, "--parallel", "2", "-o", str(out), "--keep-going") == 1
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert {(a["id"], a.get("line")) for a in found} == {(1, None), (2, 2), (None, 3)} and len(found) == 3
        assert "2 of 3 lines failed" in capsys.readouterr().err
    assert run(model, written(tmp_path / "q.jsonl", 7), "--parallel", "2", "--keep-going") == 2
    assert "none of its 1 lines can be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["-p", "x", "--parallel", "2"], "leave out -p and PROMPT"),
        (["-p", "x", "--keep-order"], "--keep-order: for many prompts; add --parallel N"),
        (["--parallel", "0", "-f", "x"], "'0' must be a whole number from 1 to 256"),
        (["--parallel", "2", "-f", "x", "--max-step", "0.5"], "'0.5' must be a number from 1"),
        (["--parallel", "2", "-f", "none.jsonl"], "-f none.jsonl: No such file"),
        (["--parallel", "2", "-f", os.devnull], "is a device"),
        (["--parallel", "2", "-f", "x", "--raw", "-sys", "x"], "-sys and --raw"),
        (["--parallel", "2", "-f", "x", "--retry-errors"], "--retry-errors: tries lines of a file of answers again"),
        (["--parallel", "2", "-f", "x", "--park", "."], "--park: is for lines that wait, which none does without"),
        (["--parallel", "2", "-f", "x", "--overcommit", "--park-limit", "1G"], "--park-limit: add --park DIR"),
        (["--parallel", "2", "-f", "x", "--overcommit", "--park", "none"], "--park none: No such file or directory"),
        (["--parallel", "2", "-f", "x", "--park-type", "q9"], "'q9' is not a cache type"),
    ],
)
def test_mistakes(flags: list[str], problem: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", model, *flags]) == 2
    err = capsys.readouterr().err
    assert problem in err and err.count("\n") == 1


def test_llama_cpps_default_is_no_batch(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", model, "-p", "hello", "-np", "1", "-n", "1"]) == 0
    assert "id" not in capsys.readouterr().out


@same_text
def test_memory(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = written(tmp_path / "p.jsonl", *PROMPTS)
    assert run(model, prompts, "--parallel", "1") == 0
    expected = said(answers(capsys.readouterr().out))
    from pyllm.models.arch.registry import read_config
    from pyllm.models.cache.spec import CacheSpec
    from pyllm.models.file.gguf import GGUF

    gguf = GGUF.open(Path(model))
    config = read_config(gguf)
    for free in (2.6, 1.3):  # of the contexts
        need = room.needs(gguf, config, int(512 * free), CacheSpec(), 8)
        monkeypatch.setattr(room, "free_memory", lambda mapped, need=need: (need.total, "the test"))
        monkeypatch.setattr(room, "SPARE", 1.0)
        assert run(model, prompts, "--parallel", "8") == 4
        err = capsys.readouterr().err
        assert f"--parallel {int(free)} or -c {int(512 * free) // 8 // 64 * 64} would fit" in err or free < 2, err
        assert "the test leaves" in err and "--overcommit takes what there is" in err
        for park in ([], ["--park", str(tmp_path)]):
            assert run(model, prompts, "--parallel", "8", "--overcommit", *park) == 0
            out, err = capsys.readouterr()
            assert said(answers(out)) == expected and "for 4096 tokens" not in err and "computed again" not in err


class Process:
    """The command in a process of its own."""

    def __init__(self, *argv: str, stdout: Any = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyllm", *argv], env=ENVIRONMENT, stdout=stdout, stderr=subprocess.PIPE, text=True
        )

    def ended(self) -> tuple[int, str]:
        err = self.process.communicate(timeout=120)[1]
        return self.process.returncode, err


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(model: str, tmp_path: Path, number: int, code: int) -> None:
    prompts, out = written(tmp_path / "p.jsonl", *["hello"] * 5000), tmp_path / "out.jsonl"
    flags = ["run", model, "--parallel", "4", "-f", prompts, "-o", str(out), "-n", "40", "-c", "128", "--ignore-eos"]
    program = Process(*flags)
    deadline = time.monotonic() + 100
    while (not out.exists() or out.stat().st_size < 4000) and time.monotonic() < deadline:
        time.sleep(0.05)
    program.process.send_signal(number)
    found, err = program.ended()
    assert found == code, err
    kept = out.read_text().splitlines()
    assert all("text" in json.loads(line) for line in kept) and 5 < len(kept) < 5000
    assert f"lines left; the same command goes on with {out}" in err and "tokens out:" in err and "Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_reader_that_leaves(model: str, tmp_path: Path) -> None:
    prompts = written(tmp_path / "p.jsonl", *["hello"] * 3000)
    program = Process("run", model, "--parallel", "4", "-f", prompts, "-n", "4", stdout=subprocess.PIPE)
    assert program.process.stdout is not None
    assert json.loads(program.process.stdout.readline())["id"] > 0
    program.process.stdout.close()
    program.process.stdout = None
    found, err = program.ended()
    assert found == 141 and "Traceback" not in err


def test_from_stdin(model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["-f", "-"], []):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"hello"\n{"prompt": "x", "id": 2.5}\n')))
        assert main(["run", model, "--parallel", "2", "-n", "2", *flags]) == 0
        assert set(answers(capsys.readouterr().out)) == {1, 2.5}


def test_stop_strings(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = {"prompt": "hello", "temperature": 0}
    assert run(model, written(tmp_path / "p.jsonl", line), "--parallel", "1") == 0
    text = answers(capsys.readouterr().out)[1]["text"]
    stop = text[len(text) // 2 :][:3]
    path = written(tmp_path / "q.jsonl", {**line, "stop": [stop, "no such text"]}, {**line, "stop": "no such text"})
    assert run(model, path, "--parallel", "2") == 0
    found = answers(capsys.readouterr().out)
    assert found[1]["stop"] == "stop" and found[1]["text"] == text[: text.index(stop)]
    assert found[2]["text"] == text and found[2]["stop"] != "stop"
