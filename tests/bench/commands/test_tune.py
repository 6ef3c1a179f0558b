"""`pyllm tune` measures candidates of the kernels that a model needs, keeps the best, and only on an idle machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from pyllm.__main__ import main
from pyllm.bench.commands import tune
from pyllm.bench.machine import tournament
from pyllm.engine.store import tuned
from pyllm.kernels.lang import cpu
from pyllm.kernels.ops import linear
from pyllm.kernels.shapes import Shape

pytestmark = pytest.mark.skipif(cpu.AMX, reason="products of many rows are done on the matrix unit")


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure little, keep it in a folder of the test's, and let nobody else be busy."""
    monkeypatch.delenv("PYLLM_TUNE", raising=False)
    monkeypatch.setattr(tuned.sources, "cache_folder", lambda: tmp_path / "cache")
    for name, value in {"AT_ONCE": (2, 4), "CHUNKS": (16,), "ROUNDS": 2, "SECONDS": 1e-6}.items():
        monkeypatch.setattr(tournament, name, value)
    monkeypatch.setattr(tune, "_others", lambda: 0.0)
    monkeypatch.setattr(tune.Conditions, "warnings", lambda self: iter(()))


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(tiny.write(tmp_path / "m.gguf", types="q4_0", n_embd=192, n_head=6, n_head_kv=2))


def test_the_winner_is_kept(model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {Shape(4, 32): 2.0, Shape(4, 16): 1.0}
    monkeypatch.setattr(tournament, "_times", lambda fmt, ops, shapes, *_: {s: seconds.get(s, 3.0) for s in shapes})
    assert main(["tune", model, "-t", "1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["formats"]
    assert (found["format"], found["rows"], found["chunk"], found["gain"]) == ("q4_0", 4, 16, 3.0)
    assert tuned.shapes() == {"q4_0": Shape(4, 16)}
    assert main(["doctor"]) == 0
    assert "q4_0 4 rows at once, 16 a chunk: 3.00 times as fast" in capsys.readouterr().out
    assert main(["tune", "--clear"]) == 0 and tuned.shapes() == {}


def test_what_is_no_faster_loses_to_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tournament, "_times", lambda fmt, ops, shapes, *_: {s: 1 - s.rows / 1000 for s in shapes})
    won = tournament.compete("q4_0", [], 64, None)  # type: ignore[arg-type]
    assert won.shape == linear.SHAPE and won.gain == 1.0


def test_measuring_for_real(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", model, "-t", "2"]) == 0
    out = capsys.readouterr().out
    assert "q4_0" in out and "rows at once" in out
    assert set(tuned.kept()) == {"q4_0"} and np.isfinite(tuned.kept()["q4_0"].gain)


def test_a_busy_machine_is_refused(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "_others", lambda: 0.4)
    assert main(["tune", model]) == 1
    assert "other programs take 40% of this machine" in capsys.readouterr().err
    monkeypatch.setattr(tune, "_others", lambda: 0.0)
    monkeypatch.setattr(tune.Conditions, "warnings", lambda self: iter(["somebody was busy"]))
    assert main(["tune", model, "-t", "1"]) == 0
    assert "somebody was busy; nothing is kept" in capsys.readouterr().err
    assert not tuned.kept()


def test_turned_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLLM_TUNE", "0")
    assert main(["tune"]) == 2
    assert "PYLLM_TUNE=0" in capsys.readouterr().err
