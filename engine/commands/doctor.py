"""`pyllm doctor`: reports what the engine finds on this machine and what would make it faster; runs no model."""

from __future__ import annotations

import json
import os
import platform
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from ... import __version__
from ...kernels.lang import cpu, kept
from ...models.errors import PyllmError
from ..machine import host
from ..machine.fit import free_memory
from ..machine.plain import plain
from ..machine.units import size
from ..store import tuned

LIBRARIES = ("numba", "llvmlite", "numpy", "gguf", "tokenizers", "sentencepiece", "matplotlib")
DOTS = {
    "avx512vnni": "AVX-512 VNNI, 64 products an instruction",
    "avx2": "AVX2, 32 products in two instructions",
    "neon": "NEON sdot, 16 products an instruction",
    "portable": "no special instruction",
}
LITTLE_MEMORY = 2 << 30  # bytes


def run(args: Namespace) -> int:
    """Print the facts as text or JSON; `args.clear` deletes the compiled kernels first."""
    cleared = clear() if args.clear else None
    facts = examine()
    if args.json:
        print(json.dumps(facts if cleared is None else {**facts, "cleared_bytes": cleared}, indent=2))
        return 0
    if cleared is not None:
        print(f"deleted {size(cleared)} of compiled kernels\n")
    width = max(len(name) for name, _ in rows(facts))
    for name, value in rows(facts):
        print(f"{name:<{width}}  {plain(value)}")
    print(
        "", *(f"- {plain(line)}" for line in facts["advice"] or ["nothing that would make pyllm faster here"]), sep="\n"
    )
    return 0


