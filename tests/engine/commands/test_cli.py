"""The command line as a user sees it: flags, streams, messages, exit codes. The model is a fake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from fake_llm import REPLY, FakeLLM, FakeSession, failure

from pyllm import __version__
from pyllm.__main__ import main
from pyllm.engine.store import sources
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.errors import ModelError

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out, _ = capsys.readouterr()
    for part in ("run", "inspect", "exit codes", "130", "PYLLM_CACHE"):
        assert part in out
    assert main(["run", "--help"]) == 0
    out, _ = capsys.readouterr()
    for part in ("--cache-type-k", "-ctv", "q8_0", "--repeat-penalty", "-sys", "--raw", "--offline"):
        assert part in out


@pytest.mark.parametrize("model", ["model.gguf", "hf:user/repo", "https://host/x"])
def test_a_model_in_the_place_of_a_command(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = failure([model, "-p", "x"], capsys)
    assert code == 2 and f"did you mean pyllm run {model}?" in message


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pyllm {__version__}\n"


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: pyllm" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["run", "--help"], ["inspect", "--help"]])
def test_help_is_light(argv: list[str]) -> None:
    heavy = ["numba", "llvmlite", "rich", "prompt_toolkit", "jinja2", "tokenizers"]
    if argv[0].startswith("-"):
        heavy.append("numpy")
    code = f"import sys, pyllm.__main__ as cli; cli.main({argv}); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_prompt(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", model, "-p", "hello"]) == 0
    out, err = capsys.readouterr()
    assert out == REPLY + "\n"
    for part in ("load:", "prompt:", "first token:", "answer:", "read per token:", "KV cache:", "peak memory:", "GB/s"):
        assert part in err
    assert llm.loaded == {"n_ctx": 512, "n_threads": None, "cache": CacheSpec("f16", "f16", "auto")}


@pytest.mark.parametrize(
    "argv",
    [["hello", "-n", "1"], ["-n", "1", "hello"], ["-p", "hello", "-n", "1"], ["--predict", "1", "--prompt=hello"]],
)
def test_flags_stand_anywhere(
    argv: list[str], llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", model, *argv]) == 0
    assert capsys.readouterr().out == "hello\n"
    if argv[0] != "hello":
        assert main(["run", *argv[:2], model, *argv[2:]]) == 0


def test_settings_reach_the_engine(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = ["-n", "4", "-c", "256", "-t", "2", "-s", "5", "-sys", "Short.", "-ctk", "q8_0", "-ctv", "q4_0"]
    sampling = ["--temp", "0", "--top-k", "3", "--top-p", "0.5", "--min-p", "0", "--repeat-penalty", "1.1"]
    assert main(["run", model, "hello", "--json", *engine, *sampling]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == ""
    assert llm.loaded == {"n_ctx": 256, "n_threads": 2, "cache": CacheSpec("q8_0", "q4_0", "auto")}
    assert result["settings"] == {
        "model": "tiny", "n_ctx": 256, "threads": 2, "cache_type_k": "q8_0", "cache_type_v": "q4_0", "predict": 4,
        "cache_rotate": "auto", "raw": False, "system_prompt": "Short.", "seed": 5, "temp": 0.0, "top_k": 3,
        "top_p": 0.5, "min_p": 0.0, "repeat_penalty": 1.1,
    }  # fmt: skip
    assert result["stop"] == "limit" and result["tokens"]["generated"] == 4 and result["tokens"]["decoded"] == 3
    assert result["bytes"]["weights_per_token"] == 1_000_000
    depth = result["bytes"]["mean_depth"]
    assert result["bytes"]["k_per_token"] == 200 * depth and result["bytes"]["v_per_token"] == 100 * depth
    assert result["timings"]["decode_tokens_per_s"] > 0 and result["bytes"]["peak_memory"] > 1 << 20


@pytest.mark.parametrize(("c", "n_ctx"), [("0", 512), ("100", 100), ("1000", 1000)])
def test_context(c: str, n_ctx: int, llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", model, "hello", "-c", c]) == 0
    assert llm.loaded["n_ctx"] == n_ctx
    assert ("trained on" in capsys.readouterr().err) == (n_ctx > 512)


def test_default_context_is_bounded(llm: type[FakeLLM], tmp_path: Path) -> None:
    assert main(["run", str(tiny.write(tmp_path / "long.gguf", n_ctx=100_000)), "hello"]) == 0
    assert llm.loaded["n_ctx"] == 4096


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["-t", "0"], ["-t/--threads", "from 1"]),
        (["-n", "-5"], ["-n/--predict", "-1 or more"]),
        (["--temp", "nan"], ["--temp", "number from 0"]),
        (["--temp", "inf"], ["--temp"]),
        (["--temp", "-1"], ["--temp"]),
        (["-c", "-1"], ["-c/--ctx-size", "0 or more"]),
        (["-c", "4k"], ["-c/--ctx-size", "'4k'"]),
        (["--top-k", "-1"], ["--top-k"]),
        (["--top-p", "1.5"], ["--top-p", "from 0 to 1"]),
        (["--min-p", "x"], ["--min-p"]),
        (["--repeat-penalty", "0"], ["--repeat-penalty", "from 1e-06"]),
        (["-s", "99999999999"], ["-s/--seed"]),
        (["-ctk", "q3_0"], ["--cache-type-k", "'q3_0'", "q8_0", "q4_0", "bf16"]),
        (["-ctv", ""], ["--cache-type-v"]),
        (["--temp"], ["--temp", "expected one argument"]),
        (["--tmp", "1"], ["--tmp", "--help"]),
        (["-p", "x"], ["PROMPT and -p", "one prompt"]),
        (["-sys", "x", "--raw"], ["-sys and --raw"]),
        (["-c", "20"], ["the prompt has 2", "tokens", "-c 282", "holds 20"]),
    ],
)
def test_wrong_flags(
    flags: list[str], parts: list[str], llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = failure(["run", model, "the world of hello", *flags], capsys)
    assert code == 2
    for part in parts:
        assert part in message


def test_a_head_that_the_cache_type_cannot_hold(
    llm: type[FakeLLM], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = str(tiny.write(tmp_path / "odd.gguf", head_dim=40))
    code, message = failure(["run", odd, "hello", "-ctk", "q8_0"], capsys)
    assert code == 2 and "use one of f32, f16, bf16" in message


@pytest.mark.parametrize("raw", [b"", b"\n", b"abc\xff\xfe"])
def test_wrong_stdin(
    raw: bytes, llm: type[FakeLLM], model: str, pipe: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(raw)
    code, message = failure(["run", model], capsys)
    assert code == 2 and ("not UTF-8 at byte 3" if b"\xff" in raw else "empty") in message


def test_wrong_files(llm: type[FakeLLM], model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin").write_bytes("Grüße".encode("latin-1"))
    for name, part in (("missing", "No such file"), (".", "directory"), ("latin", "not UTF-8 at byte 2")):
        code, message = failure(["run", model, "-f", str(tmp_path / name)], capsys)
        assert code == 2 and part in message


def test_an_argument_that_is_not_utf8(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["-p", "a\udcff"], ["-p", "hello", "-sys", "\udcff"]):
        code, message = failure(["run", model, *flags], capsys)
        assert code == 2 and "not UTF-8 at character" in message


def test_wrong_models(llm: type[FakeLLM], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "text.gguf").write_text("this is not a model" * 10)
    for name in ("missing.gguf", "empty.gguf", "text.gguf", "."):
        for command in (["run", "{}", "-p", "x"], ["run", "-p", "x", "{}"]):
            code, message = failure([part.format(tmp_path / name) for part in command], capsys)
            assert code == 3 and str(tmp_path) in message


def test_no_model_is_the_default_one(
    llm: type[FakeLLM],
    model: str,
    pipe: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[str | None, bool]] = []

    def resolve(name: str | None, *, offline: bool, progress: object) -> Path:
        asked.append((name, offline))
        return Path(model)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "resolve", resolve)
        assert main(["run", "-p", "hello"]) == 0
        assert main(["run", "-p", "hello", "--offline"]) == 0
        assert asked == [(None, False), (None, True)]
    capsys.readouterr()
    pipe(b"")
    assert "MODEL" in failure(["run", "Why is the sky blue?"], capsys)[1]
    pipe(b"hello")
    code, message = failure(["run", "Why is the sky blue?"], capsys)
    assert code == ModelError.exit_code and "a prompt goes after -p" in message


def test_what_does_not_fit(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = failure(["run", model, "hello", "-c", "1000000000000"], capsys)
    assert code == 4 and "-c 1000000000000 at f16/f16" in message and "would fit" in message


def test_no_prompt_and_no_terminal(
    llm: type[FakeLLM], model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert "no terminal to chat at" in failure(["run", model], capsys)[1]
    assert "--json needs a prompt" in failure(["run", model, "--json"], capsys)[1]


def test_ctrl_c_ends_the_line(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    def press(session: FakeSession) -> None:
        if session.n_past > 25:
            raise KeyboardInterrupt

    init = llm.__init__

    def with_press(self: FakeLLM, *args: object, **settings: object) -> None:
        init(self, *args, **settings)  # type: ignore[arg-type]
        self.on_decode = press

    llm.__init__ = with_press  # type: ignore[method-assign]
    assert main(["run", model, "hello"]) == 130
    out, err = capsys.readouterr()
    assert out.endswith("\n") and REPLY.startswith(out[:-1]) and "Traceback" not in err
    assert "answer:" in err and "KV cache:" in err, "what there is is kept"
    assert main(["run", model, "hello", "--json"]) == 130
    result = json.loads(capsys.readouterr().out)
    assert result["stop"] == "interrupt" and result["text"] and REPLY.startswith(result["text"])


# What signals and pipes do shows only from outside.

PROGRAM = """
import sys, pytest
from fake_llm import install
from pyllm.__main__ import main
llm = install(pytest.MonkeyPatch())
llm.reply = "hello the world " * 20
llm.seconds_per_token = 0.05
sys.exit(main(sys.argv[1:]))
"""


def start(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *argv],
        env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_head_closes_the_pipe(model: str) -> None:
    process = start("run", model, "-p", "hello")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(5)
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number: int, code: int, model: str) -> None:
    process = start("run", model, "-p", "hello")
    assert process.stdout is not None
    assert process.stdout.read(5) == b"hello", "text comes as it is made"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out.endswith(b"\n") and b"peak memory:" in err and b"Traceback" not in err


def test_a_full_disk(model: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", PROGRAM, "run", model, "-p", "x"]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1 and b"No space left" in err and err.count(b"\n") == 1
