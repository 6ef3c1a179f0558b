"""The commands of a chat, and what a full context offers. The model is a fake, the keyboard a list."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from fake_llm import REPLY, FakeLLM, FakeSession, Keyboard
from hypothesis import given
from hypothesis import strategies as st

from pyllm.engine.chat import slash, transcript
from pyllm.engine.chat.chat import Chat
from pyllm.models.errors import ModelError, UsageError


def contents(chat: Chat) -> list[str]:
    return [message["content"] for message in chat.messages]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (['"""one', "  two", 'three"""'], "one\n  two\nthree"),
        (['"""', "/help", "", "x", '"""'], "/help\n\nx"),
        (['"""all in one"""'], "all in one"),
        (['"""pasted\nwhole"""'], "pasted\nwhole"),
        (['"""the end of the input', EOFError()], "the end of the input"),
    ],
)
def test_a_block(lines: list[str | BaseException], text: str, chat: Chat) -> None:
    keyboard = Keyboard(*lines)
    assert chat.loop(keyboard) == 0
    assert contents(chat) == [text, REPLY]
    assert keyboard.prompts[: len(lines)] == ["> ", *[". "] * (len(lines) - 1)]


def test_a_block_taken_back(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat.loop(Keyboard('"""one', KeyboardInterrupt(), KeyboardInterrupt(), '""" """', "/bye")) == 0
    assert chat.messages == [] and "The block is forgotten." in capsys.readouterr().err


def test_undo(chat: Chat, llm: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    chat.loop(Keyboard("hello", "the world", "/undo", "again", "/undo", "/undo", "/undo"))
    assert chat.messages == []
    err = capsys.readouterr().err
    assert "Taken back: the world" in err and "There is no question to take back." in err
    third = llm.tokenizer.decode(llm.sessions[0].prefilled[2], special=True)
    assert third.startswith("again"), "the first turn is still in the cache"


def test_retry(chat: Chat, llm: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    chat.loop(Keyboard("/retry", "hello", "/retry"))
    assert contents(chat) == ["hello", REPLY] and chat.seed == 8
    assert len(llm.sessions[0].prefilled[1]) == 1, "the question is in the cache"
    chat.loop(Keyboard("/set temp 0", "/retry", "/regen"))
    assert chat.seed == 7, "without chance, another seed would change nothing"
    assert "There is no question to answer again." in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_a_retry_that_is_interrupted_keeps_the_answer(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    chat.loop(Keyboard("hello"))
    prefill = FakeSession.prefill

    def press(self: FakeSession, tokens: list[int], progress: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return prefill(self, tokens, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeSession, "prefill", press)
    chat.loop(Keyboard("/retry"))
    assert contents(chat) == ["hello", REPLY]


def test_system(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.loop(Keyboard("/system", "hello", "/system Be short.", "/system", '/system """Be', 'long."""'))
    assert chat.messages[0] == {"role": "system", "content": "Be\nlong."} and contents(chat)[1:] == ["hello", REPLY]
    err = capsys.readouterr().err
    for part in ("No system prompt.", "the conversation goes on under it", "The system prompt: Be short."):
        assert part in err
    chat.loop(Keyboard("/clear"))
    assert contents(chat) == ["Be\nlong."]
    chat.loop(Keyboard('/system ""'))
    assert chat.messages == [] and chat.system_prompt is None


def test_a_template_that_refuses(
    chat: Chat, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat.loop(Keyboard("hello"))

    def refuse(*_: object) -> list[int]:
        raise ModelError("x.gguf", "template", "refuses that")

    assert llm.template is not None
    monkeypatch.setattr(llm.template, "encode", refuse)
    chat.loop(Keyboard("/system Be short."))
    assert contents(chat) == ["hello", REPLY] and "refuses that" in capsys.readouterr().err


def test_set(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.loop(Keyboard("/set temp 0.25", "/set top_k 7", "/set --seed=42", "/set num-predict 2", "hello"))
    p = chat.params
    assert (p.temperature, p.top_k, p.seed, p.max_tokens) == (0.25, 7, 42, 2)
    assert REPLY.startswith(contents(chat)[1]) and contents(chat)[1] != REPLY
    capsys.readouterr()
    chat.loop(Keyboard("/set"))
    lines = dict(line.split(":", 1) for line in capsys.readouterr().err.splitlines())
    assert {name: value.strip() for name, value in lines.items()} == {
        "temp": "0.25", "top-k": "7", "top-p": "0.95", "min-p": "0.05", "repeat-penalty": "1", "repeat-last-n": "64",
        "ignore-eos": "off", "n": "2", "seed": "42",
    }  # fmt: skip


def test_set_of_end_tokens_and_recent_ones(chat: Chat) -> None:
    chat.loop(Keyboard("/set ignore_eos on", "/set repeat-last-n -1", "/set n 20", "hello"))
    assert chat.params.ignore_eos is True and chat.params.repeat_last_n == -1
    assert chat.timings is not None and chat.timings.generated_n == 20
    chat.loop(Keyboard("/set ignore-eos off", "hello"))
    assert contents(chat)[-1] == REPLY and chat.timings.generated_n < 20


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("/set temp hot", "/set temp: 'hot' must be a number"),
        ("/set temp inf", "/set temp: is inf, must be"),
        ("/set top-p 2", "/set top-p: is 2.0, must be from 0 to 1"),
        ("/set top-k 1.5", "must be a whole number"),
        ("/set n -5", "/set n: is -5"),
        ("/set seed 99999999999", "4294967295 or less"),
        ("/set top-pp 1", "did you mean top-p?"),
        ("/set colour red", "no such setting; there are temp"),
        ("/set temp", "/set temp VALUE"),
        ("/set repeat-last-n -2", "/set repeat-last-n: is -2"),
        ("/set ignore-eos maybe", "/set ignore-eos: 'maybe' must be off or on"),
        ("/set ignore-eos", "such as off"),
        ("/rety", "/rety: no such command; did you mean /retry? /help"),
        ("/load", "/load FILE"),
        ("/load ~nobody-here/x", "not loaded"),
        ("/save ~nobody-here/x", "not saved"),
    ],
)
def test_mistakes(line: str, part: str, chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    before = chat.params
    chat.loop(Keyboard(line))
    err = capsys.readouterr().err
    assert part in err and err.count("\n") == 1
    assert chat.params == before and chat.messages == []


def test_save_asks(chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.json"
    path.write_text("mine")
    for answer in ("", "n", "never", EOFError(), KeyboardInterrupt()):
        keyboard = Keyboard("hello", f"/save {path}", answer)
        chat.loop(keyboard)
        assert path.read_text() == "mine" and keyboard.prompts[2] == f"{path} exists. Overwrite it? [y/N] "
    chat.loop(Keyboard("/clear", "hello", f"/save {path}", "y"))
    assert json.loads(path.read_text()) == chat.messages and "Saved 2 messages" in capsys.readouterr().err
    (link := tmp_path / "link.json").symlink_to(path)
    chat.loop(Keyboard(f"/save {link}", "y", f"/save {tmp_path}", "/save /dev/null", "y"))
    err = capsys.readouterr().err
    for part in ("not saved: is a link", "not saved: File exists", "not saved: is a device"):
        assert part in err
    assert link.is_symlink() and Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["chat.json", "chat.md", "chat"])
def test_load(name: str, chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    chat.loop(Keyboard("/system Short.", "hello", "the world", f"/save {path}"))
    before = list(chat.messages)
    chat.loop(Keyboard('/system ""', "/clear", f"/load {path}"))
    assert chat.messages == before and chat.system_prompt == "Short."
    chat.loop(Keyboard("and more"))
    assert len(chat.messages) == 7 and "Loaded 5 messages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"", "no conversation that /save wrote"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"{}", "no conversation"),
        (b"[]", "no conversation"),
        (b"[" * 100_000, "no conversation"),
        (b"[1]", "message 1 is none"),
        (b'[{"role": "user", "content": 5}]', "message 1 is none"),
        (b'[{"role": ["user"], "content": "x"}]', "message 1 is none"),
        (b'[{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]', "message 2 is none"),
        (b'[{"role": "user", "content": "\\ud800"}]', "not loaded"),
        (b"hello, I am prose", "no conversation"),
    ],
)
def test_a_bad_file(raw: bytes, part: str, chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad"
    path.write_bytes(raw)
    chat.loop(Keyboard("hello", f"/load {path}", "/load /dev/zero", f"/load {tmp_path}", "/load /nowhere/x"))
    assert contents(chat) == ["hello", REPLY]
    _, *lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all("not loaded" in line for line in lines) and part in lines[0]


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="larger than"):
        transcript.load(path)


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["user", "assistant"]),
        st.one_of(st.text(), st.sampled_from(["## user", "\\## user\n\nx", "a\n\n## assistant\n\n## system", "[1]"])),
    ),
    min_size=1,
)


@given(MESSAGES, st.sampled_from(["x.md", "x.json"]))
def test_what_is_saved_is_loaded(said: list[tuple[str, str]], name: str) -> None:
    messages = [{"role": role, "content": content.strip()} for role, content in said]
    assert transcript.messages_of(transcript.text_of(messages, name)) == messages


# A full context -------------------------------------------------------------------------------------------------------


def fill(chat: Chat, llm: FakeLLM, turns: int) -> None:
    chat.loop(Keyboard(*["hello the world"] * turns))
    assert llm.template is not None
    llm.n_ctx = len(llm.template.encode(chat.messages, llm.tokenizer)) + 2


@pytest.mark.parametrize("answer", ["", "y", "yes"])
def test_a_full_context_goes_on(answer: str, chat: Chat, llm: FakeLLM) -> None:
    chat.system_prompt = "Short."
    chat.clear()
    fill(chat, llm, 5)
    keyboard = Keyboard("the world", answer)
    chat.loop(keyboard)
    assert keyboard.prompts[1].startswith(
        f"The context of {llm.n_ctx} tokens is full. Forget the oldest 4 of 11 messages"
    )
    assert contents(chat) == ["Short.", *["hello the world", REPLY] * 3, "the world", REPLY]


def test_a_full_context_that_stays(chat: Chat, llm: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    fill(chat, llm, 3)
    chat.loop(Keyboard("the world", "n"))
    assert len(chat.messages) == 6 and "/clear starts anew" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["", "n"])
def test_a_context_that_is_full_within_an_answer(answer: str, chat: Chat, llm: FakeLLM) -> None:
    fill(chat, llm, 4)
    assert llm.template is not None
    question = {"role": "user", "content": "x"}
    llm.n_ctx = len(llm.template.encode([*chat.messages, question], llm.tokenizer)) + 3
    keyboard = Keyboard("x", answer)
    chat.loop(keyboard)
    assert "is full" in keyboard.prompts[1]
    last = contents(chat)[-1]
    if answer == "n":
        assert REPLY.startswith(last) and last != REPLY and len(chat.messages) == 10
    else:
        assert len(last) > len(REPLY) and REPLY.startswith(last[:5]) and len(chat.messages) < 10
        assert chat.timings is not None and chat.timings.generated_n > len(llm.tokenizer.encode(REPLY))


def test_help_names_all(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.loop(Keyboard("/?"))
    err = capsys.readouterr().err
    assert all(name in err for name in slash.COMMANDS) and '"""' in err
