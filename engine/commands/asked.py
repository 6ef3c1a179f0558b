"""The prompt of `run`, from its flags or stdin; and checks whether it can chat without one."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ...models.errors import UsageError
from ..chat.prompt import check_text, encode, read_file
from .screen import note

if TYPE_CHECKING:
    from ...models.config import Config
    from ...models.text.template import ChatTemplate
    from ...models.text.tokenizer import Tokenizer


def read_prompt(args: argparse.Namespace) -> str | None:
    """Return the prompt; None if none was given and stdin is a terminal. Raises UsageError for two, or an empty one."""
    given = {"PROMPT": args.text, "-p": args.prompt, "-f": args.file}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)}: give one prompt (the first word that is not a flag is MODEL)")
    check_text("-sys", args.system_prompt)
    if args.raw and args.system_prompt is not None:
        raise UsageError("-sys and --raw: a system prompt needs the chat template that --raw leaves out")
    if args.file is not None:
        text = read_file(args.file)
    elif names:
        text = str(given[names[0]])
        check_text(names[0], text)
    elif sys.stdin is None or sys.stdin.isatty():
        return None
    else:
        text = read_file("-")
    if not text:
        where = "" if names else " (stdin gave none, and the first word that is not a flag is MODEL)"
        raise UsageError(f"the prompt is empty{where}: give a text with -p, or a file with -f")
    return text


def check_chat(args: argparse.Namespace) -> None:
    """Raise UsageError if the flags or the streams do not allow a chat."""
    if args.json or args.raw:
        raise UsageError(f"{'--json' if args.json else '--raw'} needs a prompt: give one with -p or on stdin")
    if sys.stdin is None or sys.stdout is None or not sys.stdout.isatty():
        raise UsageError("no prompt, and no terminal to chat at: give a prompt with -p or on stdin")


def check_template(
    config: Config, tokenizer: Tokenizer, template: ChatTemplate | None, args: argparse.Namespace
) -> None:
    """Raise a PyllmError if the model has no chat template, or one that cannot be used."""
    if template is None:
        raise UsageError(f"{config.name} has no chat template, so it cannot chat: give it a text to continue with -p")
    encode(tokenizer, template, "Hello", system=args.system_prompt)


def tokens_of(tokenizer: Tokenizer, template: ChatTemplate | None, args: argparse.Namespace, prompt: str) -> list[int]:
    """Return the prompt's tokens, in the form that the flags ask for; raises a PyllmError."""
    tokens = encode(tokenizer, template, prompt, system=args.system_prompt, raw=args.raw)
    if template is None and not args.raw:
        note("pyllm: the model has no chat template: it continues the prompt as it stands")
    return tokens
