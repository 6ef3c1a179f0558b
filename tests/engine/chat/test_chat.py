"""A chat: what it answers, what it keeps, what Ctrl-C ends. The model is a fake, the keyboard a list or a pipe."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from fake_llm import REPLY, FakeLLM, FakeSession, Keyboard, install, said
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from pyllm.__main__ import main
from pyllm.engine.chat import slash, terminal
from pyllm.engine.chat.chat import Chat


def test_turns(chat: Chat, llm: FakeLLM) -> None:
    assert chat.loop(Keyboard("hello", "", "the world")) == 0
    assert said(chat) == f"{REPLY}\n" * 2
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    first, second = llm.sessions[0].prefilled
    assert llm.tokenizer.decode(second, special=True).startswith("<|im_end|>\n<|im_start|>user\nthe world")
    assert len(first) > 10, "and the second turn reads only what is new"


def test_thoughts_are_not_said_again(chat: Chat, llm: FakeLLM) -> None:
    llm.reply = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>hello"
    assert chat.loop(Keyboard("hello")) == 0
    assert "hm" in said(chat)
    assert chat.messages[-1] == {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize("line", ["/bye", "/bye now"])
def test_bye(line: str, chat: Chat) -> None:
    keyboard = Keyboard(line, "never said")
    assert chat.loop(keyboard) == 0
    assert keyboard.lines == ["never said"]


def test_commands(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat.loop(Keyboard("/help", "/stats", "hello", "/stats", "/nonsense", "/save")) == 0
    err = capsys.readouterr().err
    for part in (
        *slash.COMMANDS,
        "Nothing was answered yet",
        "KV cache",
        "V q8_0",
        "/nonsense: no such command",
        "name",
    ):
        assert part in err


def test_a_path_is_no_command(chat: Chat) -> None:
    chat.loop(Keyboard("/etc/passwd is what?"))
    assert chat.messages[0]["content"] == "/etc/passwd is what?"


def test_clear(chat: Chat, llm: FakeLLM) -> None:
    chat.system_prompt = "Short."
    chat.loop(Keyboard("hello", "/clear", "the world"))
    assert [message["content"] for message in chat.messages] == ["Short.", "the world", REPLY]


def test_save(chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, data = tmp_path / "chat.md", tmp_path / "chat.json"
    chat.loop(Keyboard("hello", f"/save {text}", f"/save {data}", f"/save {data}", "n", "/save /nowhere/x"))
    assert text.read_text() == f"## user\n\nhello\n\n## assistant\n\n{REPLY}\n"
    assert json.loads(data.read_text()) == chat.messages
    err = capsys.readouterr().err
    assert err.count("Saved 2 messages") == 2 and "not saved: File exists" in err and "/nowhere/x: not saved" in err


def test_a_full_context(chat: Chat, llm: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert llm.template is not None
    llm.n_ctx = len(llm.template.encode([{"role": "user", "content": "hello"}], llm.tokenizer)) + 3
    chat.loop(Keyboard("hello", "hello " * 40, "/clear", "hello"))
    err = capsys.readouterr().err
    assert f"The context of {llm.n_ctx} tokens is full" in err and "/clear starts anew" in err
    assert len(chat.messages) == 2, "what did not fit is forgotten"


def press_after(n: int) -> Callable[[FakeSession], None]:
    """Press Ctrl-C after n decoded tokens."""
    counter: Iterator[int] = iter(range(1, 1000))
    return lambda session: os.kill(os.getpid(), signal.SIGINT) if next(counter) == n else None


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_ctrl_c_ends_the_answer(chat: Chat, llm: FakeLLM) -> None:
    llm.on_decode = press_after(2)
    before = signal.getsignal(signal.SIGINT)
    assert chat.loop(Keyboard("hello", "hello", "/bye")) == 0
    assert signal.getsignal(signal.SIGINT) is before
    cut, whole = (message["content"] for message in chat.messages if message["role"] == "assistant")
    assert cut != REPLY and REPLY.startswith(cut) and whole == REPLY


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_ctrl_c_while_the_prompt_is_read(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = FakeSession.prefill

    def press(self: FakeSession, tokens: list[int], progress: Callable[[int, int], None]) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return prefill(self, tokens, progress)

    with monkeypatch.context() as patch:
        patch.setattr(FakeSession, "prefill", press)
        chat.loop(Keyboard("hello"))
    assert chat.messages == []
    chat.loop(Keyboard("hello"))
    assert said(chat).strip() == REPLY


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_a_second_ctrl_c_ends_the_chat(chat: Chat, llm: FakeLLM) -> None:
    def press_twice(session: FakeSession) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    llm.on_decode = press_twice
    with pytest.raises(KeyboardInterrupt):
        chat.loop(Keyboard("hello"))
    llm.on_decode = press_after(2)
    with pytest.raises(KeyboardInterrupt):
        chat.loop(Keyboard("hello", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        chat.loop(Keyboard(KeyboardInterrupt(), KeyboardInterrupt()))
    llm.on_decode = lambda session: None
    assert chat.loop(Keyboard(KeyboardInterrupt(), "hello", KeyboardInterrupt(), "/bye")) == 0


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("hello\r", "hello"),
        ("two\x1b\rlines\r", "two\nlines"),
        ("wrong\x03right\r", "right"),
        ("hallo\x1b[D\x7fe\r", None),
    ],
)
def test_keys(keys: str, line: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "history", InMemoryHistory)
    with create_pipe_input() as pipe:
        read = terminal.line_reader(pipe, DummyOutput())
        pipe.send_text(keys)
        assert read() == (line or "haleo"), "line editing"
        pipe.send_text("\x03")
        with pytest.raises(KeyboardInterrupt):
            read()
        pipe.send_text("\x04")
        with pytest.raises(EOFError):
            read()
        pipe.send_text("\x1b[A\r")
        assert read() == (line or "haleo"), "history"


def test_history_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_state_path", lambda *_, **__: tmp_path / "state")
    assert isinstance(terminal.history(), FileHistory)
    assert (tmp_path / "state" / "history").stat().st_mode & 0o077 == 0 or sys.platform == "win32"
    (tmp_path / "file").touch()
    monkeypatch.setattr("platformdirs.user_state_path", lambda *_, **__: tmp_path / "file")
    assert isinstance(terminal.history(), InMemoryHistory)


def test_no_template_no_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch)
    base = str(tiny.write(tmp_path / "base.gguf", chat_template=None))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["run", base]) == 2
    assert "has no chat template, so it cannot chat" in capsys.readouterr().err
