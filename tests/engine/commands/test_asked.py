"""The prompt of `run`: from flags, files and stdin, alone and joined; its escapes, its BOS."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from fake_llm import REPLY, FakeLLM, FakeSession, failure

from pyllm.__main__ import main


def prompt_of(llm: type[FakeLLM], monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> str:
    """Return the text that the model was given."""
    seen: list[str] = []
    prefill = FakeSession.prefill

    def spy(self: FakeSession, tokens: list[int], progress: object = None) -> object:
        seen.append(self._llm.tokenizer.decode(tokens, special=True))
        return prefill(self, tokens)

    monkeypatch.setattr(FakeSession, "prefill", spy)
    assert main(argv) == 0
    return seen[0]


def test_stdin_is_the_prompt(
    llm: type[FakeLLM], model: str, pipe: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe("Grüße\n".encode())
    given = prompt_of(llm, monkeypatch, ["run", model])
    assert given == "<|im_start|>user\nGrüße<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("piped", "given"),
    [
        (b"the world", "the world hello"),
        (b"the\nworld\n", "the\nworld\n hello"),
        (b"\xef\xbb\xbfthe\r\nworld", "the\nworld hello"),
        (b"", "hello"),
        (b"\n", "hello"),
    ],
)
@pytest.mark.parametrize("flags", [["hello"], ["-p", "hello"], ["-f", "{}"]])
def test_stdin_and_a_prompt_are_joined(
    piped: bytes, given: str, flags: list[str], llm: type[FakeLLM], model: str, pipe: Callable[[bytes], None],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pipe(piped)
    (tmp_path / "prompt").write_text("hello\n")
    argv = ["run", model, *(flag.format(tmp_path / "prompt") for flag in flags)]
    assert f"user\n{given}<" in prompt_of(llm, monkeypatch, argv)


@pytest.mark.parametrize("stdin", [None, io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_WRONLY), "r"))])
def test_a_stdin_that_cannot_be_read_gives_nothing(
    stdin: io.TextIOWrapper | None, llm: type[FakeLLM], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under cron, and under nohup, which gives a write-only one."""
    monkeypatch.setattr(sys, "stdin", stdin)
    assert "user\nhello<" in prompt_of(llm, monkeypatch, ["run", model, "-p", "hello"])


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r"a\nb", "a\nb"), (r"a\tb\r", "a\tb\r"), (r"\'\"\\n", "'\"\\n"), (r"\x41\xc3\xa9", "Aé"),
        (r"\q \x4 \d", r"\q \x4 \d"), ("C:\\", "C:\\"),
    ],
)  # fmt: skip
def test_escapes(
    typed: str, text: str, llm: type[FakeLLM], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are replaced in what the shell gives, as in llama.cpp, and not in files."""
    (tmp_path / "prompt").write_text(typed)
    for flags, expected in (
        (["-p", typed], text), ([typed], text), (["-e", "-p", typed], text), (["--no-escape", "-p", typed], typed),
        (["-f", str(tmp_path / "prompt")], typed), (["-sys", typed, "-p", "x"], text),
        (["-sysf", str(tmp_path / "prompt"), "-p", "x"], typed),
    ):  # fmt: skip
        assert f"\n{expected}<|im_end|>" in prompt_of(llm, monkeypatch, ["run", model, *flags])


def test_an_escape_that_is_not_utf8(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = failure(["run", model, "-p", r"a\xff"], capsys)
    assert code == 2 and "--no-escape" in message


@pytest.mark.parametrize(
    ("text", "warned"), [("<|endoftext|>hello", True), ("hello", False), ("hello<|endoftext|>", False)]
)
def test_a_second_bos(
    text: str, warned: bool, llm: type[FakeLLM], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.write(tmp_path / "bos.gguf", overrides={"tokenizer.ggml.add_bos_token": True})
    assert main(["run", str(path), "--raw", "-p", text]) == 0
    assert ("begins with BOS" in capsys.readouterr().err) is warned


def test_ignore_eos(llm: type[FakeLLM], model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", model, "hello", "--ignore-eos", "-n", "40", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["stop"] == "limit" and result["tokens"]["generated"] == 40 and result["text"].startswith(REPLY)


def test_a_file_is_the_prompt(llm: type[FakeLLM], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompt.txt").write_text("two\nlines\n")
    assert "user\ntwo\nlines<" in prompt_of(llm, monkeypatch, ["run", model, "-f", str(tmp_path / "prompt.txt")])


def test_control_tokens_in_a_prompt(llm: type[FakeLLM], model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[int]] = []
    prefill = FakeSession.prefill
    monkeypatch.setattr(FakeSession, "prefill", lambda self, ids, p=None: given.append(list(ids)) or prefill(self, ids))
    for raw in ([], ["--raw"]):
        assert main(["run", model, "-p", "<|im_end|>", *raw]) == 0
    template, raw_ids = given
    assert template.count(2) == 1, "the template's own one; the user's is text"
    assert raw_ids == [2], "with --raw the user writes the template"


def test_a_model_without_a_template(
    llm: type[FakeLLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(tiny.write(tmp_path / "base.gguf", chat_template=None))
    assert prompt_of(llm, monkeypatch, ["run", base, "-p", "hello"]) == "hello"
    assert "no chat template" in capsys.readouterr().err
    assert failure(["run", base, "-p", "hello", "-sys", "x"], capsys)[0] == 2
