"""Texts as they are read: UTF-8 with or without a byte order mark, CRLF as LF; and what is not UTF-8."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from pyllm.bench.quality import text_windows
from pyllm.bench.study.texts import collect
from pyllm.engine.chat.prompt import decoded, read_file, read_stdin
from pyllm.engine.chat.stream import stream
from pyllm.engine.machine.bars import Bars
from pyllm.engine.results import Piece
from pyllm.models.errors import UsageError

TEXT = "Grüße\n\nan alle\r. \ufeff 😀"
SAME = [
    TEXT.encode(),
    b"\xef\xbb\xbf" + TEXT.encode(),
    TEXT.replace("\n", "\r\n").encode(),
    b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode() + b"\r\n",
    TEXT.encode() + b"\n",
]
BAD = [(b"\xff", 0), (b"abc\x80", 3), ("Grüße".encode("latin-1"), 2), (b"\xef\xbb\xbfa\xff", 4), (b"a\r\n\xc3(", 3)]


@pytest.mark.parametrize("raw", SAME)
def test_the_same_text(raw: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a prompt, on stdin, in a text to score and in those of a study."""
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    assert read_file(str(path)) == TEXT
    assert text_windows.read(str(path)) == TEXT
    assert collect(str(path), None).prose == collect(None, str(tmp_path)).prose == TEXT
    for read in (lambda: read_file("-"), lambda: read_stdin().removesuffix("\n")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        assert read() == TEXT


def test_the_questions_of_a_study(tmp_path: Path) -> None:
    row = json.dumps({"question": "1\u2028+ 1?", "answer": "2"}, ensure_ascii=False)
    (tmp_path / "gsm8k.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n{row}\r\n".encode())
    assert collect(None, str(tmp_path)).sums == [("1\u2028+ 1?", "2")] * 2


@pytest.mark.parametrize(("raw", "at"), BAD)
def test_what_is_not_utf8(raw: bytes, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and the byte are named, counted in the file as it is."""
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gsm8k.jsonl").write_bytes(raw)
    for read, name in (
        (lambda: read_file(str(path)), str(path)), (lambda: text_windows.read(str(path)), str(path)),
        (lambda: read_file(str(path), "-sysf"), f"-sysf {path}"), (read_stdin, "stdin"),
        (lambda: collect(None, str(tmp_path / "data")), "gsm8k.jsonl"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=rf"not UTF-8 at byte {at}\b") as caught:
            read()
        assert name in str(caught.value)


def test_utf16_is_named() -> None:
    with pytest.raises(UsageError, match="UTF-16"):
        decoded("text".encode("utf-16"), "-f x")


@pytest.mark.parametrize("terminal", [True, False])
def test_an_answer_is_made_plain_on_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    text = "a\x1b[2J\tb\n\u202ec\x9b"
    found, _ = stream(iter([Piece(text), Piece("", "eog")]), out, Bars())
    assert found == text
    assert out.getvalue() == ("a\\x1b[2J\tb\n\\u202ec\\x9b\n" if terminal else text + "\n")
