"""The roofs of a made-up machine, in round figures."""

from __future__ import annotations

from pyllm.bench.machine import roofs
from pyllm.kernels.roofs import peak

GIVEN = roofs.Roofs(
    machine="", cpu="a CPU", measured="2026-01-01", last_level_cache=1 << 20, spread=0.02,
    streams={kind: {1: {1 << 10: 80e9, 1 << 20: 40e9, 1 << 30: 10e9}, 4: {1 << 30: 30e9}} for kind in roofs.ARRAYS},
    peaks={path: {1: 50e9, 4: 200e9} for path in peak.PATHS},
)  # fmt: skip
