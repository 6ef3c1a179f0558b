"""Runs cases for a given time in a process of their own, watches it, keeps what it finds, and goes on after a death."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz import corpus
from fuzz.cases import Cases, kind_of
from fuzz.worker import SLOW, STATE

ROOT = Path(__file__).parents[2]
MEMORY = 1_500_000_000  # bytes of the process that runs the cases
START = 900.0  # seconds until it has compiled what most cases need
AGAIN = 3  # how often a case that is too slow is run again: the first time, it may have compiled kernels
KEPT = 3  # findings in one place of which the input is kept


@dataclass
class Verdict:
    """The figures of a run."""

    first: int
    next: int
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, tuple[float, int]] = field(default_factory=dict)
    peak: int = 0
    findings: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """By where they arise: the cases, and what each did."""

    def __str__(self) -> str:
        lines = [f"cases {self.first} to {self.next - 1} in {self.seconds:.0f} s, {sum(self.counts.values()):,} run; "
                 f"peak memory {self.peak >> 20} MiB; findings: {sum(map(len, self.findings.values()))}"]  # fmt: skip
        for kind in sorted({name.split()[0] for name in self.counts}):
            ends = {name.partition(" ")[2]: n for name, n in sorted(self.counts.items()) if name.split()[0] == kind}
            took, number = self.slowest.get(kind, (0.0, 0))
            said = ", ".join(f"{how}: {n:,}" for how, n in ends.items())
            lines.append(f"  {kind:<8} {sum(ends.values()):>9,}  {said}; slowest {took:.2f} s (case {number})")
        for where, found in self.findings.items():
            number, said = found[0]
            lines.append(f"  FINDING  {len(found)} x {where}, first case {number} ({kind_of(number)}): {said}")
        return "\n".join(lines)


class Run:
    """A run over the cases from `first` on."""

    program = ("-m", "fuzz.worker")

    def __init__(self, first: int, last: int, seconds: float, kept: Path, every_cache: bool) -> None:
        """kept: the folder for findings and figures. every_cache: see Cases."""
        self.verdict, self.last, self.left = Verdict(first, first), last, seconds
        self.kept, self.every_cache = kept, every_cache
        self.memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None

    def __call__(self) -> Verdict:
        with tempfile.TemporaryDirectory(prefix="pyllm-fuzz-", dir=self.memory) as name:
            self.folder = Path(name)
            (self.folder / "corpus").mkdir()
            (self.folder / "case").mkdir()
            for _ in corpus.write(self.folder / "corpus"):
                pass
            slow: Counter[int] = Counter()
            while self.verdict.next < self.last and self.left > 0:
                died = self._work()
                if died is None:
                    break
                number, what = died
                slow[number] += 1
                self.verdict.next = number
                if what == "slow" and slow[number] < AGAIN:
                    continue
                what = f"takes more than {SLOW:g} s" if what == "slow" else what
                self._found(number, what, what)
                self.verdict.next = number + 1
            self._figures()
            return self.verdict

    def _work(self) -> tuple[int, str] | None:
        """Run a process until its time is up, which gives None, or it died or was killed: (the case, of what)."""
        (self.folder / "state").write_bytes(STATE.pack(-1, time.monotonic()))
        arguments = [self.folder, self.verdict.next, self.last, self.left, int(self.every_cache)]
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
        with (self.folder / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *self.program, *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment,
            )  # fmt: skip
        try:
            killed = self._watch(process)
        finally:
            process.kill()
            process.wait()
        if killed is None and process.returncode == 0:
            return None
        number, _ = STATE.unpack((self.folder / "state").read_bytes())
        said = (self.folder / "stderr").read_text(errors="replace")[-8000:]
        assert number >= 0, f"the process ends before or after all cases: {said}"
        self.trace = said
        return number, killed or f"the process ends with {process.returncode}"

    def _watch(self, process: subprocess.Popen[bytes]) -> str | None:
        """Read what the process says until it ends; return why it was killed, if it was."""
        assert process.stdout is not None
        ready, begun, rest, limit = False, time.monotonic(), b"", MEMORY
        state, shown, ran, left = self.folder / "state", begun, self.verdict.seconds, self.left
        os.set_blocking(process.stdout.fileno(), False)
        while True:
            select.select([process.stdout], [], [], 0.1)
            chunk = process.stdout.read()
            if chunk == b"":  # it ends
                process.wait(60)
                return None
            *lines, rest = (rest + (chunk or b"")).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "ready" in message:
                    ready, begun = True, time.monotonic()
                self._said(message)
            now = time.monotonic()
            if ready:
                self.left, self.verdict.seconds = left - (now - begun), ran + now - begun
            number, since = STATE.unpack(state.read_bytes())
            if not ready and now - begun > START:
                raise TimeoutError("the process that runs the cases does not get ready")
            if _resident(process.pid) > limit:
                return self._kill(process, f"takes more than {limit / 1e9:g} GB")
            if number >= 0 and now - since > SLOW and STATE.unpack(state.read_bytes()) == (number, since):
                return self._kill(process, "slow")
            if now - shown > 20:
                self._figures()
                shown = now

    def _kill(self, process: subprocess.Popen[bytes], why: str) -> str:
        """End the process, with a word on where it is."""
        process.send_signal(signal.SIGABRT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
        return why

    def _said(self, message: dict[str, Any]) -> None:
        if "finding" in message:
            self.trace = message["trace"]
            self._found(message["number"], message["finding"], message["where"])
        if "counts" in message:
            self.verdict.counts.update(message["counts"])
            self.verdict.next = message["next"]
            self.verdict.peak = max(self.verdict.peak, message["peak"])
            for kind, (took, number) in message["slowest"].items():
                self.verdict.slowest[kind] = max((took, number), self.verdict.slowest.get(kind, (0.0, 0)))

    def _found(self, number: int, what: str, where: str) -> None:
        same = self.verdict.findings.setdefault(where, [])
        same.append((number, what[:500]))
        if len(same) > KEPT:
            return
        self.kept.mkdir(parents=True, exist_ok=True)
        (self.kept / f"{number}.txt").write_text(f"case {number} ({kind_of(number)}): {what}\n\n{self.trace}")
        with contextlib.suppress(Exception):  # damage.py itself is at fault, and the trace says so
            written = Cases(corpus.read(self.folder / "corpus"), self.folder / "case", False).written(number)
            if written is not None:
                shutil.copyfile(written, self.kept / f"{number}.gguf")

    def _figures(self) -> None:
        self.kept.mkdir(parents=True, exist_ok=True)
        (self.kept / "figures.txt").write_text(f"{self.verdict}\n")


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # it has ended
        return 0
