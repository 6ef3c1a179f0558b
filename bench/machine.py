"""What a figure was measured on, and whether the machine had other things to do meanwhile."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from time import monotonic

import psutil

from .. import __version__
from ..kernels import cpu

# Instruction sets that make a difference to the kernels, by LLVM's names.
TELLING = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avxvnni", "avx512vnni", "avx512bf16", "amx-int8",
           "amx-bf16", "neon", "dotprod", "i8mm", "sve")  # fmt: skip
BUSY = 0.05  # of the machine's cores; more of it in other hands is worth a word


def cpu_info() -> str:
    """The CPU's name, which a virtual machine may have made up."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def cpu_features() -> str:
    """What the kernels were compiled for; first the instruction of the int8 dot product."""
    return " ".join([f"dot={cpu.DOT}", *(name for name in TELLING if name in cpu.FEATURES)])


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
