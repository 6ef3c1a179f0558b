"""Text from outside: whatever moves a cursor or reorders a line is shown as an escape, and all else stays."""

from __future__ import annotations

import pytest

from pyllm.engine.machine.plain import plain, plain_lines

UNSAFE = [
    *range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xD800, 0xDC80,
    0xDFFF,
]  # fmt: skip


@pytest.mark.parametrize("code", UNSAFE, ids=hex)
def test_unsafe(code: int) -> None:
    text = f"a{chr(code)}b"
    shown = plain(text)
    assert shown.isprintable() and shown == f"a{ascii(chr(code))[1:-1]}b"
    assert plain_lines(text) == (text if chr(code) in "\n\t" else shown)


@pytest.mark.parametrize("text", ["Grüße", "日本語　", "👩‍👧", "שלום", "a\u00a0b", "e\u0301", "\ue0a0", "[b]\\n[/b]"])
def test_text_stays(text: str) -> None:
    assert plain(text) == plain_lines(text) == text


def test_line_ends_of_windows_are_no_carriage_returns() -> None:
    assert plain_lines("a\r\nb\rc") == "a\nb\\rc"
