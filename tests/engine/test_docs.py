"""What the documents show runs: their Python blocks, one after the other, and the script beside them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/python.md")

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", DOCUMENTS)
def test_blocks_run_in_order(name: str, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        lines = "\n" * text[: block.start(1)].count("\n")  # so that a traceback names the document's line
        exec(compile(lines + block[1], str(ROOT / name), "exec"), namespace)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_the_script_draws_its_picture(smollm2: Path, tmp_path: Path) -> None:
    script = ROOT / "docs" / "kv_cache.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kv_cache.png").read_bytes().startswith(b"\x89PNG")
    assert "KL divergence" in done.stdout
