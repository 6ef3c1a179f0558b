"""Which types are advised, from made-up studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from pyllm.engine.advice.choose import advise
from pyllm.engine.advice.study_file import StudyFile, identity, results_of
from pyllm.models.arch.registry import read_config
from pyllm.models.config import Config
from pyllm.models.file.gguf import GGUF


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> GGUF:
    return GGUF.open(tiny.write(tmp_path_factory.mktemp("m") / "m.gguf"))


@pytest.fixture(scope="module")
def config(gguf: GGUF) -> Config:
    return read_config(gguf)


def studied(**losses: dict[str, float]) -> dict[str, Any]:
    """By task: pair -> KLD."""
    return {
        f"score {task} 512 {pair} auto": {"kld_mean": loss, "samples": 2}
        for task, pairs in losses.items()
        for pair, loss in pairs.items()
    }


PROSE = {
    "f16/f16": 0.004,
    "q8_0/q8_0": 0.0045,
    "q8_0/q4_0": 0.009,
    "q4_0/q8_0": 0.04,
    "q4_0/q4_0": 0.05,
    "q4_0/f32": 0.0,
}


def test_the_smallest_that_stays_within_what_is_allowed(config: Config) -> None:
    found = advise(studied(prose=PROSE), config, "chat")
    assert found and str(found.chosen) == "q8_0/q4_0" and found.enough and found.noise == 0.004


def test_a_use_is_judged_by_its_worst_task(config: Config) -> None:
    results = studied(prose=PROSE, passkey={"q8_0/q4_0": 0.3, "q8_0/q8_0": 0.005})
    found = advise(results, config, "long")
    assert found and str(found.chosen) == "q8_0/q8_0" and found.chosen.worst == "passkey at 512 tokens"


def test_where_there_is_no_room_the_least_loss_counts(config: Config) -> None:
    found = advise(studied(prose=PROSE), config, "chat", lambda cache: cache.pair == "q4_0/q4_0")
    assert found and str(found.chosen) == "q4_0/q4_0" and not found.enough
    assert advise(studied(prose=PROSE), config, "chat", lambda cache: False) is None
    assert advise({}, config, "chat") is None


@pytest.mark.parametrize(
    ("key", "result"),
    [
        ("score prose", {"kld_mean": 0.0, "samples": 2}),
        ("score prose 512 q4_0 auto more words", {"kld_mean": 0.0, "samples": 2}),
        ("score prose 512 q9_9/q4_0 auto", {"kld_mean": 0.0, "samples": 2}),
        ("score prose 512 q4_0/q4_0 sometimes", {"kld_mean": 0.0, "samples": 2}),
        ("score prose 512 0-99:q4_0/q4_0 auto", {"kld_mean": 0.0, "samples": 2}),
        *(
            ("score prose 512 q4_0/q4_0 auto", {"kld_mean": loss, "samples": 2})
            for loss in ("x", None, {}, float("nan"))
        ),
        ("score prose 512 q4_0/q4_0 auto", {"samples": 2}),
    ],
)
def test_what_no_study_writes_is_no_advice(config: Config, key: str, result: dict[str, Any]) -> None:
    results = studied(prose={"q8_0/q8_0": 0.0045})
    assert advise({**results, key: result}, config, "chat") == advise(results, config, "chat")


def test_a_study_belongs_to_a_model(gguf: GGUF, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    assert results_of(gguf, path) == {}
    StudyFile(path, {**identity(gguf), "seed": 1}).add(studied(prose=PROSE))
    assert results_of(gguf, path) == studied(prose=PROSE)
    StudyFile(path, {**identity(gguf), "bytes": 1}).add({})
    assert results_of(gguf, path) == {}
    path.write_text("{")
    assert results_of(gguf, path) == {}
