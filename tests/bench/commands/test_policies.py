"""`pyllm study policies` on a tiny model: bytes, tables, one that goes on, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from pyllm.__main__ import main
from pyllm.bench.study import contenders as rows
from pyllm.bench.study import measure
from pyllm.bench.study.contenders import Contender, cells, contenders
from pyllm.bench.study.leaderboard import Leaderboard
from pyllm.kernels.shapes import PAGE
from pyllm.models.arch.registry import read_config
from pyllm.models.cache import papers, sizes
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.errors import UsageError
from pyllm.models.file.gguf import GGUF

TEXT = "hello world in the world, her hello then. " * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (rows, "TYPES", ("f16", "q4_0")), (rows, "MIXED", ("q4_0", "q8_0")), (rows, "BODIES", (("q4_0", "q4_0"),)),
        (measure, "STEPS", 2), (measure, "ROUNDS", 1), (papers, "names", lambda: ["kivi", "random_tokens"]),
        (papers, "variants", lambda: ["kivi", "kivi4"]),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["study", "policies", *argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def flags(model: str, tmp_path: Path) -> list[str]:
    (tmp_path / "text.txt").write_text(TEXT)
    return [model, "-f", str(tmp_path / "text.txt"), "-c", "384", "-t", "1", "-o", str(tmp_path / "s.json")]


def test_bytes_are_those_that_are_held_or_computed(model: str) -> None:
    config, n = read_config(GGUF.open(Path(model))), 384
    found = {c.name: c for c in contenders(config, n, (0.5,))}
    f16 = sizes.held_bytes(config, CacheSpec(), n)
    assert found["f16/f16"].share == 1 and found["q4_0/q4_0"].share == 4.5 / 16
    assert found["q4_0/q8_0"].share == found["q8_0/q4_0"].share == 6.5 / 16
    segments = found[f"q4_0/q4_0 {rows.SEGMENTS}"]
    assert segments.share == sizes.held_bytes(config, segments.cache, n) / f16
    assert segments.share == (4 * PAGE * 16 + 2 * PAGE * 4.5) / (6 * PAGE * 16)
    assert found["kivi"].computed and found["kivi"].share == pytest.approx((3 * 16 + 3 * 3) / (6 * 16))
    streaming = next(c for c in found.values() if c.kind == "streaming" and c.cache.k == "f16")
    assert 0.5 - 1.01 * PAGE / n <= streaming.share <= 0.5
    assert {c.kind for c in found.values()} == set(rows.KINDS)


def test_layers_with_a_window_stay_in_f16(tmp_path: Path) -> None:
    from dataclasses import replace

    path = tiny.write(tmp_path / "m.gguf", n_layer=4)
    config = read_config(GGUF.open(path))
    layers = tuple(replace(layer, window=0 if i == 2 else 64) for i, layer in enumerate(config.layers))
    mixed = contenders(replace(config, layers=layers), 384, (0.5,))
    found = {c.name: c for c in mixed}
    assert found["q4_0/q4_0"].cache.k == "0-1:f16,2:q4_0,3:f16" and found["kivi"].cache.k == "0-1:f16,2:f32,3:f16"
    assert found["q4_0/q4_0"].share == 4.5 / 16 and found["kivi"].share == pytest.approx(57 / 96)
    windows = tuple(replace(layer, window=64) for layer in config.layers)
    with pytest.raises(UsageError, match="all layers of this model have a window"):
        contenders(replace(config, layers=windows), 384, (0.5,))


def test_a_study_and_one_that_goes_on(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *flags, "--budget", "5m", "--report", str(tmp_path / "report"), "--bytes", "0.5,0.6")
    assert code == 0, err
    for part in ("Who loses the least", "At 0.6 of f16's bytes or less q", "Up to 0.5 of f16's bytes", "no kernel"):
        assert part in out
    assert "<svg" in (tmp_path / "report" / "report.html").read_text()
    saved = (tmp_path / "s.json").read_bytes()
    code, out, _ = call(capsys, *flags, "--budget", "1m", "--bytes", "0.6,0.5", "--json")
    told = json.loads(out)
    assert code == 0 and (tmp_path / "s.json").read_bytes() == saved, "nothing is left to measure"
    each = {found["name"]: found for found in told["policies"]}
    assert each["kivi"]["bytes_are"] == "computed" and "speed" not in each["kivi"]
    assert each["q4_0/q4_0"]["bytes_are"] == "real" and each["q4_0/q4_0"]["speed"]["tokens_per_s"] > 0
    assert 0 <= each["f16/f16"]["prose"]["kld_mean"] < each["q4_0/q4_0"]["prose"]["kld_mean"]
    assert each[f"q4_0/q4_0 {rows.SEGMENTS}"]["prose"]["kld_mean"] < each["q4_0/q4_0"]["prose"]["kld_mean"]
    assert {"passkey", "dictionary"} <= each["random_tokens"].keys()
    code, out, _ = call(capsys, *flags, "--budget", "0", "-o", "md")
    assert code == 0 and out.startswith("# Policies: tiny") and "|" in out


def test_a_budget_of_nothing(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, *flags, "--budget", "0")
    assert code == 0 and out == "" and not (tmp_path / "s.json").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--bytes 0", "'0' must be a number from 0.001 to 1"),
        ("--bytes 2,1", "'2' must be a number"),
        ("--bytes half", "'half' must be a number"),
        ("-c 1024", "context has 512 tokens"),
        ("-c 32", "must be a whole number, 64 or more"),
        ("--budget soon", "'soon' must be a time"),
        ("-f /dev/null", "empty"),
    ],
)
def test_bad_flags(flags: list[str], more: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *flags, *more.split())
    assert code == 2 and out == "" and err.count("\n") == 1 and said in err


def test_ranks() -> None:
    """The smallest loss comes first; a cheaper one may win at a larger budget."""

    def contender(name: str, share: float, kld: float) -> tuple[Contender, dict[str, dict[str, float]]]:
        made = Contender(name, "types", CacheSpec(name), share)
        score = {"kld_mean": kld, "kld_error": 0.0, "same_top": 1.0, "samples": 1}
        return made, {made.cells(512)["prose"].key: score}

    made = [contender("q8_0", 0.5, 0.1), contender("q4_0", 0.25, 0.05), contender("q2_1", 0.2, 0.3)]
    results = {key: score for _, scores in made for key, score in scores.items()}
    every = [each for each, _ in made]
    board = Leaderboard({"model": "m", "file": "f", "prose": "p"}, results, every, 512, (0.5, 0.25, 0.1))
    assert [c.name for c in board.ranked(0.5)] == ["q4_0", "q8_0", "q2_1"]
    first, second, third = board.sentences()
    assert first == "At 0.5 of f16's bytes or less q4_0 (0.0500 nats, 0.250) loses the least."
    assert second.startswith("At 0.25 of f16's bytes or less q4_0") and third.endswith("nothing was measured.")
    assert [[row[0] for row in table.rows] for table in board.tables()] == [["q8_0"], ["q4_0", "q2_1"]]
    assert [cell.task for cell in cells(every, 512)][::3] == ["prose", "passkey", "dictionary", "decode"]
    assert np.isclose(sum(c.share for c in every), 0.95)
