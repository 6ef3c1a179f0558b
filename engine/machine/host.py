"""The CPU, caches and limits of this machine; measures nothing and needs no Numba."""

from __future__ import annotations

import math
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...kernels.lang import cpu
from . import cgroups

# Instruction sets that matter to the kernels, by LLVM's names.
TELLING = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avxvnni", "avx512vnni", "avx512bf16", "amx-int8",
           "amx-bf16", "neon", "dotprod", "i8mm", "sve")  # fmt: skip
CPUS = Path("/sys/devices/system/cpu")


def cpu_info() -> str:
    """Return the CPU's name, which a virtual machine may have made up."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def cpu_features() -> str:
    """Return what the kernels are compiled for: the int8 dot product's instruction, then the CPU's features."""
    return " ".join([f"dot={cpu.DOT}", *(name for name in TELLING if name in cpu.FEATURES)])


@dataclass(frozen=True)
class Cache:
    """One cache of a core."""

    level: int
    kind: str  # Data, Instruction, Unified
    nbytes: int
    cores: int  # how many CPUs share it


def caches(cpu: Path = CPUS / "cpu0") -> list[Cache]:
    """Return the caches of a core by level; empty if the system does not list them."""
    found = []
    for folder in sorted(cpu.glob("cache/index*")):
        with suppress(OSError, ValueError):
            text = {name: (folder / name).read_text().strip() for name in ("level", "type", "size")}
            nbytes = int(text["size"].removesuffix("K")) << 10
            found.append(Cache(int(text["level"]), text["type"], nbytes, len(_listed(folder / "shared_cpu_list")) or 1))
    return sorted(found, key=lambda cache: (cache.level, cache.kind))


def _listed(path: Path) -> set[int]:
    """Return the CPUs in a file with a list such as 0-3,8-11; empty if it cannot be read."""
    with suppress(OSError, ValueError):
        ranges = [part.split("-") for part in path.read_text().strip().split(",")]
        return {cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)}
    return set()


def last_level_cache(cpu: Path = CPUS / "cpu0") -> int:
    """Return the bytes of the largest cache; 0 if the system lists none."""
    return max((cache.nbytes for cache in caches(cpu)), default=0)


def affinity() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpus(root: Path = CPUS) -> list[int]:
    """Return the CPUs that this process may run on, one of each physical core first."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    taken: list[set[int]] = []  # the CPUs of each core that has one in the list
    twins: list[int] = []
    for number in allowed:
        if any(number in core for core in taken):
            twins.append(number)
        else:
            taken.append(_listed(root / f"cpu{number}/topology/thread_siblings_list") or {number})
    return [number for number in allowed if number not in twins] + twins


def usable_cores() -> int:
    """Return how many physical cores this process may use, by its affinity and its share of CPU time."""
    import psutil

    cores = min(affinity(), psutil.cpu_count(logical=False) or affinity())
    quota = cpu_quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return how many CPUs' time the control groups of this process allow; None if there is no limit."""
    quotas: list[float] = []
    for folder, version in cgroups.folders("cpu", root):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        with suppress(OSError, ValueError):  # "max" is not a number: no limit
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if int(quota) > 0:
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
