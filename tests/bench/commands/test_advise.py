"""`pyllm advise` and `pyllm run --cache-type auto` on a tiny model that has a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from pyllm.__main__ import main
from pyllm.bench.machine import roofs
from pyllm.engine.advice.study_file import StudyFile, default_path, identity
from pyllm.models.errors import FitError, UsageError
from pyllm.models.file.gguf import GGUF

LOSSES = {"f16/f16": 0.004, "q8_0/q8_0": 0.005, "q4_0/q4_0": 0.2}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(roofs, "kept", lambda folder: None)
    path = tiny.write(tmp_path / "tiny.gguf")
    gguf = GGUF.open(path)
    results = {f"score prose 512 {pair} auto": {"kld_mean": x, "samples": 2} for pair, x in LOSSES.items()}
    StudyFile(tmp_path / "study.json", identity(gguf)).add(results)
    return str(path)


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_advice(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["advise", model, "--study", str(tmp_path / "study.json"), "--context", "256", "--sessions", "2"]
    code, out, err = call(capsys, *flags)
    assert code == 0, err
    assert out.startswith("-ctk q8_0 -ctv q8_0 -c 256\n") and "2 x 256 tokens" in out
    assert "The next smaller one, q4_0/q4_0, loses 0.2" in out
    code, out, _ = call(capsys, *flags, "--json")
    assert json.loads(out)["chosen"]["k"] == "q8_0" and json.loads(out)["studied_before"]


@pytest.mark.parametrize(
    ("more", "code", "part"),
    [
        (["--context", "16k"], UsageError.exit_code, "the model's own context has 512"),
        (["--memory", "1k"], FitError.exit_code, "no studied cache fits --memory 1 KiB with 1 x 512 tokens"),
        (["--memory", "much"], UsageError.exit_code, "'much' must be a number such as"),
    ],
)
def test_bad_input(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, part: str
) -> None:
    got, out, err = call(capsys, "advise", model, "--study", str(tmp_path / "study.json"), *more)
    assert got == code and out == "" and err.count("\n") == 1 and part in err


def test_run_takes_the_advice(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["run", model, "-p", "hello", "-n", "2", "--raw", "--json", "-c", "64", "-t", "1", "--cache-type", "auto"]
    monkeypatch.setattr("pyllm.engine.advice.study_file.cache_folder", lambda: tmp_path / "cache")
    code, out, err = call(capsys, *run)
    assert code == 0 and json.loads(out)["settings"]["cache_type_k"] == "q8_0" and "no study of this model" in err
    kept = default_path(GGUF.open(Path(model)))
    assert kept == tmp_path / "cache" / "studies" / "tiny.json"
    losses = {"score prose 512 q8_0/q8_0 auto": {"kld_mean": 0.1, "samples": 1}}
    StudyFile(kept, identity(GGUF.open(Path(model)))).add(losses)
    code, out, err = call(capsys, *run)
    assert code == 0 and json.loads(out)["settings"]["cache_type_v"] == "q8_0" and "no study" not in err
    code, _, err = call(capsys, *run, "-ctk", "q4_0")
    assert code == UsageError.exit_code and "--cache-type auto" in err
