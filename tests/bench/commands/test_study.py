"""`pyllm study kv` on a tiny model: a whole study, an interrupted one, a damaged file, and bad input."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from pyllm.__main__ import main
from pyllm.bench.commands import study, study_flags
from pyllm.bench.quality.caches import EXACT, Caches
from pyllm.bench.study import cells, filling, measure
from pyllm.bench.study.texts import Sources
from pyllm.engine.advice.study_file import BEGINS, StudyFile
from pyllm.models.arch.registry import read_config
from pyllm.models.errors import UsageError
from pyllm.models.file.gguf import GGUF
from pyllm.models.file.header import TENSOR_TYPES, Tensor
from pyllm.models.forward import upcast
from pyllm.models.text.tokenizer import Tokenizer

TEXT = "hello world in the world, her hello then. " * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (cells, "CONTEXT", 96), (cells, "LAYER_CONTEXT", 96), (cells, "LONG", 256), (measure, "GENERATED", 8)
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["study", "kv", *argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def flags(model: str, tmp_path: Path) -> list[str]:
    (tmp_path / "text.txt").write_text(TEXT)
    return [model, "-f", str(tmp_path / "text.txt"), "--types", "q4_0", "-c", "96,256", "-t", "1"]


def test_whole_and_resumed_are_the_same_file(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tmp_path / "whole.json", tmp_path / "resumed.json"
    steps, order, real = [0], list[str](), filling.measure

    def watched(bench: Any, cells: Any) -> Any:
        order.extend(cell.key for cell in cells)
        return real(bench, cells)

    monkeypatch.setattr(filling, "measure", watched)
    code, out, err = call(capsys, *flags, "-o", str(whole), "--report", str(tmp_path / "report"))
    assert code == 0, err
    for part in (
        "Pairs on prose",
        "K alone and V alone",
        "passkey",
        "Attention at 96",
        "Bits by layer",
        "Free generation",
    ):
        assert part in out
    assert "--cache-type-k-layers 0" in out
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<svg") >= 5 and (tmp_path / "report" / "heat.png").stat().st_size > 1000

    look = [key for key in order if key.endswith(" few")]
    assert order[: len(look)] == look and len(look) < 20, "the first look comes first"
    assert {"score prose 96 q4_0/q4_0 auto few", "score prose 96 q4_0/f16 none few", "score prose 96 f32/q4_0 auto few",
            "score prose 256 q4_0/q4_0 auto few", "score passkey 96 q4_0/q4_0 auto few"} <= set(look)  # fmt: skip

    def interrupted(*args: Any) -> Any:
        steps[0] += 1
        if steps[0] % 3 == 0:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(filling, "measure", interrupted)
    while (code := call(capsys, *flags, "-o", str(resumed))[0]) == 130:
        assert steps[0] < 100
    assert code == 0 and resumed.read_bytes() == whole.read_bytes()

    results = json.loads(whole.read_text())["results"]
    score = results["score prose 96 q4_0/q4_0 auto"]
    assert 0 < score["kld_mean"] < 1 and score["tokens"] == 47 * score["samples"]
    floor = results["score prose 96 f16/f16 auto fast"]
    assert 0 <= floor["kld_mean"] < 1e-5 and "f16/f16, fast" in out, "this model's weights are f32"
    attention = results["attention prose 96 q4_0/q4_0 auto"]
    assert len(attention["output_k"]) == 2 and 0 < attention["output_k"][0] < 1

    code, out, _ = call(capsys, *flags, "-o", str(whole), "--json")
    assert code == 0 and json.loads(out)["results"] == results


def test_a_budget_of_nothing_measures_nothing(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, *flags, "-o", str(tmp_path / "s.json"), "--budget", "0s")
    assert code == 0 and out == "" and not (tmp_path / "s.json").exists()


def test_a_damaged_file_is_kept_aside(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.json"
    for i, content in enumerate((b"", b' "version"', b"\xff\xfe", b' "x": []}, "version": 9}'), 1):
        content = BEGINS + content  # what a study of ours begins with
        path.write_bytes(content)
        code, _, err = call(capsys, *flags, "-o", str(path), "--budget", "0s")
        assert code == 0 and "damaged" in err and not path.exists()
        assert path.with_name(f"s.json.damaged-{i}").read_bytes() == content


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--types", "q9"], "--types: 'q9'"),
        (["-c", "1024"], "the model's own context has 512"),
        (["--budget", "soon"], "'soon' must be a time"),
        (["--data", "/nowhere"], "--data /nowhere: is no folder"),
        (["--cache-rotate", "both"], "32 values"),
        (["-f", "/dev/null"], "empty"),
    ],
)
def test_bad_input(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], part: str
) -> None:
    code, out, err = call(capsys, *flags, "-o", str(tmp_path / "s.json"), *more)
    assert code == UsageError.exit_code and out == "" and err.count("\n") == 1 and part in err


def test_a_study_of_something_else_is_not_mixed_in(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.json"
    StudyFile(path, {"model": "other"}).add({"cell": {"x": 1}})
    code, _, err = call(capsys, *flags, "-o", str(path))
    assert code == UsageError.exit_code and "a study of another file, " in err
    assert "cell" in path.read_text()


def test_studies_of_two_arithmetics_are_not_mixed(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["-o", str(tmp_path / "s.json")]
    code, out, _ = call(capsys, *flags, *where, "--fast", "--budget", "1s")
    study = json.loads((tmp_path / "s.json").read_text())
    assert code == 0 and study["heading"]["arithmetic"] == "fast" and "f16/f16, fast" not in out
    assert not any(key.endswith(" fast") for key in study["results"]), "f16/f16 is the floor, as all cells are fast"
    code, _, err = call(capsys, *flags, *where)
    assert code == UsageError.exit_code and "a study of another arithmetic; name another file" in err


@pytest.mark.parametrize("words", [0, 1, 5, 20])
def test_a_text_that_is_too_short(words: int, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line before anything is measured, and no file."""
    (tmp_path / "text").write_text("hello " * words + "the")
    code, out, err = call(capsys, model, "-f", str(tmp_path / "text"), "-c", "64", "-o", str(tmp_path / "study"))
    assert (code, out, err.count("\n")) == (2, "", 1) and "tokens, the study needs 96" in err
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("type", upcast.DECODED)
def test_norms_of_weights_that_are_decoded_at_load(type: str, tmp_path: Path) -> None:
    g = GGUF.open(tiny.write(tmp_path / "a.gguf", n_embd=256, n_layer=1))
    size, nbytes = {name: (size, nbytes) for name, size, nbytes in TENSOR_TYPES.values()}[type]
    for side in "kv":
        tensor = g.tensors[name := f"blk.0.attn_{side}.weight"]
        raw = np.random.default_rng(0).integers(0, 0x3C, (tensor.shape[0], 256 // size * nbytes), dtype=np.uint8)
        g.tensors[name] = Tensor(name, tensor.shape, type, raw.reshape(-1))
    config = read_config(g)
    caches = Caches(g, config, Tokenizer.from_gguf(g), 96, 1)
    bench = measure.Bench(caches, Sources(TEXT), 0)
    [found] = measure.measure(bench, [cells.Cell("norms", "prose", 96, EXACT)]).values()
    for side in "kv":
        tensor = g.tensors[f"blk.0.attn_{side}.weight"]
        exact = upcast.decode(type, tensor.data.reshape(tensor.shape[0], -1)).astype(np.float64)
        assert found[f"weights_{side}"] == [pytest.approx(float(np.linalg.norm(exact)))]


@pytest.mark.parametrize(
    ("flags", "how", "file"),
    [
        ("", "table", None),
        ("-o s.json", "table", "s.json"),
        ("-o md", "md", None),
        ("-o s.json -o md", "md", "s.json"),
        ("-o ./md", "table", "md"),
        ("-o s.json --json", "json", "s.json"),
    ],
)
def test_what_is_printed_and_where_it_is_kept(flags: str, how: str, file: str | None) -> None:
    parser = argparse.ArgumentParser()
    study_flags.add_study(parser)
    args = parser.parse_args(["kv", *flags.split()])
    assert study.formats(args)[-1] == how and study.file_of(args) == (Path(file) if file else None)
