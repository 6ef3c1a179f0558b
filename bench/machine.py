"""What a figure was measured on, and whether the machine had other things to do meanwhile."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from time import monotonic

import psutil

from .. import __version__

BUSY = 0.05  # of the machine's cores; more of it in other hands is worth a word


def build() -> str:
    """The commit, if this is a checkout, else the version."""
    with suppress(OSError, subprocess.SubprocessError):
        root = Path(__file__).resolve().parents[1]
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
