"""The runner finds what it is made to find: foreign errors, deaths, hangs and too much memory, and goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fuzz import runner
from fuzz.cases import Cases, seeded
from fuzz.corpus import read, write
from fuzz.damage import head_damaged
from fuzz.parts import Reader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches a process as Linux allows it")

BAD = """
import os, sys, time
from pathlib import Path
from fuzz import worker

class Bad:
    def __init__(self, *given): pass
    def warm(self): pass
    def run(self, number):
        if number == 3:
            os._exit(7)
        if number == 5:
            time.sleep(60)
        if number == 7:
            bytearray(range(256)) * (1 << 21)
            time.sleep(60)
        if number == 9:
            raise KeyError("foreign")
        return "answered"

worker.Cases = Bad
worker.main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), False)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    assert len(list(write(folder))) > 40
    return folder


def test_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SLOW", 1.0)
    monkeypatch.setattr(runner, "MEMORY", 300 << 20)
    monkeypatch.setattr(runner.Run, "program", ("-c", BAD))
    verdict = runner.Run(0, 20, 60, tmp_path, False)()
    found = {number: said for same in verdict.findings.values() for number, said in same}
    assert found == {
        3: "the process ends with 7",
        5: "takes more than 1 s",
        7: "takes more than 0.314573 GB",
        9: "KeyError: 'foreign'",
    }
    assert verdict.next == 20 and {f"{n}.txt" for n in found} <= {path.name for path in tmp_path.iterdir()}
    assert "in run" in (tmp_path / "5.txt").read_text(), "where it hangs"


def test_a_case_is_its_number(corpus: Path, tmp_path: Path) -> None:
    cases = Cases(read(corpus), tmp_path, False)
    for number in range(40):
        path = cases.written(number)
        assert path is None or path.read_bytes() == cases.written(number).read_bytes()  # type: ignore[union-attr]


def test_parts_make_the_same_file_again(corpus: Path) -> None:
    for model in read(corpus):
        reader = Reader(model.raw)
        assert reader.parts.raw() == model.raw
        assert head_damaged(seeded(1), model) == head_damaged(seeded(1), model)
