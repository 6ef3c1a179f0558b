"""`pyllm study concurrency` as a user sees it, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from given_roofs import GIVEN

from pyllm.__main__ import main
from pyllm.bench.concurrency import depths, instrument
from pyllm.bench.machine import roofs
from pyllm.engine.advice.study_file import StudyFile, identity
from pyllm.models.file.gguf import GGUF

FLAGS = "--memory 1G --depth 128,320 --types f16,q4_0 -np 2 --turn 8 --answer 4 -t 1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofs, "of_this_machine", lambda *_, **__: GIVEN)
    for module, name, value in ((depths, "STEPS", 2), (instrument, "OPEN_SECONDS", 0.01), (instrument, "FEWEST", 5)):
        monkeypatch.setattr(module, name, value)


def call(capsys: pytest.CaptureFixture[str], flags: str, *argv: str) -> tuple[int, str, str]:
    code = main(["study", "concurrency", *flags.split(), *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_whole_study(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = tmp_path / "a.json", tmp_path / "report"
    flags = f"{FLAGS} --budget 10m -o {path} --report {report} --machine 16c,60G,32G"
    code, out, err = call(capsys, flags, model)
    assert code == 0, err
    for part in (
        "What was found",
        "Sessions, speed",
        "closed loop",
        "at random",
        "Step by step",
        "Computed, not measured",
    ):
        assert part in out
    assert "<svg" in (report / "report.html").read_text()
    saved = json.loads(path.read_text())
    kinds = [key.split()[0] for key in saved["results"]]
    assert [kinds.count(k) for k in ("loss", "steps", "closed", "poisson")] == [4, 16, 16, 24]
    assert saved["results"]["loss 0 0 q4_0/q4_0 auto"]["kld"] > saved["results"]["loss 0 0 f16/f16 auto"]["kld"] >= 0
    for result in saved["results"].values():
        assert 0 <= result["others"] <= 1

    code, out, _ = call(capsys, f"{FLAGS} --minutes 1 -o {path} -o json", model)
    found = json.loads(out)
    assert code == 0 and found["results"] == saved["results"], "nothing is left to measure"
    assert {"found", "tables", "heading", "warnings"} <= found.keys() and "Computed" not in out
    code, out, _ = call(capsys, f"{FLAGS} --budget 0 -o {path} -o md", model)
    assert code == 0 and out.startswith("# Concurrency: tiny") and "| K/V " in out


@pytest.mark.parametrize(("flag", "origin"), [("--exact", "study"), ("--fast", "measured")])
def test_losses_come_from_a_study_of_the_same_arithmetic(
    flag: str, origin: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = instrument.trials
    monkeypatch.setattr(instrument, "trials", lambda *args: (t for t in real(*args) if t.kind == "loss"))
    study = StudyFile.open(tmp_path / "kv.json", identity(GGUF.open(Path(model))) | {"arithmetic": "exact"})
    score = {"kld_mean": 0.125, "kld_error": 0.5, "samples": 4}
    study.add({f"score prose 512 {pair} auto": score for pair in ("f16/f16", "q4_0/q4_0", "q4_0/f16", "f16/q4_0")})
    studied = study.results["score prose 512 q4_0/q4_0 auto"]
    files = f"-o {tmp_path / 'a.json'} --study {tmp_path / 'kv.json'}"
    code, _, err = call(capsys, f"{FLAGS} {flag} --budget 5m {files}", model)
    assert code == 0, err
    saved = json.loads((tmp_path / "a.json").read_text())
    loss = saved["results"]["loss 0 0 q4_0/q4_0 auto"]
    assert (loss["kld"] == studied["kld_mean"], loss["from"]) == (origin == "study", origin)
    assert saved["heading"]["arithmetic"] == flag.removeprefix("--")


def test_a_budget_of_nothing(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, f"{FLAGS} --budget 0 -o {tmp_path / 'a.json'}", model)
    assert code == 0 and out == "" and not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--memory 1M", "--memory 1.0 MiB: a sequence of 512 tokens takes"),
        ("--depth 4096", "context has 512 tokens"),
        ("--types q4_0", "--types q4_0: name two types"),
        ("--types f16,q9", "--types: 'q9' is none of"),
        ("--machine 16", "--machine '16': must be cores, GB/s"),
        ("--latency 0", "--latency"),
        ("-np 0", "must be a whole number"),
        ("--memory x", "must be a number such as"),
    ],
)
def test_bad_flags(flags: str, said: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, flags, model)
    assert code in (2, 4) and out == "" and err.count("\n") == 1 and said in err


def test_a_file_of_another_study(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n "heading": {},\n "results": {},\n "version": 1\n}\n')
    code, _, err = call(capsys, f"{FLAGS} --budget 0 -o {path}", model)
    assert code == 2 and "a study of another" in err
    assert main(["study", "--budget", "1m", "concurrency", model]) == 2
    assert "write these two words first" in capsys.readouterr().err
