"""What a figure was measured on, and whether the machine had other things to do meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic

import psutil

from ... import __version__
from ...engine.machine import host
from ...engine.machine.host import CPUS

STOLEN = 0.01  # of the cores' time
BUSY = 0.05  # of the machine's cores; more of it in other hands is worth a word


def build() -> str:
    """The commit, if this is a checkout, else the version."""
    with suppress(OSError, subprocess.SubprocessError):
        root = Path(__file__).resolve().parents[2]
        if (root / ".git").exists():
            command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=9"]
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return __version__


class Others:
    """The share of the machine that other programs took since this was made."""

    def __init__(self) -> None:
        self._since, self._busy = monotonic(), self._others()

    @staticmethod
    def _others() -> float:
        """Seconds of CPU that were neither idle nor ours; a hypervisor's are among them."""
        times = psutil.cpu_times()._asdict()
        names = ("user", "nice", "system", "irq", "softirq", "steal")
        own = psutil.Process().cpu_times()._asdict()
        ours = ("user", "system", "children_user", "children_system")
        return float(sum(times.get(name, 0.0) for name in names) - sum(own.get(name, 0.0) for name in ours))

    def share(self) -> float:
        """From 0 to 1."""
        elapsed = (monotonic() - self._since) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, (self._others() - self._busy) / elapsed)) if elapsed else 0.0


class Conditions:
    """What else happened on this machine since this was made, as far as it spoils figures."""

    def __init__(self) -> None:
        self._others, self._since = Others(), monotonic()
        self._steal, self._throttled = _steal(), throttled()

    def warnings(self) -> Iterator[str]:
        if (quota := host.cpu_quota()) is not None and quota < host.affinity():
            yield f"the container may use {quota:g} cores' worth of time: threads are stopped in turns to keep to it"
        if (share := self._others.share()) > BUSY:
            yield f"other programs took {share:.0%} of this machine meanwhile; a quiet one gives other figures"
        elapsed = (monotonic() - self._since) * (psutil.cpu_count() or 1)
        if elapsed and (share := (_steal() - self._steal) / elapsed) > STOLEN:
            yield f"the hypervisor took {share:.1%} of the cores' time for others (steal)"
        if (times := throttled() - self._throttled) > 0:
            yield f"the cores were throttled {times} times meanwhile: they were too hot for their clock"


def _steal() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def throttled(cpus: Path = CPUS) -> int:
    """How often cores were slowed down for their heat, since the machine was started; 0 where nobody tells."""
    count = 0
    for path in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        with suppress(OSError, ValueError):
            count += int(path.read_text())
    return count
