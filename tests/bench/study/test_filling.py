"""Order and budget of `pyllm study kv`: by a clock that only the cells move; no model is run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.bench.study import filling
from pyllm.bench.study.cells import Cell, Options, cells, first_look
from pyllm.bench.study.pace import Pace, work
from pyllm.engine.advice.study_file import StudyFile
from pyllm.models.cache.spec import CacheSpec

CONFIG: Any = SimpleNamespace(n_ctx_train=8192, n_layer=3)
TYPES = ("f16", "q8_0", "q5_1", "q4_1", "iq4_nl", "q4_0")


class Clock:
    """A study whose cells take as many seconds as a rule says."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, path: Path, tokens: dict[str, float], noise: list[float]
    ) -> None:
        self.now, self.order, self._tokens, self._noise = 0.0, list[Cell](), tokens, noise
        self.study = StudyFile(path, {})
        self.study.add = self.study.results.update  # type: ignore[method-assign]  # nothing is written
        monkeypatch.setattr(filling, "monotonic", lambda: self.now)
        monkeypatch.setattr(filling, "prepare", lambda bench, group: self.took(0.1 * len(group)))
        monkeypatch.setattr(filling, "measure", self._measured)
        monkeypatch.setattr(filling, "groups", lambda bench, cells: iter(alike(cells)))

    def took(self, seconds: float) -> None:
        self.now += seconds * self._noise[len(self.order) % len(self._noise)]

    def _measured(self, bench: Any, group: list[Cell]) -> dict[str, dict[str, float]]:
        self.took(self._tokens[group[0].measure] * work(group))
        self.order += group
        return {cell.key: {"kld_mean": 0.1} for cell in group}

    def fill(self, budget: float) -> None:
        options = Options(TYPES, (512, 4096), ("auto", "none"))
        filling.fill_cells(None, lambda r: cells(options, CONFIG, {}), self.study, budget, lambda *_: None)  # type: ignore[arg-type]


def alike(cells: list[Cell]) -> list[list[Cell]]:
    """Return the cells in groups of up to 8 neighbours of a kind."""
    found: list[list[Cell]] = []
    for cell in cells:
        kind = (cell.measure, cell.task, cell.context, cell.fast, cell.few)
        last = found[-1][0] if found else None
        if last is None or kind != (last.measure, last.task, last.context, last.fast, last.few) or len(found[-1]) == 8:
            found.append([])
        found[-1].append(cell)
    return found


@settings(max_examples=30)
@given(
    seconds=st.lists(st.floats(1e-5, 2e-3), min_size=3, max_size=3),
    noise=st.lists(st.floats(0.95, 1.05), min_size=1, max_size=5),
    budget=st.floats(60, 3600),
)
def test_the_budget_is_kept(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[float], noise: list[float], budget: float
) -> None:
    """Whatever a token takes, if a cell is a small part of the budget; all of it is used while cells remain."""
    score, inner, free = seconds
    tokens = {"score": score, "layer": score, "attention": 4 * inner, "norms": 4 * inner, "generate": 20 * free}
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch, tmp_path_factory.getbasetemp() / "none.json", tokens, noise)
        first = Cell("score", "prose", 512, CacheSpec())
        clock.fill(budget)
        whole = len(clock.order) == len(
            {c.key for c in cells(Options(TYPES, (512, 4096), ("auto", "none")), CONFIG, {})}
        )
        slack = 0.05 * budget + (score + 4 * inner + 20 * free) * 4096 * 8  # a first cell of a kind is a guess
        assert clock.now <= budget + slack
        assert whole or clock.now >= budget - slack - 4 * 2 * score * work([first])


def test_a_slow_model_begins_with_a_single_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, tmp_path / "none.json", {"score": 0.02}, [1.0])
    clock.fill(30.0)
    assert [cell.cache for cell in clock.order] == [CacheSpec("f16", "f16")] and clock.now < 30


def test_what_comes_first() -> None:
    look = list(first_look(Options(TYPES, (512,), ("auto", "none")), CONFIG, {}))
    assert all(cell.few and cell.samples == 1 for cell in look)
    pairs = {(cell.cache.k, cell.cache.v) for cell in look}
    assert pairs == {(k, v) for k in ("f16", "q8_0", "q4_0", "f32") for v in ("f16", "q8_0", "q4_0", "f32")} - {
        ("f32", "f32"), ("f16", "f32"), ("f32", "f16")
    }  # fmt: skip
    assert {cell.task for cell in look} == {"prose", "passkey"} and {cell.context for cell in look} == {512, 1024, 2048}
    known = {cell.key.removesuffix(" few"): {} for cell in look}
    assert not list(first_look(Options(TYPES, (512,), ("auto", "none")), CONFIG, known)), "the whole cells are known"


@pytest.mark.parametrize(
    ("types", "lead"),
    [
        (TYPES, ["f16", "q8_0", "q4_0"]),
        (("f16", "q4_0"), ["f16", "q4_0"]),
        (("f16", "q8_0", "turbo3"), ["f16", "q8_0", "turbo3"]),
        (("f16", "q5_1", "q4_1", "iq4_nl"), ["f16", "q5_1", "iq4_nl"]),
        (("f16",), ["f16"]),
    ],
)
def test_other_types_take_the_place_of_those_that_are_not_studied(types: tuple[str, ...], lead: list[str]) -> None:
    options = Options(types, (512,), ("auto",))
    assert options.lead() == lead
    every = [cell.key for cell in cells(options, CONFIG, {})]
    assert f"score prose 512 {lead[-1]}/{lead[-1]} auto few" in every


def test_a_pace_takes_the_worse_of_the_last_two() -> None:
    cell, pace = Cell("score", "prose", 512, CacheSpec()), Pace()
    assert pace.predicted([cell]) == 0 and pace.fitting([cell, cell], 1.0) == [cell], "nothing is known"
    for seconds in (9.0, 2.0, 1.0):
        pace.learn([cell], 0.5, seconds)
    assert pace.predicted([cell]) == pytest.approx(2.5)
    assert pace.predicted([cell] * 3) == pytest.approx(2 * 2.0 + 1.5)
    assert pace.fitting([cell] * 3, 5.0) == [cell] * 2 and pace.fitting([cell], 2.0) == []
