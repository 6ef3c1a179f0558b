"""The shapes of kernels that are the fastest on this machine: `pyllm tune` keeps them, a model takes them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ...kernels.shapes import Shape
from ..machine import host
from . import ours, sources

VERSION = 1  # of the file and of the kernels whose shapes it has
BEGINS = b'{\n "tuned": "'


@dataclass(frozen=True)
class Best:
    """The best shape of the products with weights of one format."""

    shape: Shape
    gain: float  # times as fast as the default shape
    measured: str  # when, in UTC


def off() -> bool:
    """Return whether PYLLM_TUNE turns kept shapes off."""
    return os.environ.get("PYLLM_TUNE", "1") == "0"


def path() -> Path:
    """Return the file for this CPU, these caches and this instruction set."""
    said = [VERSION, host.cpu_info(), host.cpu_features(), [vars(cache) for cache in host.caches()]]
    name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    return sources.cache_folder() / "machine" / f"shapes-{name}.json"


def kept() -> dict[str, Best]:
    """Return what is kept for this machine, by format; nothing if there is no file or it is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raw = json.loads(ours.read(path(), begins=BEGINS))
        found = {}
        for fmt, best in raw["best"].items():
            shape = Shape(int(best["shape"]["rows"]), int(best["shape"]["chunk"]))
            if not shape.valid or not 0 < float(best["gain"]) < 1000:
                raise ValueError("a shape that nobody measured")
            found[str(fmt)] = Best(shape, float(best["gain"]), str(best["measured"])[:40])
        return found
    return {}


def keep(found: Mapping[str, Best]) -> None:
    """Add what was measured to what is kept; raises OSError."""
    best = {fmt: asdict(b) for fmt, b in sorted({**kept(), **found}.items())}
    ours.write(path(), json.dumps({"tuned": host.cpu_info(), "best": best}, indent=1).encode(), BEGINS)


def clear() -> bool:
    """Delete what is kept for this machine; return whether there was any. Raises OSError."""
    there = path()
    ours.check(there, BEGINS)
    existed = there.exists()
    there.unlink(missing_ok=True)
    return existed


def shapes() -> dict[str, Shape]:
    """Return the shapes that a model takes, by format; those that are missing have the default."""
    return {} if off() else {fmt: best.shape for fmt, best in kept().items()}
