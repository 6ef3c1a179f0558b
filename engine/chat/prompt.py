"""The text to answer: read from a file, checked, and turned into tokens; runs no model."""

from __future__ import annotations

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


def read_file(name: str) -> str:
    """Return the text of a file (-: stdin) without the newline at its end; raises UsageError."""
    said = "stdin" if name == "-" else f"-f {name}"
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            raw = file.read(LIMIT + 1)
        if len(raw) > LIMIT:
            raise UsageError(f"{said}: longer than {LIMIT >> 20} MiB, which no context holds: give a shorter text")
        return raw.decode("utf-8").removesuffix("\n")  # `echo` and editors add it
    except UnicodeDecodeError as error:
        raise UsageError(f"{said}: not UTF-8 at byte {error.start}: save or convert it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{said}: {getattr(error, 'strerror', None) or error}: name a text file") from None


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
