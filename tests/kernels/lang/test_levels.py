"""Kernels have the instructions of the CPU that they are compiled for, also of one that this machine is not."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from pyllm.kernels.lang import cpu

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or os.environ.get("PYLLM_PORTABLE", "0") != "0"
    or "NUMBA_CPU_NAME" in os.environ, reason="levels of x86, once in a run of CI",
)  # fmt: skip
EXPECTED = {  # the instruction of the int8 dot product
    "haswell": "vpmaddubsw", "skylake-avx512": "vpmaddubsw", "icelake-server": "vpdpbusd", "alderlake": "vpmaddubsw",
    "znver4": "vpdpbusd", "sapphirerapids": "vpdpbusd",
}  # fmt: skip
ASSEMBLY = """
from pyllm.kernels.ops.linear import linear
kernel = linear("q6_k", 4)
kernel.address
print(kernel._compiled._library.get_asm_str())
"""


@pytest.mark.parametrize("level", cpu.LEVELS)
def test_instructions_of_a_level(tmp_path: Path, level: str) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("PYLLM_PORTABLE", "NUMBA_CPU_FEATURES")}
    env |= {"NUMBA_CPU_NAME": level, "PYLLM_CACHE": str(tmp_path), "PYLLM_AMX": "0"}
    done = subprocess.run([sys.executable, "-c", ASSEMBLY], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = done.stdout
    assert EXPECTED[level] in found
    assert ("vpdpbusd" in found) == (EXPECTED[level] == "vpdpbusd")
    assert ("zmm" in found) == ("avx512f" in cpu.NAMED[level])
    assert "vfmadd" in found and "vcvtph2ps" in found


def test_own_level_is_known() -> None:
    """If LLVM gives this CPU a name of ours, then the table asks for nothing that the CPU does not have. A virtual
    machine may hide something, but for that it has a name of its own."""
    name = llvm.get_host_cpu_name()
    if name in cpu.NAMED and "hypervisor" not in Path("/proc/cpuinfo").read_text():
        assert cpu.NAMED[name] <= cpu.host()