def examine() -> dict[str, Any]:
    """Return all facts as JSON types. Sizes are bytes."""
    free, limit = free_memory()
    folder = kept.root()
    facts = {
        "cpu": {
            "name": host.cpu_info(), "features": [name for name in host.TELLING if name in cpu.FEATURES],
            "dot": cpu.DOT, "amx": cpu.AMX, "half": cpu.HALF, "caches": [vars(cache) for cache in host.caches()],
        },
        "cores": {
            "threads": host.usable_cores(), "physical": psutil.cpu_count(logical=False), "logical": psutil.cpu_count(),
            "affinity": host.affinity(), "quota": host.cpu_quota(), "load": _load(), "clock": _clock(),
        },
        "memory": {"total": int(psutil.virtual_memory().total), "free": free, "limit": limit},
        "kernels": {
            "folder": str(folder), "bytes": nbytes(folder), "states": len(kept.states(folder)),
            "now": len(list(kept.FOLDER.glob("*"))) if kept.FOLDER.is_dir() else 0, "problem": kept.REFUSED,
        },
        "shapes": {fmt: {**vars(best.shape), "gain": best.gain, "measured": best.measured}
                   for fmt, best in tuned.kept().items()},
        "versions": {"pyllm": __version__, "python": platform.python_version(), **dict(_versions())},
        "system": platform.platform(),
        "environment": {name: os.environ[name] for name in ("PYLLM_CACHE", "PYLLM_PORTABLE", "PYLLM_AMX", "PYLLM_TUNE",
                        "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT") if name in os.environ},
    }  # fmt: skip
    return {**facts, "advice": list(advice(facts))}


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts as rows of text: (name, value)."""
    processor, cores, memory, kernels = facts["cpu"], facts["cores"], facts["memory"], facts["kernels"]
    caches = ", ".join(f"L{c['level']} {size(c['nbytes'])}" + (f" for {c['cores']} cores" if c["cores"] > 1 else "")
                       for c in processor["caches"] if c["kind"] != "Instruction")  # fmt: skip
    quota = f", {cores['quota']:g} cores' worth of time by the container's limit" if cores["quota"] else ""
    load = f", load {cores['load']:.1f}" if cores["load"] is not None else ""
    counts = f"{cores['physical'] or '?'} cores ({cores['logical']} logical, {cores['affinity']} allowed)"
    kept_there = f"{size(kernels['bytes'])} in {kernels['states']} versions (--clear deletes them)"
    asked = " ".join(f"{name}={value}" for name, value in facts["environment"].items())
    shapes = ", ".join(f"{fmt} {s['rows']} rows at once, {s['chunk']} a chunk: {s['gain']:.2f} times as fast"
                       for fmt, s in facts["shapes"].items() if s["gain"] > 1)  # fmt: skip
    shapes = shapes or ("the defaults are the fastest here" if facts["shapes"] else "the defaults (see pyllm tune)")
    matrix = "; products of many rows on the matrix unit (AMX)" if processor["amx"] else ""
    return [
        ("CPU", processor["name"]),
        ("features", " ".join(processor["features"]) or "none that pyllm asks for"),
        ("kernels", f"int8 products by {DOTS[processor['dot']]}{matrix}"),
        ("caches", caches or "the system does not tell"),
        ("threads", f"{cores['threads']} of {counts}{quota}{load}"),
        ("memory", f"{size(memory['free'])} free of {size(memory['total'])}, limited by {memory['limit']}"),
        ("compiled", f"{kernels['now']} kernels of this version; {kept_there} in {kernels['folder']}"),
        ("shapes", shapes),
        ("versions", ", ".join(f"{name} {number}" for name, number in facts["versions"].items())),
        ("system", facts["system"]),
        *([("environment", asked)] if asked else []),
    ]  # fmt: skip


def advice(facts: dict[str, Any]) -> Iterator[str]:
    """Yield what would make pyllm faster here, and what may keep it from running."""
    processor, cores, memory, kernels = facts["cpu"], facts["cores"], facts["memory"], facts["kernels"]
    asked = facts["environment"]
    if asked.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        yield "NUMBA_DISABLE_JIT is set: no kernel can be compiled, so no model runs; unset it"
    if asked.get("PYLLM_PORTABLE", "0") not in ("", "0"):
        yield "PYLLM_PORTABLE is set: the slow kernels for any CPU are used; unset it"
    elif "NUMBA_CPU_NAME" in asked or "NUMBA_CPU_FEATURES" in asked:
        yield "NUMBA_CPU_NAME or NUMBA_CPU_FEATURES limits what the kernels may use of this CPU; unset it"
    elif processor["dot"] == "portable":
        yield "this CPU has neither AVX2 nor the int8 products of newer ARM cores: expect a fraction of the usual speed"
    if asked.get("PYLLM_AMX") == "0" and "amx-bf16" in processor["features"]:
        yield "PYLLM_AMX=0 keeps prompts off the matrix unit; unset it"
    physical = cores["physical"] or cores["logical"]
    if cores["affinity"] < physical:
        yield f"only {cores['affinity']} of {physical} cores are allowed (taskset, cpuset): more would be faster"
    if cores["quota"] and cores["quota"] < cores["affinity"]:
        yield (
            f"the container may use {cores['quota']:g} cores' worth of time: threads beyond it are stopped in turns; "
            "raise the limit (docker --cpus), or take as many whole cores as -t says"
        )
    if cores["load"] is not None and cores["load"] > 0.5 * cores["affinity"] + 0.5:
        yield f"other programs keep {cores['load']:.1f} cores busy: pyllm shares cores and memory bus with them"
    if cores["clock"] == "powersave":
        yield "the clock of the cores is held down (governor powersave): cpupower frequency-set -g performance"
    if kernels["problem"]:
        where = f"{kernels['folder']} {kernels['problem']}"
        yield f"compiled kernels are not kept: {where}; set PYLLM_CACHE to another folder"
    elif not kernels["now"]:
        yield "no kernel of this version is compiled yet: the first run of a model compiles its own, once"
    with suppress(OSError):
        folder = next(
            parent for parent in (Path(kernels["folder"]), *Path(kernels["folder"]).parents) if parent.exists()
        )
        if (left := shutil.disk_usage(folder).free) < 256 << 20:
            yield f"{folder} has {size(left)} of disk left: kernels and models need more room"
    if memory["free"] < LITTLE_MEMORY:
        yield f"{size(memory['free'])} of memory are free ({memory['limit']}): few models fit; -ctk q8_0 takes less"


def clear() -> int:
    """Delete the compiled kernels of all versions and return the bytes freed. Raises PyllmError."""
    folder = kept.root()
    before = nbytes(folder)
    try:
        for state in kept.states(folder):
            shutil.rmtree(state)
    except OSError as error:
        raise PyllmError(f"--clear: {folder}: {error.strerror or error}; delete the folder yourself") from None
    return before


def nbytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    with suppress(OSError):
        for parent, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _versions() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def _load() -> float | None:
    """Return the system's load over the last minute; None if it has no such figure."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _clock(cpu: Path = host.CPUS / "cpu0") -> str:
    """Return the clock's governor; "" if the system names none, or a pstate driver gives the name another meaning."""
    with suppress(OSError):
        governor, driver = (
            (cpu / "cpufreq" / f"scaling_{name}").read_text().strip() for name in ("governor", "driver")
        )
        return "" if "pstate" in driver else governor
    return ""
