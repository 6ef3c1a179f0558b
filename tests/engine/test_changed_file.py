"""A model file that is cut or written to while it is in use: one line and exit code 3, at whatever moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from pyllm import LLM
from pyllm.__main__ import main
from pyllm.engine.commands.quantize import convert
from pyllm.engine.machine import bars
from pyllm.engine.sampler import SamplingParams
from pyllm.kernels.lang import bus
from pyllm.models.errors import ModelError
from pyllm.models.file.gguf import GGUF

ROOT = Path(__file__).parents[2]
SHORT = SamplingParams(temperature=0.0, max_tokens=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "tiny.gguf", types="q8_0")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def written(path: Path) -> None:
    time = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"GGUF")
    os.utime(path, ns=(time, time + 1))


def cut_and_renamed(path: Path) -> None:
    """The path then names no file; the mapped one has another name."""
    path.rename(path.with_name("other.gguf"))
    cut(path.with_name("other.gguf"))


CHANGES = [cut, grown, written] + ([] if sys.platform == "win32" else [cut_and_renamed])
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there a mapped file cannot be cut")


@pytest.mark.parametrize("change", CHANGES)
def test_between_two_prompts(change: object, path: Path) -> None:
    assert callable(change)
    with LLM(path, n_ctx=64, n_threads=1) as llm:
        assert llm.generate("hello", SHORT).tokens
        change(path)
        with pytest.raises(ModelError, match=r"tiny\.gguf: file: was cut or changed while it was in use; ") as error:
            llm.generate("the world", SHORT)
        assert "\n" not in str(error.value)


def test_between_two_tokens(path: Path) -> None:
    with LLM(path, n_ctx=64, n_threads=1) as llm:
        pieces = llm.stream("hello", SHORT)
        next(pieces)
        os.truncate(path, 100)
        with pytest.raises(ModelError, match="was cut or changed"):
            list(pieces)


def test_the_line_and_the_exit_code(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bars.Bars, "__call__", lambda *step: cut(path) if step[1] == "reading the prompt" else None)
        code = main(["run", str(path), "-p", "hello", "-n", "2", "-c", "64", "-t", "1"])
    err = capsys.readouterr().err
    assert code == 3 and err.count("\n") == 1 and "tiny.gguf: file: was cut or changed" in err


def test_a_part_of_a_split_model(tmp_path: Path) -> None:
    g = GGUF.open(tiny.write(tmp_path / "a.gguf", split_max_tensors=7))
    g.check_unchanged()
    cut(g.paths[-1])
    with pytest.raises(ModelError, match=g.paths[-1].name):
        g.check_unchanged()


def test_a_new_file_in_its_place_does_no_harm(path: Path) -> None:
    """What is mapped is the old one, whatever it is called."""
    with LLM(path, n_ctx=64, n_threads=1) as llm:
        before = llm.generate("hello", SHORT).tokens
        os.replace(tiny.write(path.with_name("new.gguf"), types="q4_0"), path)
        assert llm.generate("hello", SHORT).tokens == before
        path.unlink()
        assert llm.generate("hello", SHORT).tokens == before


def test_while_it_is_quantized(tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "a.gguf")
    with pytest.raises(ModelError, match="was cut or changed"):
        convert(GGUF.open(source), tmp_path / "b.gguf", "Q8_0", threads=1, progress=lambda *step: grown(source))
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"]


PROGRAM = """
import os, sys
from pyllm.engine.machine import bars

STAGE, MODEL = sys.argv[1], sys.argv[3]

def cut(self, stage, done=0, total=0, next=""):
    if stage.startswith(STAGE):
        os.truncate(MODEL, 4096)

bars.Bars.__call__ = cut
from pyllm.__main__ import COMMANDS
from pyllm.engine.commands.cli import script
sys.argv[1:] = sys.argv[2:]
script(COMMANDS)
"""


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("compiling kernels", ["run", "MODEL", "-p", "hello", "-n", "1", "-c", "64", "-t", "2"]),
        ("quantizing", ["quantize", "MODEL", "OUT", "Q8_0"]),
        ("looking for NaN", ["verify", "MODEL"]),
    ],
)
def test_a_page_that_is_gone(stage: str, command: list[str], tmp_path: Path) -> None:
    """While weights are read: the system's SIGBUS, which ended the process without a word."""
    model = tiny.write(tmp_path / "tiny.gguf", n_vocab=2000)
    flags = [{"MODEL": str(model), "OUT": str(tmp_path / "out.gguf")}.get(word, word) for word in command]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    environment.pop("PYTHONFAULTHANDLER", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, stage, *flags], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == bus.EXIT_CODE == ModelError.exit_code, done.stderr
    assert done.stdout == "" and done.stderr == bus.MESSAGE and bus.MESSAGE.count("\n") == 1
