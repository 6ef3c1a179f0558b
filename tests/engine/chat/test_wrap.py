"""Lines broken between words: nothing is lost, nothing is too wide, and at most a word is held back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pyllm.engine.chat.wrap import Wrap

CHARACTERS = st.sampled_from(
    [*"aaaabc e  \n.,(", "é", "e\u0301", "中", "文", "。", "「", "한", "👩\u200d👧", "🇩🇪", "👍🏽", "☀\ufe0f"]
)
TEXTS = st.lists(CHARACTERS, max_size=200).map("".join)


def wrapped(text: str, width: int, cuts: tuple[int, ...] = ()) -> str:
    wrap = Wrap(lambda: width)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    return "".join(wrap.feed(text[a:b]) for a, b in zip([0, *ends], ends, strict=False)) + wrap.flush()


def without_breaks(out: str, text: str) -> str:
    """Return the text again: each added line's end stands for the spaces that gave way to it, or for none."""
    again, at = "", 0
    for c in out:
        if at < len(text) and c == text[at] and c != " ":
            again, at = again + c, at + 1
            continue
        spaces = len(text) - at - len(text[at:].lstrip(" "))
        if c == "\n":  # added, or spaces at a line's end that had no room
            again, at = again + text[at : at + spaces], at + spaces
            if text[at : at + 1] == "\n" and spaces:
                again, at = again + "\n", at + 1
        else:
            assert c == text[at], (out, text)
            again, at = again + c, at + 1
    return again + text[at:] if not text[at:].strip(" ") else again


@given(TEXTS, st.integers(4, 30), st.lists(st.integers(0, 200), max_size=8).map(tuple))
def test_nothing_is_lost_and_nothing_is_too_wide(text: str, width: int, cuts: tuple[int, ...]) -> None:
    out = wrapped(text, width, cuts)
    assert out.replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert without_breaks(out, text) == text
    assert all(cell_len(line) <= width for line in out.rstrip(" ").split("\n")), out
    assert out == wrapped(text, width), "whatever the pieces are"


@given(st.lists(st.text("abcdef", min_size=1, max_size=10), min_size=1, max_size=60), st.integers(10, 40))
def test_words_stay_whole_and_lines_are_full(words: list[str], width: int) -> None:
    lines = wrapped(" ".join(words), width).split("\n")
    assert [word for line in lines for word in line.split(" ")] == words
    for line, after in pairwise(lines):
        assert len(line) + 1 + len(after.split(" ")[0]) > width


@given(TEXTS, st.integers(4, 30))
def test_no_more_than_a_word_is_held_back(text: str, width: int) -> None:
    wrap = Wrap(lambda: width)
    shown = ""
    for at, c in enumerate(text, 1):
        shown += wrap.feed(c)
        there = len(shown.replace("\n", "").replace(" ", ""))
        held = text[:at].replace("\n", " ").rsplit(" ", 1)[-1]
        assert len(text[:at].replace("\n", "").replace(" ", "")) - there <= len(held)


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("one two three four", "one two\nthree four"),
        ("one two th", "one two th"),
        ("abcdefghijklm no", "abcdefghij\nklm no"),
        ("x abcdefghijklm no", "x\nabcdefghij\nklm no"),
        ("中文中文中文中文", "中文中文中\n文中文"),
        ("中文中文中。文", "中文中文\n中。文"),
        ("abc  한국어말 말", "abc\n한국어말\n말"),
        ("e\u0301" * 4 + " " + "e\u0301" * 6, "e\u0301" * 4 + "\n" + "e\u0301" * 6),
        ("    indented by four", "\nindented\nby four"),
        ("  indented by four", "  indented\nby four"),
        ("1\ttab stops here", "1\ntab stops\nhere"),
        ("a  \nb", "a  \nb"),
        ("0123456789  \nb", "0123456789\nb"),
        ("0123456789\nb", "0123456789\nb"),
    ],
)
def test_lines(text: str, out: str) -> None:
    assert wrapped(text, 10) == out


@pytest.mark.parametrize("mark", ["```", "~~~", "````"])
def test_code_is_left_alone(mark: str) -> None:
    code = f"{mark}python x\nprint('a line of code that is long')\n\n    ``\n{mark}\n"
    assert wrapped(f"{code}and some prose after", 10) == f"{code}and some\nprose\nafter"


def test_code_within_a_line_opens_no_block() -> None:
    assert wrapped("```x``` then some words", 10) == "```x```\nthen some\nwords"


def test_a_window_that_changes() -> None:
    widths = iter([*[20] * 40, *[10] * 100])
    wrap = Wrap(lambda: next(widths))
    assert max(map(len, (wrap.feed("one two three four five six seven eight") + wrap.flush()).split("\n"))) <= 20


def test_a_word_without_width_is_not_held_for_ever() -> None:
    wrap = Wrap(lambda: 80)
    assert len(wrap.feed("e" + "\u0301" * 5000)) >= 4000
