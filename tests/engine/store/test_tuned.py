"""Shapes that were measured are found again and taken by models, and never change a result."""

from __future__ import annotations

import json
from pathlib import Path

import architectures
import numpy as np
import pytest

from pyllm.engine.llm import LLM
from pyllm.engine.store import tuned
from pyllm.engine.store.tuned import Best
from pyllm.kernels.lang import cpu
from pyllm.kernels.shapes import Shape

FOUND = {"q4_0": Best(Shape(3, 48), 1.25, "2026-11-25T20:00:00Z"), "f16": Best(Shape(8, 32), 1.0, "")}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of this machine, in a folder of the test's."""
    monkeypatch.delenv("PYLLM_TUNE", raising=False)
    monkeypatch.setattr(tuned.sources, "cache_folder", lambda: tmp_path)
    return tuned.path()


def test_kept_and_cleared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuned.kept() == {} and tuned.shapes() == {}
    tuned.keep(FOUND)
    assert tuned.kept() == FOUND and tuned.shapes() == {"q4_0": Shape(3, 48), "f16": Shape(8, 32)}
    tuned.keep({"f16": Best(Shape(4, 64), 1.1, "later")})
    assert tuned.shapes() == {"q4_0": Shape(3, 48), "f16": Shape(4, 64)}
    monkeypatch.setenv("PYLLM_TUNE", "0")
    assert tuned.off() and tuned.shapes() == {}
    assert tuned.clear() and not path.exists() and not tuned.clear()


@pytest.mark.parametrize("shape", [Shape(0, 32), Shape(17, 34), Shape(4, 33), Shape(4, 2), Shape(4, 1 << 20)], ids=str)
def test_shapes_that_kernels_have_no_room_for_are_not_taken(path: Path, shape: Shape) -> None:
    tuned.keep({"q4_0": Best(shape, 1.0, "")})
    assert tuned.kept() == {}


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{\n "tuned": "x", "best": 3}', b'{\n "tuned": "x", "best": {"f16": {}}}']
)
def test_a_damaged_file_counts_as_none(path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    assert tuned.kept() == {}


def test_a_file_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps({"mine": 1}))
    with pytest.raises(OSError, match="holds something else"):
        tuned.clear()
    assert path.exists()


@pytest.mark.skipif(cpu.AMX, reason="products of many rows are done on the matrix unit")
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_model_takes_them_and_its_logits_do_not_change(path: Path, tmp_path: Path, name: str) -> None:
    model = architectures.write(tmp_path, name, "mixed")

    def logits(tune: bool) -> tuple[set[str], np.ndarray]:
        with LLM(model, n_ctx=256, n_threads=2, n_batch=37, tune=tune) as llm:
            session = llm.session()
            first = session.prefill([i % 50 + 3 for i in range(100)])
            return {kernel.name for kernel in llm.model.last.kernels}, first.copy()

    names, expected = logits(True)
    formats = {kernel.split("linear_")[1].rsplit("_x", 1)[0] for kernel in names if kernel.startswith("linear_")}
    tuned.keep({fmt: Best(Shape(3, 6), 1.1, "") for fmt in formats})
    taken, found = logits(True)
    assert {f"linear_{fmt}_x3" for fmt in formats} <= taken
    np.testing.assert_array_equal(found, expected)
    assert logits(False)[0] == names
