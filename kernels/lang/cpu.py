"""What the CPU can do, read once and by feature, because virtual machines lie about a CPU's name.

Features are those that Numba compiles for. A user may narrow them: NUMBA_CPU_NAME=haswell gives the AVX2 kernels on a
newer CPU, and PYLLM_PORTABLE=1 gives the kernels that use no special instruction at all.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress

import llvmlite.binding as llvm

_V3 = "avx2 fma f16c"
_V4 = f"{_V3} avx512f avx512bw avx512cd avx512dq avx512vl"
_ICELAKE = (
    f"{_V4} avx512vnni avx512ifma avx512vbmi avx512vbmi2 avx512bitalg avx512vpopcntdq gfni vaes vpclmulqdq sha rdpid"
)
_AMX = "amx-tile amx-int8 amx-bf16"

NAMED: dict[str, frozenset[str]] = {
    name: frozenset(features.split())
    for names, features in (
        ("x86-64-v3 haswell broadwell skylake znver1 znver2 znver3", _V3),
        ("alderlake raptorlake meteorlake", f"{_V3} avxvnni gfni vaes vpclmulqdq sha"),
        ("x86-64-v4 skylake-avx512", _V4),
        ("cascadelake", f"{_V4} avx512vnni"),
        ("icelake-client icelake-server tigerlake", _ICELAKE),
        ("znver4", f"{_ICELAKE} avx512bf16"),
        ("znver5", f"{_ICELAKE} avx512bf16 avxvnni"),
        ("sapphirerapids emeraldrapids", f"{_ICELAKE} avx512bf16 avx512fp16 avxvnni {_AMX}"),
        ("cortex-a72", "neon"),
        ("cortex-a76 neoverse-n1 apple-a13", "neon fullfp16 dotprod"),
        ("neoverse-v1 neoverse-n2 neoverse-v2 apple-m2", "neon fullfp16 dotprod i8mm bf16"),
    )
    for name in names.split()
}
"""The features that LLVM derives from a CPU's name, as far as kernels may contain them; other names get portable code.
Users and tests force these names by NUMBA_CPU_NAME."""

LEVELS = ("haswell", "skylake-avx512", "icelake-server", "alderlake", "znver4", "sapphirerapids")
"""Those of x86 that differ in what the kernels take."""


def _arm() -> frozenset[str]:
    """Return the features of an ARM core that the system reports: LLVM does not ask for all that the kernels use."""
    if platform.machine().lower() not in ("aarch64", "arm64"):
        return frozenset()
    found = {"neon"}
    with suppress(AttributeError, OSError):
        if sys.platform == "darwin":
            names = {"dotprod": b"FEAT_DotProd", "i8mm": b"FEAT_I8MM", "fullfp16": b"FEAT_FP16"}
            found |= {name for name, said in names.items() if _sysctl(b"hw.optional.arm." + said)}
        elif sys.platform == "win32":
            found |= {"dotprod"} if ctypes.windll.kernel32.IsProcessorFeaturePresent(43) else set()
        else:  # the bits of AT_HWCAP (16) and AT_HWCAP2 (26): asm/hwcap.h
            ask = ctypes.CDLL(None).getauxval
            ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
            bits = {"fullfp16": (16, 10), "dotprod": (16, 20), "i8mm": (26, 13), "bf16": (26, 14)}
            found |= {name for name, (word, bit) in bits.items() if ask(word) >> bit & 1}
    return frozenset(found)


def _sysctl(name: bytes) -> bool:
    """Tell whether a number of macOS's sysctl is there and not 0."""
    value, nbytes = ctypes.c_int64(0), ctypes.c_size_t(8)
    failed = ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(value), ctypes.byref(nbytes), None, 0)
    return not failed and value.value != 0


def host() -> frozenset[str]:
    """Return the features of this machine's CPU, by LLVM's names, whatever the environment narrows them to."""
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there) | _arm()


def _read() -> frozenset[str]:
    if os.environ.get("PYLLM_PORTABLE", "0") not in ("", "0"):
        return frozenset()
    named, listed = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if listed is not None:
        return frozenset(f[1:] for f in listed.split(",") if f.startswith("+"))
    if named and named != "host":
        return NAMED.get(named, frozenset())
    return host()


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

I8MM: bool = DOT == "neon" and "i8mm" in FEATURES
"""True if an ARM core multiplies 2 rows of int8 by 2 others in one instruction (smmla)."""


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
