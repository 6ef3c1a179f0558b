"""Whole runs over damaged files: they are refused or answered somehow, and never crash, hang or flood memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tiny
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pyllm.__main__ import main
from pyllm.models.file.gguf import GGUF

ROOT = Path(__file__).parents[3]
CASES = 40  # in one process, which takes longer to start than a case to run
SECONDS = 60  # for one case
MEMORY = 64 << 20  # for all cases, beyond what the undamaged file of 0.1 MB takes

WORKER = """
import contextlib, faulthandler, gc, io, json, resource, sys
from pathlib import Path
from pyllm.__main__ import main

def run(path, seconds):
    out, err = io.StringIO(), io.StringIO()
    faulthandler.dump_traceback_later(seconds, exit=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["run", str(path), "-p", "hello", "-n", "3", "-c", "128", "-t", "1", "-s", "1"])
    faulthandler.cancel_dump_traceback_later()
    gc.collect()  # a run has a process to itself, and leaves its memory to the system
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps([path.name, code, err.getvalue(), peak]), flush=True)

folder = Path(sys.argv[1])
run(folder / "whole.gguf", 600)  # imports and compiles what all cases need
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 30),) * 2)
for path in sorted(folder.glob("*.damaged")):
    run(path, int(sys.argv[2]))
"""


NUMBERS = [0, 1, 2, 0x7F, 0xFFFF, 0x7FFFFFFF, (1 << 32) - 1, 1 << 62, (1 << 64) - 1]


def damaged(raw: bytes, header: int, random: Random) -> bytes:
    """Return the file with bits flipped, bytes overwritten, pieces or its end cut off; mostly in its header."""
    out = bytearray(raw)
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(min(len(out), random.choice((600, header, header, header, len(raw), len(raw)))))
        what = random.random()
        if what < 0.6:
            out[at] ^= 1 << random.randrange(8)
        elif what < 0.75:
            out[at : at + 8] = random.choice(NUMBERS).to_bytes(8, "little")
        elif what < 0.9:
            patch = random.randbytes(random.randrange(1, 64))
            out[at : at + len(patch)] = patch
        elif what < 0.97:
            del out[at : at + random.randrange(1, 64)]
        else:
            del out[at + 1 :]
    return bytes(out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("whole") / "whole.gguf", n_layer=1, types={"": "q4_0", "ffn_down": "f16"})


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_random_damage(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    raw = whole.read_bytes()
    header = len(raw) - sum(-(-tensor.data.nbytes // 32) * 32 for tensor in GGUF.open(whole).tensors.values())

    seen = set()

    # A failure names its file, which is kept; shrinking it would take minutes.
    @settings(max_examples=8, deadline=None, phases=[Phase.generate])
    @given(st.randoms(use_true_random=False))
    def check(random: Random) -> None:
        folder = tmp_path_factory.mktemp("damaged")
        (folder / "whole.gguf").write_bytes(raw)
        seed = random.getrandbits(64)
        for i in range(CASES):
            (folder / f"{i:03}.damaged").write_bytes(damaged(raw, header, Random(seed + i)))
        command = [sys.executable, "-c", WORKER, str(folder), str(SECONDS)]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"after {results[-1:]}: {done.stderr[-2000:]}"
        assert len(results) == 1 + CASES and results[0][1] == 0
        for name, code, err, peak in results:
            seen.add(code)
            assert peak - results[0][3] < MEMORY, folder / name
            assert code in (0, 1, 2, 3, 4), (folder / name, code, err)
            assert "Traceback" not in err and (code == 0 or err.count("\n") == 1), (folder / name, code, err)

    check()
    assert {0, 3} <= seen, "some are refused, and some run"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temp", ["0", "0.8"])
def test_weights_that_are_no_numbers(
    value: float, temp: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    norm = np.full(128, value, np.float32)
    path = str(tiny.write(tmp_path / "nan.gguf", types="q4_0", tensors={"blk.0.attn_norm.weight": norm}))
    assert main(["run", path, "-p", "hello", "-n", "2", "--temp", temp]) == 1
    message = f"pyllm: {path}: weights: they give logits that are not numbers; --check says where\n"
    assert capsys.readouterr().err.endswith(message)
    assert main(["run", path, "-p", "hello", "-n", "2", "--temp", temp, "--check"]) == 1
    assert capsys.readouterr().err.startswith(f"pyllm: {path}: blk.0.norm: is the first to give values that are not ")


@pytest.mark.parametrize(
    ("flags", "stop"),
    [
        (["-c", "0", "-n", "3"], {"limit", "eog"}),
        (["-n", "-1", "-c", "64"], {"context", "eog"}),
        (["-n", "0"], {"limit"}),
        (["--temp", "0", "-n", "1"], {"limit", "eog"}),
    ],
)
def test_numbers_that_look_damaged(
    flags: list[str], stop: set[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(whole), "-p", "hello", "--json", "-s", "1", *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["stop"] in stop
    assert result["settings"]["n_ctx"] == (64 if "64" in flags else 512)
