"""Texts of a study: pairs of questions and answers are read, and what is none is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.bench.study.texts import collect
from pyllm.models.errors import UsageError

PAIR = {"question": "1 + 1?", "answer": "2"}
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v, max_size=2))
WRONG = [
    ("gsm8k.jsonl", '{"question": "a", "answer": 5}', 'line 2: has no text named "answer"; repair or remove it'),
    ("mine.jsonl", '{"question": " ", "answer": "b"}', 'line 2: has no text named "question"; repair or remove it'),
    ("mine.jsonl", "[1]", 'line 2: has no text named "question"; repair or remove it'),
    ("mine.jsonl", "{", "line 2: is no JSON"),
    ("mine.jsonl", "[" * 100_000, "line 2: is no JSON"),
]


def test_pairs(tmp_path: Path) -> None:
    (tmp_path / "bbh").mkdir()
    (tmp_path / "bbh" / "a.json").write_text(json.dumps({"examples": [{"input": "b", "target": "c"}]}))
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(PAIR) + "\n\n")
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(PAIR | {"answer": str(i)}) for i in range(2)))
    found = collect(None, str(tmp_path))
    assert found.sums == [("1 + 1?", "2")] and found.questions == [("1 + 1?", "0"), ("1 + 1?", "1"), ("b", "c")]


@pytest.mark.parametrize(("name", "line", "says"), WRONG)
def test_what_is_no_pair(tmp_path: Path, name: str, line: str, says: str) -> None:
    (tmp_path / name).write_text(f"{json.dumps(PAIR)}\n{line}\n")
    with pytest.raises(UsageError) as caught:
        collect(None, str(tmp_path))
    assert f"--data {tmp_path / name}: {says}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"examples": {}}', '{"examples": [{"input": 1}]}', "no"])
def test_what_is_no_task(tmp_path: Path, text: str) -> None:
    (tmp_path / "bbh").mkdir()
    (tmp_path / "bbh" / "a.json").write_text(text)
    with pytest.raises(UsageError, match=r"a\.json.*; repair or remove it"):
        collect(None, str(tmp_path))


@settings(deadline=None)
@given(value=VALUES)
def test_any_value_is_read_or_named(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("data")
    (folder / "x.jsonl").write_text(json.dumps({"question": value, "answer": "b"}))
    try:
        assert collect(None, str(folder)).questions == [(value, "b")]
    except UsageError as error:
        assert "x.jsonl: line 1" in str(error)
