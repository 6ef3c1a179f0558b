"""The file of answers: gone on with, repaired, and refused where it is not ours."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from pyllm.engine.batch.answers import Kept, Printed
from pyllm.engine.batch.lines import BadLine, Line, Lines
from pyllm.models.errors import PyllmError, UsageError

SETTINGS = {"pyllm": "1", "model": "tiny", "temp": 0.5}


def lines(*contents: Any) -> list[Line | BadLine]:
    return list(Lines(io.BytesIO("\n".join(map(json.dumps, contents)).encode()), "p"))


def answer(line: Line | BadLine) -> dict[str, Any]:
    return {"id": line.id, "text": "né", "request": line.digest}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file with answers to "a" and "b"."""
    kept = Kept(tmp_path / "out.jsonl", SETTINGS)
    for line in lines("a", "b"):
        assert not kept.has(line)
        kept.write(answer(line))
    kept.close()
    return kept.path


def test_going_on(path: Path) -> None:
    before = path.read_bytes()
    kept = Kept(path, {**SETTINGS, "pyllm": "2"})
    a, b, c = lines("a", "b", "c")
    assert [kept.has(line) for line in (a, b, c)] == [True, True, False] and len(kept) == 2
    kept.write(answer(c))
    kept.close()
    first, *others = path.read_text(encoding="utf-8").splitlines()
    assert path.read_bytes().startswith(before)
    assert json.loads(first)["settings"] == SETTINGS and not any("settings" in line for line in others)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_is_repaired(path: Path, cut: int) -> None:
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + cut])
    kept = Kept(path, SETTINGS)
    kept.close()
    end = whole[first : first + cut]
    assert path.read_bytes() == (whole if len(end) >= len(whole) - first - 1 else whole[:first])
    path.write_bytes(whole[:cut])  # the first line is torn
    Kept(path, SETTINGS).close()
    assert path.read_bytes() == b""


def test_only_the_newline_is_missing(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    kept = Kept(path, SETTINGS)
    kept.close()
    assert path.read_bytes() == whole and len(kept) == 2


def test_a_prompt_that_changed(path: Path) -> None:
    kept = Kept(path, SETTINGS)
    with pytest.raises(UsageError, match="has an answer to id 2, but line 2, which has this id, was another"):
        kept.has(lines("a", "other")[1])
    kept.close()


def test_a_bad_line_that_was_mended(tmp_path: Path) -> None:
    bad, mended, still = lines(7)[0], lines("seven")[0], lines(7)[0]
    kept = Kept(tmp_path / "out", SETTINGS)
    assert isinstance(bad, BadLine)
    kept.write({"id": None, "line": 1, "error": bad.problem, "request": bad.digest})
    kept.close()
    kept = Kept(tmp_path / "out", SETTINGS)
    assert kept.has(still) and not kept.has(mended) and kept.failed == 1
    kept.close()


def test_other_settings(path: Path) -> None:
    with pytest.raises(UsageError, match=r"made with temp 0\.5, now it is 0\.7; go on with the same"):
        Kept(path, {**SETTINGS, "temp": 0.7})
    with pytest.raises(UsageError, match='made with model "tiny", now it is not given'):
        Kept(path, {"temp": 0.5})


@pytest.mark.parametrize(
    "content",
    [
        b"notes\n", b"notes", b'{"prompt": "x"}\n', b'{"id": 1, "text": "x"}\n', b"[]\n", b"\x00\xff",
        b'{"id": [], "text": "", "request": ""}\n',
    ],
)  # fmt: skip
def test_what_is_not_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="holds something else"):
        Kept(path, SETTINGS)
    assert path.read_bytes() == content


def test_answers_without_settings(tmp_path: Path) -> None:
    (path := tmp_path / "out").write_bytes(b'{"id": 1, "text": "x", "request": ""}\n')
    with pytest.raises(UsageError, match="does not say by which settings"):
        Kept(path, SETTINGS)


def test_places_that_cannot_be_written(tmp_path: Path, path: Path) -> None:
    (link := tmp_path / "link").symlink_to(path)
    for place, problem in ((tmp_path, "is a folder"), ("/dev/null", "is a device"), (tmp_path / "no" / "x", "No such")):
        with pytest.raises(UsageError, match=problem):
            Kept(Path(place), SETTINGS)
    with pytest.raises(UsageError, match="is a link"):
        Kept(link, SETTINGS)


def test_one_process_at_a_time(path: Path) -> None:
    first = Kept(path, SETTINGS)
    with pytest.raises(PyllmError, match="another pyllm writes to it"):
        Kept(path, SETTINGS)
    first.close()
    Kept(path, SETTINGS).close()


def test_a_stream_that_is_not_utf8() -> None:
    ascii, utf8 = io.TextIOWrapper(io.BytesIO(), "ascii"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    Printed(ascii).write({"id": 1, "text": "né"})
    Printed(utf8).write({"id": 1, "text": "né", "metadata": "\ud800"})
    for out, metadata in ((ascii, None), (utf8, "\ud800")):
        out.seek(0)
        found = json.loads(out.read())
        assert (found["text"], found.get("metadata")) == ("né", metadata)
