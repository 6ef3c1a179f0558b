"""What this machine offers to the engine: its CPU, caches, limits; measures nothing and needs no Numba."""

from __future__ import annotations

import math
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...kernels.lang import cpu
from . import cgroups

# Instruction sets that make a difference to the kernels, by LLVM's names.
TELLING = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avxvnni", "avx512vnni", "avx512bf16", "amx-int8",
           "amx-bf16", "neon", "dotprod", "i8mm", "sve")  # fmt: skip
CPUS = Path("/sys/devices/system/cpu")


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


@dataclass(frozen=True)
class Cache:
    """A cache of a core's."""

    level: int
    kind: str  # Data, Instruction, Unified
    nbytes: int
    cores: int  # that share it


def caches(cpu: Path = CPUS / "cpu0") -> list[Cache]:
    """Those of a core, the smallest first; none where the system does not tell."""
    found = []
    for folder in sorted(cpu.glob("cache/index*")):
        with suppress(OSError, ValueError):
            text = {name: (folder / name).read_text().strip() for name in ("level", "type", "size")}
            nbytes = int(text["size"].removesuffix("K")) << 10
            found.append(Cache(int(text["level"]), text["type"], nbytes, len(_listed(folder / "shared_cpu_list")) or 1))
    return sorted(found, key=lambda cache: (cache.level, cache.kind))


def _listed(path: Path) -> set[int]:
    """CPUs of a list such as 0-3,8-11; none where nothing is said."""
    with suppress(OSError, ValueError):
        ranges = [part.split("-") for part in path.read_text().strip().split(",")]
        return {cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)}
    return set()


def last_level_cache(cpu: Path = CPUS / "cpu0") -> int:
    """Bytes of the largest cache that the system tells of; 0 where it tells of none."""
    return max((cache.nbytes for cache in caches(cpu)), default=0)


def affinity() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpus(root: Path = CPUS) -> list[int]:
    """CPUs that this process may run on: first one of each physical core."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    taken: list[set[int]] = []  # cores, by their CPUs
    twins: list[int] = []
    for number in allowed:
        if any(number in core for core in taken):
            twins.append(number)
        else:
            taken.append(_listed(root / f"cpu{number}/topology/thread_siblings_list") or {number})
    return [number for number in allowed if number not in twins] + twins


def usable_cores() -> int:
    """Cores that this process may use: by affinity, by its share of time, and physical ones where the system tells."""
    import psutil

    cores = min(affinity(), psutil.cpu_count(logical=False) or affinity())
    quota = cpu_quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time that the control groups of this process allow; None where none has a limit."""
    quotas: list[float] = []
    for folder, version in cgroups.folders("cpu", root):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        with suppress(OSError, ValueError):  # "max" is no number
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if int(quota) > 0:
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
