"""Ctrl-C ends code that does not react to it: compiled code that runs for a minute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "src"
# pbkdf2_hmac stands for a step of a large model: seconds in C, without the GIL, deaf to signals.
PROGRAM = """
import hashlib, signal, sys, threading, time
from pyllm.engine.chat import interrupt
interrupt.PATIENCE = 0.2
deaf, presses, length = sys.argv[1] == "deaf", int(sys.argv[2]), 40_000_000
pressed = []
signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
with interrupt.impatient(presses):
    print("ready", flush=True)
    if deaf:
        hashlib.pbkdf2_hmac("sha256", b"", b"", length)
    while len(pressed) < presses:
        time.sleep(0.01)
time.sleep(0.5)
sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize(
    ("ears", "presses", "code"), [("deaf", 1, 130), ("deaf", 2, 130), ("open", 1, 7), ("open", 2, 7)]
)
def test_impatient(ears: str, presses: int, code: int) -> None:
    """A process that handles Ctrl-C continues; one that does not is ended, but not before PATIENCE is over."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, ears, str(presses)],
        env=os.environ | {"PYTHONPATH": str(SOURCES)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    for _ in range(presses):
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        time.sleep(0.4)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code and err == b""
