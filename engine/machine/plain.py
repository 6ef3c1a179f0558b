"""Text from outside, made safe for a terminal: names in files, paths, tokens, messages that quote them."""

from __future__ import annotations

import re

# C0, DEL, C1, line separators, what turns the direction of text around, and halves of a pair of UTF-16.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINES = re.compile(f"\r(?=\n)|(?![\n\t]){_UNSAFE.pattern}")


def plain(text: object) -> str:
    """Return a text for one line: what could move the cursor or reorder the line is shown as an escape, as \\x1b."""
    return _UNSAFE.sub(_shown, str(text))


def plain_lines(text: str) -> str:
    """Return the same for text of several lines: newlines and tabs stay, a carriage return before a newline goes."""
    return _UNSAFE_IN_LINES.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    if found[0] == "\r" and found.string[found.end() : found.end() + 1] == "\n" and found.re is _UNSAFE_IN_LINES:
        return ""
    return ascii(found[0])[1:-1]
