"""The prompt of `run`, from its flags or stdin; and checks whether it can chat without one."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ...models.errors import UsageError
from ..chat.prompt import check_text, encode, read_file, read_stdin, unescaped
from .screen import note

if TYPE_CHECKING:
    from ...models.config import Config
    from ...models.text.template import ChatTemplate
    from ...models.text.tokenizer import Tokenizer


def read_prompt(args: argparse.Namespace) -> str | None:
    """Return the prompt; None if none was given and stdin is a terminal. Raises UsageError for two, or an empty one.

    What is piped to stdin comes before a prompt of the flags, as in `llm`. Also puts the text of -sysf and the escapes
    of -sys into `args.system_prompt`.
    """
    given = {"PROMPT": args.text, "-p": args.prompt, "-f": args.file}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)}: give one prompt (the first word that is not a flag is MODEL)")
    system_prompt(args)
    if not names:
        if sys.stdin is None or sys.stdin.isatty():
            return None
        text = read_file("-")
    elif args.file is not None:
        text = read_file(args.file)
    else:
        text = _typed(names[0], given[names[0]], args)
    if names and args.file != "-":
        piped = read_stdin()
        text = " ".join(filter(None, (piped if piped.strip() else "", text)))
    if not text:
        where = "" if names else " (stdin gave none, and the first word that is not a flag is MODEL)"
        raise UsageError(f"the prompt is empty{where}: give a text with -p, or a file with -f")
    return text


def system_prompt(args: argparse.Namespace) -> str | None:
    """Return the system prompt of the flags, and put it into `args.system_prompt`; raises UsageError."""
    args.system_prompt = _system_prompt(args)
    if args.raw and args.system_prompt is not None:
        raise UsageError("-sys and --raw: a system prompt needs the chat template that --raw leaves out")
    return args.system_prompt  # type: ignore[no-any-return]


def _system_prompt(args: argparse.Namespace) -> str | None:
    if args.system_prompt_file is None:
        return None if args.system_prompt is None else _typed("-sys", args.system_prompt, args)
    if args.system_prompt is not None:
        raise UsageError("-sys and -sysf: give one system prompt")
    if args.system_prompt_file == "-":
        raise UsageError("-sysf -: stdin is for the prompt; name a file")
    return read_file(args.system_prompt_file, "-sysf")


def _typed(flag: str, text: str, args: argparse.Namespace) -> str:
    """Return a text from the shell, its escapes replaced unless --no-escape is given; raises UsageError."""
    check_text(flag, text)
    return unescaped(flag, text) if args.escape else text


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
    if tokenizer.bos_id is not None and tokens[:2] == [tokenizer.bos_id] * 2:
        note("pyllm: the prompt begins with BOS, and the model's own comes before it: leave yours out")
    return tokens
