"""`pyllm doctor` as a user sees it, and its advice for other machines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyllm.__main__ import main
from pyllm.engine.commands import doctor
from pyllm.kernels.lang import kept

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write compiled kernels of two versions, and files that are not pyllm's."""
    root = tmp_path / "kernels"
    for state in ("0123456789abcdef", "fedcba9876543210"):
        (root / state).mkdir(parents=True)
        (root / state / "kernel").write_bytes(bytes(1000))
    (root / "notes").mkdir()
    (root / "notes" / "mine").write_text("x")
    monkeypatch.setattr(kept, "root", lambda: root)
    monkeypatch.setattr(kept, "FOLDER", root / "0123456789abcdef")
    yield root


def test_for_people(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    for name in ("CPU ", "kernels ", "caches ", "threads ", "memory ", "compiled ", "versions ", "\n- "):
        assert name in out, name
    assert err == "" and "1 kernels of this version" in out and str(cache) in out


def test_for_programs_and_clear(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert before["kernels"] == {"folder": str(cache), "bytes": 2001, "states": 2, "now": 1, "problem": ""}
    assert main(["doctor", "--clear", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["cleared_bytes"] == 2001 and after["kernels"]["states"] == 0 == after["kernels"]["now"]
    assert (cache / "notes" / "mine").exists(), "what is not ours stays"
    assert any("first run" in line for line in after["advice"])
    assert main(["doctor", "--clear"]) == 0
    assert "deleted" in capsys.readouterr().out


def test_a_folder_that_cannot_be_cleared(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.shutil, "rmtree", refuse)
    assert main(["doctor", "--clear"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and str(cache) in err and "Permission denied" in err


def facts(**changes: Any) -> dict[str, Any]:
    """Return the facts of a machine without problems, except for `changes`: "cores.quota" and so on."""
    found: dict[str, Any] = {
        "cpu": {"dot": "avx512vnni", "features": ["amx-bf16"]},
        "cores": {"physical": 8, "logical": 16, "affinity": 16, "quota": None, "load": 0.1, "clock": ""},
        "memory": {"free": 8 << 30, "limit": "this machine's memory"},
        "kernels": {"folder": "/", "problem": "", "now": 5},
        "environment": {},
    }
    for name, value in changes.items():
        group, _, key = name.partition("_")
        found[group] = {**found[group], key: value}
    return found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"environment_PYLLM_PORTABLE": "1"}, "PYLLM_PORTABLE is set"),
        ({"environment_NUMBA_CPU_NAME": "haswell"}, "limits what"),
        ({"environment_PYLLM_AMX": "0"}, "PYLLM_AMX=0"),
        ({"cpu_dot": "portable"}, "neither AVX2"),
        ({"cores_affinity": 1, "cores_load": None}, "only 1 of 8 cores"),
        ({"cores_quota": 0.5}, "0.5 cores' worth"),
        ({"cores_load": 12.0}, "12.0 cores busy"),
        ({"cores_clock": "powersave"}, "governor powersave"),
        ({"kernels_problem": "belongs to another user"}, "not kept: / belongs to another user"),
        ({"kernels_now": 0}, "first run"),
        ({"memory_free": 1 << 30}, "1.00 GiB of memory"),
    ],
)
def test_advice(changes: dict[str, Any], said: str) -> None:
    found = list(doctor.advice(facts(**changes)))
    assert len(found) == (1 if said else 0) and said in "".join(found)


def test_it_runs_no_model_and_compiles_nothing(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from pyllm.__main__ import main; main(['doctor']);"
        "print([m for m in sys.modules if m in ('gguf', 'tokenizers', 'matplotlib', 'pyllm.models.forward.model')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n") and done.stderr == ""
