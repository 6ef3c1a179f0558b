"""The text to answer: read from a file, checked, and turned into tokens; runs no model."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.errors import UsageError

if TYPE_CHECKING:
    from ...models.config import Config
    from ...models.text.template import ChatTemplate
    from ...models.text.tokenizer import Tokenizer

LIMIT = 64 << 20  # bytes of a prompt, so that `-f /dev/zero` ends


def check_text(flag: str, text: str | None) -> None:
    """Raise UsageError for a text from the shell that is not UTF-8."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{flag}: not UTF-8 at character {error.start}: pass the text in UTF-8") from None


def read_file(name: str, flag: str = "-f") -> str:
    """Return the text of a file (-: stdin) without the newline at its end; raises UsageError."""
    said = "stdin" if name == "-" else f"{flag} {name}"
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            raw = file.read(LIMIT + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{said}: {getattr(error, 'strerror', None) or error}: name a text file") from None
    return decoded(raw, said).removesuffix("\n")  # `echo` and editors add it


def read_stdin() -> str:
    """Return what is piped to stdin, to its end; "" where it is a terminal, closed, or cannot be read (as by nohup)."""
    try:
        if sys.stdin is None or sys.stdin.isatty():
            return ""
        raw = sys.stdin.buffer.read(LIMIT + 1)
    except (OSError, ValueError):
        return ""
    return decoded(raw, "stdin")


def decoded(raw: bytes, said: str) -> str:
    """Return the text of bytes in UTF-8, without a byte order mark, each CRLF as LF. Raises UsageError.

    said: where the bytes come from, for the message.
    """
    if len(raw) > LIMIT:
        raise UsageError(f"{said}: longer than {LIMIT >> 20} MiB, which no context holds: give a shorter text")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        utf16 = " (it is UTF-16)" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise UsageError(f"{said}: not UTF-8 at byte {error.start}{utf16}: save or convert it as UTF-8") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def unescaped(flag: str, text: str) -> str:
    """Return a text from the shell with the escapes of llama.cpp's -e replaced: \\n \\r \\t \\' \\" \\\\ \\xHH.

    Any other backslash stays. Raises UsageError if the bytes of \\xHH make no UTF-8.
    """

    def byte(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code[1:], 16)]) if code[:1] == b"x" else ESCAPES.get(code, code)

    try:
        return _ESCAPE.sub(byte, text.encode()).decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{flag}: \\x gives no UTF-8 at byte {error.start}: --no-escape leaves escapes alone"
        ) from None


ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_ESCAPE = re.compile(rb"\\([nrt'\"\\]|x[0-9A-Fa-f]{2})")


def encode(
    tokenizer: Tokenizer, template: ChatTemplate | None, prompt: str, *, system: str | None = None, raw: bool = False
) -> list[int]:
    """Return the prompt's tokens: a user's turn in the chat template, or the text alone (raw, or no template).

    system: a system prompt. Raises UsageError if there is no template to put it in.
    """
    if raw:
        return tokenizer.encode(prompt, special=True, bos=True)
    if template is None:
        if system is not None:
            raise UsageError("-sys: the model has no chat template to put a system prompt in; write it into the prompt")
        return tokenizer.encode(prompt, bos=True)
    return template.encode([*system_messages(system), {"role": "user", "content": prompt}], tokenizer)


def system_messages(text: str | None) -> list[dict[str, str]]:
    """Return the messages that a conversation begins with: the system prompt, if there is one."""
    return [] if text is None else [{"role": "system", "content": text}]


def check_length(tokens: list[int], n_ctx: int, config: Config) -> None:
    """Raise UsageError for a prompt that has no tokens, or more than the context holds."""
    if not tokens:
        raise UsageError("the prompt has no tokens: give a text with -p, or a file with -f")
    if len(tokens) > n_ctx:
        most = config.n_ctx_train
        cure = f"-c {len(tokens) + 256} would hold it, or " if len(tokens) + 256 <= most else ""
        raise UsageError(
            f"the prompt has {len(tokens)} tokens, the context (-c) holds {n_ctx} and the model's own {most}; "
            f"{cure}shorten the prompt"
        )
