"""The chat in a terminal of its own: words wrap at its edge, keys arrive, whatever the terminal can do."""

from __future__ import annotations

import os
import re
import select
import struct
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import tiny

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

import fcntl
import pty
import termios

ROOT = Path(__file__).parents[3]
REPLY = " ".join(f"word{i}" for i in range(12))
PROGRAM = """
import sys
import pytest, fake_llm
fake_llm.install(pytest.MonkeyPatch()).reply = {reply!r}
from pyllm.__main__ import main
sys.exit(main(["run", {model!r}]))
"""


def screen(model: Path, columns: int, keys: list[str], term: str, state: Path) -> tuple[str, int]:
    """Return all that a chat wrote to a terminal of this width, without control sequences, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
        environment = {**os.environ, "PYTHONPATH": paths, "TERM": term, "XDG_STATE_HOME": str(state)}
        environment.pop("COLUMNS", None)
        program = PROGRAM.format(reply=REPLY, model=str(model))
        os.execve(sys.executable, [sys.executable, "-c", program], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    raw, new, end = b"", False, time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.3)[0]:
            if b">" in raw and new and keys:
                os.write(terminal, keys.pop(0).encode())
                new = False
            continue
        try:
            got = os.read(terminal, 1 << 16)
        except OSError:  # on Linux, the end
            break
        if not got:
            break
        raw, new = raw + got, True
        if b"\x1b[6n" in got:  # where is the cursor?
            os.write(terminal, b"\x1b[1;1R")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.decode()).replace("\r", ""), os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize(("term", "enter"), [("xterm", "\r"), ("dumb", "\n")])
def test_words_wrap_at_the_windows_edge(columns: int, term: str, enter: str, tmp_path: Path) -> None:
    keys = [f'"""two{enter}', f'lines"""{enter}', f"/bye{enter}"]
    out, code = screen(tiny.write(tmp_path / "tiny.gguf"), columns, keys, term, tmp_path)
    assert code == 0
    lines = [line.rstrip() for line in out.splitlines() if re.fullmatch(r"(word\d+ ?)+", line)]
    assert " ".join(lines) == REPLY and max(map(len, lines)) <= columns
    for line, after in pairwise(lines):
        assert len(line) + 1 + len(after.split()[0]) > columns
