"""Conversations as files: JSON, or Markdown with a heading for each message; knows no model."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ...models.errors import UsageError
from ..store import ours

Messages = list[dict[str, str]]
ROLES = ("system", "user", "assistant")
LIMIT = 16 << 20  # bytes of a file, which no context holds as tokens
HEADING = re.compile(rf"^## ({'|'.join(ROLES)})[ \t]*$", re.MULTILINE)
LIKE_ONE = re.compile(rf"^(\\*## (?:{'|'.join(ROLES)})[ \t]*)$", re.MULTILINE)  # in a message: gets a \ before it


def text_of(messages: Messages, name: str) -> str:
    """Return a conversation as a file of this name holds it: as JSON if it ends in .json, else as Markdown."""
    if name.lower().endswith(".json"):
        return json.dumps(messages, ensure_ascii=False, indent=2) + "\n"
    parts = (f"## {message['role']}\n\n" + LIKE_ONE.sub(r"\\\1", message["content"]) for message in messages)
    return "\n\n".join(parts) + "\n"


def messages_of(text: str) -> Messages:
    """Return the conversation that a file holds; raises ValueError, which says what is wrong."""
    if not HEADING.match(text.lstrip()):
        return _checked(_parsed(text))
    _, *parts = HEADING.split(text)
    contents = (re.sub(r"^\\(?=\\*## )", "", part.strip(), flags=re.MULTILINE) for part in parts[1::2])
    return _checked([{"role": role, "content": content} for role, content in zip(parts[::2], contents, strict=True)])


def load(path: Path) -> Messages:
    """Return the conversation in a file that `/save` wrote; raises UsageError."""
    try:
        raw = ours.read(path, LIMIT)
        return messages_of(raw.decode("utf-8-sig").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not loaded: not UTF-8 at byte {error.start}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not loaded: {getattr(error, 'strerror', None) or error}") from None


def save(messages: Messages, path: Path, *, overwrite: bool = False) -> None:
    """Write the conversation to a file. Raises FileExistsError if there is one, and OSError or ValueError.

    overwrite: replace the file, if it is a regular one of the user's own.
    """
    content = text_of(messages, path.name).encode()
    if overwrite:
        ours.write(path, content, b"")
        return
    with path.open("xb") as file:  # "x" never overwrites a file
        file.write(content)


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("no conversation that /save wrote") from None
    except ValueError:
        raise ValueError("no conversation that /save wrote") from None


def _checked(found: object) -> Messages:
    """Return what was read as messages, without what else stands there."""
    messages: Messages = []
    for message in found if isinstance(found, list) else ():
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str) or (role == "system" and messages):
            raise ValueError(f"message {len(messages) + 1} is none of a conversation")
        content.encode()  # JSON may hold half of a surrogate pair: UnicodeEncodeError, a ValueError
        messages.append({"role": role, "content": content})
    if not messages:
        raise ValueError("no conversation that /save wrote")
    return messages
