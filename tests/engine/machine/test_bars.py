"""Progress shows bars on a terminal, one line elsewhere, and nothing for what is quick."""

from __future__ import annotations

import io
import re
import sys

import pytest

from pyllm.engine.machine import bars
from pyllm.engine.machine.bars import Bars


class Stderr(io.StringIO):
    """A stderr that is a terminal, or is not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, terminal: bool, patience: float = 0.0) -> None:
        super().__init__()
        self._terminal = terminal
        monkeypatch.setattr(sys, "stderr", self)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "150")
        monkeypatch.setattr(bars, "PATIENCE", patience)
        monkeypatch.setattr(bars, "PATIENCE_LOG", patience)

    def isatty(self) -> bool:
        return self._terminal

    @property
    def text(self) -> str:
        """Return what was written to it, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


def test_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(monkeypatch, terminal=True)
    for calls in (
        [("fetching [a]", 1_000_000, 4_000_000, "2.0 MB/s")],
        [("fetching [a]", 1_000_000, 4_000_000), ("fetching [a]", 9_000_000, 4_000_000)],
        [("waiting", 3, 0), ("waiting", 5_000_000, 0)],  # of unknown length
    ):
        with Bars() as bars:
            for call in calls:
                bars(*call)
    for part in ("fetching [a]", "1/4 MB", "2.0 MB/s", "4/4 MB", "waiting", "5 MB"):
        assert part in stderr.text


def test_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(monkeypatch, terminal=False)
    with Bars() as bars:
        for done in range(3):
            bars("fetching", done, 4_000_000)
            bars("waiting", done, 0)
    assert stderr.text == "pyllm: fetching (4 MB) ...\npyllm: waiting ...\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_quick(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(monkeypatch, terminal=terminal, patience=60.0)
    with Bars() as bars:
        bars("fetching", 1, 2)
        bars("waiting", 1, 0)
    assert stderr.text == ""
