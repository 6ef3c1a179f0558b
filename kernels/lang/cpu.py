"""What the CPU can do, read once and by feature, because virtual machines lie about a CPU's name.

Features are those that Numba compiles for. A user may narrow them: NUMBA_CPU_NAME=haswell gives the AVX2 kernels on a
newer CPU, and PYLLM_PORTABLE=1 gives the kernels that use no special instruction at all.
"""

from __future__ import annotations

import ctypes
import os
import sys

import llvmlite.binding as llvm

# The features that LLVM derives from a CPU's name, as far as the kernels use them: names that tests and users force.
_NAMED = {
    "haswell": "avx2 fma f16c",
    "x86-64-v3": "avx2 fma f16c",
    "skylake-avx512": "avx2 fma f16c avx512f avx512bw avx512vl avx512dq",
    "x86-64-v4": "avx2 fma f16c avx512f avx512bw avx512vl avx512dq",
}


def _read() -> frozenset[str]:
    if os.environ.get("PYLLM_PORTABLE", "0") not in ("", "0"):
        return frozenset()
    named, listed = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if listed is not None:
        return frozenset(f[1:] for f in listed.split(",") if f.startswith("+"))
    if named and named != "host":
        return frozenset(_NAMED.get(named, "").split())
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


FEATURES: frozenset[str] = _read()


def _dot() -> str:
    if {"avx512vnni", "avx512f", "avx512bw"} <= FEATURES:
        return "avx512vnni"
    if "avx2" in FEATURES:
        return "avx2"
    if "dotprod" in FEATURES:
        return "neon"
    return "portable"


DOT: str = _dot()
"""The instruction set of the int8 dot product: avx512vnni, avx2, neon (sdot) or portable."""


def _amx() -> bool:
    """Tell whether there is a matrix unit for bfloat16 that the system lets us use. Ask before a thread is started."""
    if DOT != "avx512vnni" or not {"amx-bf16", "amx-tile"} <= FEATURES or sys.platform != "linux":
        return False
    if os.environ.get("PYLLM_AMX", "1") == "0":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18  # Linux on x86-64: asm/prctl.h
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


AMX: bool = _amx()
"""True if products of many rows go to the matrix unit; PYLLM_AMX=0 turns it off."""

HALF: bool = bool({"f16c", "avx512f", "fullfp16", "neon"} & FEATURES)
"""True if an instruction converts half-precision numbers."""
