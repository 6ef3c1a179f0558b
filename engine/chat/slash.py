"""The commands of a chat, each a line that begins with a slash; what they do to the conversation, the chat does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.errors import PyllmError, did_you_mean
from . import settings, statistics, transcript

if TYPE_CHECKING:
    from .chat import Chat

COMMAND = re.compile(r"/(\?|[a-z]+)(?=\s|$)")  # "/etc/passwd says" is not a command
ALSO = {"/exit": "/bye", "/quit": "/bye", "/?": "/help", "/regen": "/retry", "/reset": "/clear"}  # of other programs


@dataclass(frozen=True)
class Command:
    """A command: its line in /help, and what it does with the text after it.

    `run` returns whether Ctrl-C ended an answer.
    """

    summary: str
    run: Callable[[Chat, str], bool | None]


def call(chat: Chat, name: str, rest: str) -> bool:
    """Run a command; return whether Ctrl-C ended an answer."""
    command = COMMANDS.get(ALSO.get(name, name))
    if command is None:
        chat.screen.note(f"{name}: no such command{did_you_mean(name, COMMANDS) or ';'} /help lists them")
        return False
    try:
        return bool(command.run(chat, rest))
    except PyllmError as error:
        chat.screen.note(str(error))
        return False


def _help(chat: Chat, _: str) -> None:
    chat.screen.table([*((name, command.summary) for name, command in COMMANDS.items()), *KEYS])


def _stats(chat: Chat, _: str) -> None:
    if chat.timings is None:
        chat.screen.note("Nothing was answered yet.")
        return
    chat.screen.table(statistics.rows(chat.llm, chat.timings))


def _set(chat: Chat, rest: str) -> None:
    if rest:
        name, _, value = rest.replace("=", " ", 1).partition(" ")
        chat.set_params(settings.changed(chat.params, name, value.strip()))
    chat.screen.table(settings.rows(chat.params, chat.seed))


def _system(chat: Chat, rest: str) -> None:
    if not rest:
        chat.screen.note(f"The system prompt: {chat.system_prompt}" if chat.system_prompt else "No system prompt.")
        return
    if rest == '""':
        chat.set_system(None)
        chat.screen.note("No system prompt from now on.")
        return
    chat.set_system(rest)
    kept = "; the conversation goes on under it, /clear begins a new one" if chat.turns() else ""
    chat.screen.note(f"The system prompt is set{kept}.")


def _undo(chat: Chat, _: str) -> None:
    text = chat.undo()
    chat.screen.note("There is no question to take back." if text is None else f"Taken back: {_short(text)}")


def _save(chat: Chat, name: str) -> None:
    if not name:
        chat.screen.note("/save FILE: name the file to write")
        return
    try:
        path = Path(name).expanduser()
        try:
            transcript.save(chat.messages, path)
        except FileExistsError:
            if path.is_dir() or not chat.confirm(f"{path} exists. Overwrite it? [y/N] ", default=False):
                raise
            transcript.save(chat.messages, path, overwrite=True)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: "~name" of nobody
        chat.screen.note(f"{name}: not saved: {getattr(error, 'strerror', None) or error}")
    else:
        chat.screen.note(f"Saved {len(chat.messages)} messages in {path}.")


def _load(chat: Chat, name: str) -> None:
    if not name:
        chat.screen.note("/load FILE: name a file that /save wrote")
        return
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        chat.screen.note(f"{name}: not loaded: {error}")
        return
    chat.replace(transcript.load(path))
    last = chat.messages[-1]
    then = "; /retry answers the last one" if last["role"] == "user" else ""
    chat.screen.note(f"Loaded {len(chat.messages)} messages{then}. The last, by the {last['role']}:")
    chat.screen.note(_short(last["content"], 400))


def _short(text: str, most: int = 60) -> str:
    """Return the beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most].rstrip() + "…"


COMMANDS: dict[str, Command] = {
    "/help": Command("this list", _help),
    "/retry": Command("answer the last question again, with another seed", lambda chat, _: chat.retry()),
    "/undo": Command("take the last question and its answer back", _undo),
    "/clear": Command("forget the conversation, but not the system prompt", lambda chat, _: chat.clear()),
    "/system": Command('TEXT: set the system prompt and keep the conversation ("": none; alone: show it)', _system),
    "/set": Command(f"NAME VALUE: set {', '.join(settings.NAMES)} (alone: show them)", _set),
    "/save": Command("FILE: keep the conversation (as JSON where FILE ends in .json)", _save),
    "/load": Command("FILE: go on with a conversation that /save kept, instead of this one", _load),
    "/stats": Command("speed and memory of the last answer", _stats),
    "/bye": Command("leave, as Ctrl-D does", lambda chat, _: None),
}
KEYS = (
    ('"""', 'begins a text of several lines, which """ ends'),
    ("Alt-Enter", "starts a new line"),
    ("Ctrl-C", "ends an answer, and keeps what there is of it"),
)
