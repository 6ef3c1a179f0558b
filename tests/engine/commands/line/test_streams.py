"""What comes from outside and what becomes of the streams, as only a process of its own shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[4]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
EVIL = "\x1b[31mA\x9b2J\x07\x7f\u202eB\u2066"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
unix = pytest.mark.skipif(sys.platform == "win32", reason="streams and signals are others there")


def run(*argv: str, **settings: object) -> subprocess.CompletedProcess[bytes]:
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
    return subprocess.run([sys.executable, "-m", "pyllm", *argv], timeout=60, **(given | settings))  # type: ignore[call-overload, no-any-return]


@unix
@pytest.mark.parametrize(
    "argv",
    [
        ["inspect", "{}", "--tensors"], ["show", "{}"], ["verify", "{}"], ["quantize", "{}", "{}.out", "Q8_0"],
        ["run", "{}", "-p", "x", "-ctk", EVIL], ["run", "{}", f"--{EVIL}"], [EVIL], ["rm", "{}"], ["rm", EVIL],
        ["run", EVIL, "-p", "x"], ["run", f"hf:{EVIL}/b", "-p", "x"], ["run", "{}", "-f", EVIL], ["pull", EVIL],
        ["run", "{}", "-p", "x", "-c", "4"], ["perplexity", "{}", "-f", EVIL], ["study", "kv", "{}", "--data", EVIL],
        ["bench", "{}", "-ctk", EVIL], ["advise", "--task", EVIL], ["profile", "{}", "-d", EVIL],
        ["run", "{}", "-p", "a\udcff"], ["run", "a\udcff", "-p", "x"],
    ],
)  # fmt: skip
def test_no_control_character_from_outside(argv: list[str], tmp_path: Path) -> None:
    """Whether in metadata, in a path or in a flag."""
    texts = {"general.name": EVIL, "general.license": EVIL}
    path = tiny.write(tmp_path / f"m{EVIL}\n.gguf", overrides=texts)
    done = run(*(word.format(path) for word in argv))
    said = (done.stdout + done.stderr).decode()
    assert said and not UNSAFE.search(said) and "Traceback" not in said, said


@unix
@pytest.mark.parametrize("kind", ["general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre", "general.type"])
def test_nor_from_what_a_file_says_it_is(kind: str, tmp_path: Path) -> None:
    done = run("run", str(tiny.write(tmp_path / "m.gguf", overrides={kind: EVIL})), "-p", "x")
    assert done.returncode == 3 and not UNSAFE.search(done.stderr.decode()), done.stderr


@unix
@pytest.mark.parametrize(
    "argv",
    [["--help"], ["run", "--help"], ["inspect", "{}", "--tensors"], ["inspect", "{}", "--json"], ["verify", "{}"],
     ["list", "--all"], ["show", "{}"], ["doctor"]],
)  # fmt: skip
def test_a_reader_that_left(argv: list[str], model: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*(word.format(model) for word in argv), stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@unix
@pytest.mark.parametrize("closed", ["1", "2", "0 1 2", "0 2"])
def test_closed_streams(closed: str, model: str) -> None:
    def close() -> None:
        for number in map(int, closed.split()):
            os.close(number)

    done = run("inspect", model, preexec_fn=close)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert ("1" in closed.split()) == (done.stdout == b"")


@unix
def test_a_stderr_without_a_reader(model: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run("run", "--color", model, "-p", "x", "-n", "1", "--temp", "0", stderr=writer)
    os.close(writer)
    assert done.returncode == 0 and done.stdout


@unix
@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_stdout_is_utf8_where_it_is_no_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf", overrides={"general.name": "Grüße 😀"})
    done = run("inspect", str(path), env=ENVIRONMENT | environment)
    assert "Grüße 😀" in done.stdout.decode("utf-8")


@unix
def test_ctrl_c_while_modules_are_imported(model: str) -> None:
    """From the first line of ours on; before that the interpreter starts."""
    code = "import os, signal, sys; sys.argv = ['pyllm', 'inspect', {!r}]; from pyllm import __main__ as m; m.script()"
    for moment in range(12):
        spy = f"""
import sys, os, signal, threading
class Press:
    n = 0
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("pyllm.engine", "pyllm.models", "rich", "numpy")):
            Press.n += 1
            if Press.n == {1 + 7 * moment}:
                os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
"""
        argv = [sys.executable, "-c", spy + code.format(model)]
        done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, timeout=60)
        assert done.returncode == 130 and done.stderr == b"", (moment, done.stderr)


@unix
def test_a_disabled_compiler(model: str) -> None:
    done = run("run", model, "-p", "x", env=ENVIRONMENT | {"NUMBA_DISABLE_JIT": "1"})
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"unset it" in done.stderr


@unix
def test_a_slow_step_does_not_keep_what_there_is(tmp_path: Path) -> None:
    """The process ends a second after Ctrl-C even inside of a step, and says before what it has."""
    program = """
import sys, time
from pyllm.engine.chat.interrupt import impatient
with impatient(last=lambda: print("what there is")):
    sys.stdout.write("ready\\n"); sys.stdout.flush()
    import signal; signal.signal(signal.SIGINT, lambda *_: None)
    time.sleep(30)
"""
    process = subprocess.Popen([sys.executable, "-c", program], env=ENVIRONMENT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == b"what there is\n" and process.returncode == 130
