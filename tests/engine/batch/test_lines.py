"""Lines of prompts: what each form means, and which line and field is wrong."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pyllm.engine.batch import lines as module
from pyllm.engine.batch.lines import BadLine, Line, Lines, opened
from pyllm.engine.sampler import SamplingParams
from pyllm.models.errors import UsageError


def read(*contents: Any, **defaults: Any) -> list[Line | BadLine]:
    raw = b"\n".join(c if isinstance(c, bytes) else json.dumps(c).encode() for c in contents)
    return list(Lines(io.BytesIO(raw), "p.jsonl", **defaults))


def one(content: Any, **defaults: Any) -> Line:
    (line,) = read(content, **defaults)
    assert isinstance(line, Line), line
    return line


def test_prompts_and_their_numbers() -> None:
    found = read("first", b"", {"prompt": "second", "id": "b"}, b"  \r", {"prompt": "third"})
    assert [(line.id, line.prompt) for line in found if isinstance(line, Line)] == [
        (1, "first"), ("b", "second"), (5, "third"),
    ]  # fmt: skip


def test_byte_order_mark_and_crlf() -> None:
    assert [line.prompt for line in read(b'\xef\xbb\xbf"a"\r', b'"b"\r') if isinstance(line, Line)] == ["a", "b"]


def test_messages_and_system_prompts() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    line = one({"messages": messages}, system="be brief")
    assert line.messages == ({"role": "user", "content": "a\nb"},) and line.system == "be brief"
    assert one({"prompt": "x", "system": "own"}, system="be brief").system == "own"
    said = [{"role": "system", "content": "own"}, {"role": "user", "content": "x"}]
    assert one({"messages": said}, system="be brief").system is None
    assert one({"prompt": "x"}, raw=True).raw and not one({"messages": messages}, raw=True).raw


@pytest.mark.parametrize("name", ["max_tokens", "n_predict", "predict", "max_completion_tokens"])
def test_settings(name: str) -> None:
    default = SamplingParams(temperature=0.5, seed=3)
    line = one({"prompt": "x", name: 9, "temp": 0, "top_k": 5.0, "top_p": None}, params=default)
    assert line.params == SamplingParams(temperature=0, seed=3, max_tokens=9, top_k=5)


def test_lines_of_an_openai_batch() -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "x"}], "max_tokens": 7, "stream": False, "n": 1}
    line = one({"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body})
    assert (line.id, line.params.max_tokens, line.messages[0]["content"]) == ("r-1", 7, "x")
    assert one({"custom_id": "r", "url": "/v1/completions", "body": {"prompt": "x"}}).raw


def test_digest() -> None:
    same = [{"prompt": "x"}, "x", {"prompt": "x", "id": 9, "metadata": {"a": 1}}, {"prompt": "x", "temp": 0.8}]
    other = [
        "y",
        {"prompt": "x", "temp": 0},
        {"prompt": "x", "system": ""},
        {"messages": [{"role": "user", "content": "x"}]},
    ]
    assert len({one(content).digest for content in same}) == 1
    assert one({"prompt": "x", "stop": "a"}).digest == one({"prompt": "x", "stop": ["a"]}).digest != one("x").digest
    assert len({one(content).digest for content in [same[0], *other]}) == 5


BAD: list[tuple[Any, str]] = [
    (b"hello", "not JSON at character 1"),
    (b'{"prompt": "x"', "not JSON at character 15"),
    (b"\xff\xfe", "not UTF-8 at byte 0"),
    (b"[" * 100_000, "not JSON that can be read (too deep"),
    (b"9" * 5000, "not JSON that can be read"),
    (7, "is a number: each line is"),
    ([1], "is a list"),
    (None, "is null"),
    ({}, "prompt, messages: give one of them"),
    ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "prompt, messages: give one, as"),
    ({"prompt": ""}, "prompt: must be a text that is not empty"),
    ({"prompt": ["x"]}, "prompt: must be a text that is not empty, and is a list"),
    (b'{"prompt": "\\ud800"}', "prompt: holds half of a surrogate pair at character 1"),
    ({"messages": []}, "messages: must be a list"),
    ({"messages": ["x"]}, "messages[0]: must be"),
    ({"messages": [{"role": "user"}]}, "messages[0]: must be"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content: is a list"),
    ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role: is a number"),
    ({"prompt": "x", "temperatur": 1}, "temperatur: no such field; did you mean temperature?"),
    ({"prompt": "x", "reference": 1}, "reference: no such field (metadata may hold anything)"),
    ({"prompt": "x", "temp": 1, "temperature": 1}, "temp, temperature: mean the same"),
    ({"prompt": "x", "temp": "hot"}, "temp: is a text, must be a number"),
    ({"prompt": "x", "temp": True}, "temp: is true or false"),
    (b'{"prompt": "x", "temp": NaN}', "temp: is nan, must be a finite number"),
    ({"prompt": "x", "temp": 10**400}, "temp: is too large"),
    ({"prompt": "x", "top_p": 1.5}, "top_p: is 1.5, must be from 0 to 1"),
    ({"prompt": "x", "top_k": 1.5}, "top_k: is 1.5, must be a whole number"),
    ({"prompt": "x", "max_tokens": -2}, "max_tokens: is -2, must be -1"),
    ({"prompt": "x", "ignore_eos": 1}, "ignore_eos: is a number, must be true or false"),
    ({"prompt": "x", "n": 2}, "n: is 2, must be 1 here"),
    ({"prompt": "x", "stop": [""]}, "stop: must be a text, or a list of texts"),
    ({"prompt": "x", "stop": 7}, "stop: must be a text, or a list of texts"),
    ({"prompt": "x", "stream": True}, "stream: is true, must be false here"),
    ({"prompt": "x", "raw": True, "system": "x"}, "raw: a system prompt needs the chat template"),
    ({"prompt": "x", "id": True}, "id: is true or false, must be a text or a number"),
    ({"prompt": "x", "id": 1, "custom_id": 1}, "id, custom_id: mean the same"),
    ({"body": 1}, "body: is a number, must be an object"),
    ({"url": "/v1/embeddings", "body": {}}, 'url: is "/v1/embeddings"'),
    ({"id": 1, "body": {"id": 1}}, "id: stands in body too"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "problem"), BAD, ids=[problem[:40] for _, problem in BAD])
def test_bad_lines(content: Any, problem: str) -> None:
    first, second = read("good", content)
    assert isinstance(first, Line) and isinstance(second, BadLine)
    assert str(second).startswith(f"p.jsonl line 2: {problem}"), second


def test_ids_are_unique() -> None:
    _, second, third = read({"prompt": "x", "id": 3}, {"prompt": "y", "id": "3"}, {"prompt": "z"})
    assert isinstance(second, Line), "a text and a number differ"
    assert isinstance(third, BadLine) and "id: 3 is the id of line 1 too" in str(third)


def test_a_line_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE", 100)
    with pytest.raises(BadLine, match="line 2: longer than"):
        read("x", "y" * 200)


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, problem in ((tmp_path, "directory"), (tmp_path / "none", "No such file"), ("/dev/zero", "is a device")):
        with pytest.raises(UsageError, match=problem):
            opened(str(name))


def test_a_pipe_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(path := tmp_path / "pipe")
    writer = threading.Thread(target=path.write_bytes, args=(b'"a"\n"b"\n',))
    writer.start()
    with opened(str(path)) as file:
        found = Lines(file, "pipe")
        assert len(list(found)) == len(list(found)) == 2
    writer.join()
    monkeypatch.setattr(module, "PIPED", 3)
    writer = threading.Thread(target=path.write_bytes, args=(b'"a"\n"b"\n',))
    writer.start()
    with pytest.raises(UsageError, match="longer than"):
        opened(str(path))
    writer.join()
