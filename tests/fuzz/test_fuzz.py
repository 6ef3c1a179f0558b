"""A run over damaged files: pytest -m fuzz --seconds 600 --findings FOLDER. See CONTRIBUTING.md, "Fuzz"."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from fuzz.runner import Run


@pytest.mark.fuzz
@pytest.mark.skipif(sys.platform != "linux", reason="watches a process as Linux allows it")
def test_nothing_but_our_own_errors(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = request.config.getoption
    first, cases, seconds, folder = map(option, ("--seed", "--cases", "--seconds", "--findings"))
    last = first + cases if cases else sys.maxsize
    verdict = Run(first, last, seconds, Path(folder) if folder else tmp_path, every_cache=seconds > 60 or cases > 0)()
    if folder:
        with capsys.disabled():
            print(f"\n{verdict}")
    assert not verdict.findings, f"{verdict}\ninputs: {folder or tmp_path}{os.sep}"
    assert sum(verdict.counts.values())
