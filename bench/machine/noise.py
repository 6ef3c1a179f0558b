"""The build that was measured, and what else kept the machine busy meanwhile."""

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

STOLEN = 0.01  # of the cores' time, taken by the hypervisor
BUSY = 0.05  # of the cores' time; if other programs take more, a warning says so


def build() -> str:
    """Return the commit if this is a checkout, else the version."""
    with suppress(OSError, subprocess.SubprocessError):
        root = Path(__file__).resolve().parents[2]
        if (root / ".git").exists():
            command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=9"]
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return __version__


class Others:
    """Measures the share of the machine that other programs take, from when it is made."""

    def __init__(self) -> None:
        self._since, self._busy = monotonic(), self._others()

    @staticmethod
    def _others() -> float:
        """Return the seconds of CPU that were neither idle nor ours; those stolen by a hypervisor are included."""
        times = psutil.cpu_times()._asdict()
        names = ("user", "nice", "system", "irq", "softirq", "steal")
        own = psutil.Process().cpu_times()._asdict()
        ours = ("user", "system", "children_user", "children_system")
        return float(sum(times.get(name, 0.0) for name in names) - sum(own.get(name, 0.0) for name in ours))

    def share(self) -> float:
        """Return the share, from 0 to 1, since this was made."""
        elapsed = (monotonic() - self._since) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, (self._others() - self._busy) / elapsed)) if elapsed else 0.0


class Conditions:
    """Watches, from when it is made, for what else happens on this machine and spoils figures."""

    def __init__(self) -> None:
        self._others, self._since = Others(), monotonic()
        self._steal, self._throttled = _steal(), throttled()

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each thing that spoiled figures since this was made."""
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
    """Return how often cores were slowed down for their heat since boot; 0 where the system does not say."""
    count = 0
    for path in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        with suppress(OSError, ValueError):
            count += int(path.read_text())
    return count
