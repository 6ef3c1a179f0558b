"""The roofs of a machine: measured, kept, checked, read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from given_roofs import GIVEN

from pyllm.bench.machine import roofs
from pyllm.kernels.roofs import peak


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofs, "WORK", 1 << 20)
    monkeypatch.setattr(roofs, "TRIES", 2)
    monkeypatch.setattr(roofs, "PEAK_SECONDS", 1e-4)
    monkeypatch.setattr(roofs, "buffer_bytes", lambda: 1 << 20)


def test_measured_kept_and_read_again(tmp_path: Path) -> None:
    steps: list[Any] = []
    found = roofs.measure(3, lambda *step: steps.append(step), largest=1 << 20)
    assert found.threads == [1, 2, 3] == roofs.thread_counts(3) and steps
    for curves in found.streams.values():
        assert all(max(curve) == 1 << 20 and min(curve.values()) > 1e6 for curve in curves.values())
        assert min(curves[2]) == 2 * roofs.SMALLEST
    assert set(found.peaks) == set(peak.PATHS)
    assert all(rate > 1e6 for curve in found.peaks.values() for rate in curve.values())
    assert 0 <= found.spread < 1
    assert roofs.keep(found, tmp_path) == "" and roofs.kept(tmp_path) == found
    columns, rows = roofs.table(found, "read")
    assert columns == ["read: bytes", "1 thread", "2 threads", "3 threads"]
    assert {len(row) for row in rows} == {4} and rows[-1][0] == "1.0 MiB"


@pytest.mark.parametrize("kind", roofs.ARRAYS)
@pytest.mark.parametrize("nbytes", [48 << 10, 6 << 20])
def test_a_plan_moves_what_it_says(kind: str, nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofs, "OWN", 1 << 20)
    plan, moved = roofs._stream(kind, roofs.aligned(nbytes), nbytes, 2)
    done = [int(op.args["chunk"][0]) * op.items * int(op.args["passes"][0]) * roofs.ARRAYS[kind] for op in plan.ops]
    assert sum(done) == moved >= roofs.WORK
    last = plan.ops[0]
    end = last.items * int(last.args["chunk"][0])
    assert end <= nbytes // roofs.ARRAYS[kind] and (kind == "read" or int(last.args["apart"][0]) >= end)


def test_between_what_was_measured() -> None:
    assert GIVEN.bandwidth(1, 1 << 20) == 40e9 and GIVEN.bandwidth(1) == 10e9 and GIVEN.bandwidth(1, 0) == 80e9
    assert GIVEN.bandwidth(1, 1 << 15) == pytest.approx(60e9) and GIVEN.bandwidth(2) == pytest.approx(50e9 / 3)
    assert GIVEN.peak("f32", 2) == 100e9 and GIVEN.peak("f32", 64) == 200e9


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"machine": 3', '{"streams": {"read": 4}, "peaks": {}}'])
def test_what_is_damaged_is_measured_again(damage: str, tmp_path: Path) -> None:
    kept = replace(GIVEN, machine=roofs.machine())
    assert roofs.kept(tmp_path) is None and roofs.keep(kept, tmp_path) == "" and roofs.kept(tmp_path) == kept
    raw = json.loads(roofs.path(tmp_path).read_text())
    del raw["peaks"]["f32"]
    for text in (damage, json.dumps(raw), json.dumps({**raw, "machine": "another"})):
        roofs.path(tmp_path).write_text(text)
        assert roofs.kept(tmp_path) is None


@pytest.mark.parametrize("bad", [{}, {"0": 1e9}, {"1": 10**400}, {"1": -1.0}, {"1": float("inf")}, {"1": "fast"}, [1]])
def test_figures_that_nobody_measured(bad: Any, tmp_path: Path) -> None:
    kept = replace(GIVEN, machine=roofs.machine())
    assert roofs.keep(kept, tmp_path) == ""
    raw = json.loads(roofs.path(tmp_path).read_text())
    streams = raw["streams"]
    for changed in (
        {"peaks": raw["peaks"] | {"f32": bad}},
        {"streams": streams | {"read": bad}},
        {"streams": streams | {"read": {"1": bad}}},
        {"spread": bad},
        {"last_level_cache": next(iter(bad.values()), bad) if isinstance(bad, dict) and "1" in bad else bad},
    ):
        roofs.path(tmp_path).write_text(json.dumps(raw | changed, indent=1))
        assert roofs.kept(tmp_path) is None, changed


def test_a_quick_check_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    measured: list[int] = []

    def measure(most: int, progress: Any) -> roofs.Roofs:
        measured.append(most)
        return replace(GIVEN, machine=roofs.machine())

    def get(most: int, drift: float = 0.0, *, again: bool = False, folder: Path = tmp_path) -> roofs.Roofs:
        monkeypatch.setattr(roofs, "check", lambda roofs, team: drift)
        return roofs.of_this_machine(most, folder, lambda *step: None, said.append, again=again)

    monkeypatch.setattr(roofs, "measure", measure)
    assert get(4) == get(4) == get(2, 0.09) and measured == [4] and not said
    get(4, 0.2)
    assert measured == [4, 4] and "differs by 20%" in said[0]
    get(4, again=True)
    get(5)
    assert measured == [4, 4, 4, 5], "asked for, and more threads than were measured"
    (tmp_path / "file").write_text("")
    get(4, folder=tmp_path / "file")
    assert "cannot be written" in said[-1] and len(said) == 2


def test_a_check_measures() -> None:
    team = roofs.Team(2)
    assert roofs.check(roofs.measure(2, largest=1 << 20), team) >= 0
    team.close()


def test_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(roofs.warnings(GIVEN)) == []
    assert "noisy" in next(roofs.warnings(replace(GIVEN, spread=0.3)))
    assert "has no room" in next(roofs.warnings(replace(GIVEN, last_level_cache=1 << 30)))
