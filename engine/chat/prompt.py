"""The text to answer: where the flags say it is, and its tokens; runs no model."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.errors import UsageError

if TYPE_CHECKING:
    from ...models.config import Config
    from ...models.text.template import ChatTemplate
    from ...models.text.tokenizer import Tokenizer

LIMIT = 64 << 20  # bytes of a prompt; `-f /dev/zero` ends here


def read_prompt(args: argparse.Namespace) -> str | None:
    """The one prompt that was given; None if there is none, and somebody at a terminal who can type it."""
    given = {"PROMPT": args.text, "-p": args.prompt, "-f": args.file}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)}: give one prompt (the first word that is no flag is MODEL)")
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
        where = "" if names else " (stdin gave none, and the first word that is no flag is MODEL)"
        raise UsageError(f"the prompt is empty{where}: give a text with -p, or a file with -f")
    return text


def check_text(flag: str, text: str | None) -> None:
    """Refuses what the shell passed that is not UTF-8."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{flag}: not UTF-8 at character {error.start}: pass the text in UTF-8") from None


def read_file(name: str) -> str:
    """The text in a file (-: stdin), without the newline at its end."""
    said = "stdin" if name == "-" else f"-f {name}"
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            raw = file.read(LIMIT + 1)
        if len(raw) > LIMIT:
            raise UsageError(f"{said}: longer than {LIMIT >> 20} MiB, which no context holds: give a shorter text")
        return raw.decode("utf-8").removesuffix("\n")  # the one that `echo` and editors put there
    except UnicodeDecodeError as error:
        raise UsageError(f"{said}: not UTF-8 at byte {error.start}: save or convert it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{said}: {getattr(error, 'strerror', None) or error}: name a text file") from None


def check_chat(args: argparse.Namespace) -> None:
    """Refuses a chat where it cannot be held."""
    if args.json or args.raw:
        raise UsageError(f"{'--json' if args.json else '--raw'} needs a prompt: give one with -p or on stdin")
    if sys.stdin is None or sys.stdout is None or not sys.stdout.isatty():
        raise UsageError("no prompt, and no terminal to chat at: give a prompt with -p or on stdin")


def check_template(
    config: Config, tokenizer: Tokenizer, template: ChatTemplate | None, args: argparse.Namespace
) -> None:
    """Refuses a chat with a model that has no template for it, or one that cannot be used."""
    if template is None:
        raise UsageError(f"{config.name} has no chat template, so it cannot chat: give it a text to continue with -p")
    encode(tokenizer, template, args, "Hello")


def encode(tokenizer: Tokenizer, template: ChatTemplate | None, args: argparse.Namespace, prompt: str) -> list[int]:
    """The prompt's tokens: a user's turn in the chat template, or the text as it stands."""
    if args.raw:
        return tokenizer.encode(prompt, special=True, bos=True)
    if template is None:
        if args.system_prompt is not None:
            raise UsageError("-sys: the model has no chat template to put a system prompt in; write it into the prompt")
        print("pyllm: the model has no chat template: it continues the prompt as it stands", file=sys.stderr)
        return tokenizer.encode(prompt, bos=True)
    return template.encode([*system(args), {"role": "user", "content": prompt}], tokenizer)


def system(args: argparse.Namespace) -> list[dict[str, str]]:
    """The messages that a conversation begins with."""
    return [] if args.system_prompt is None else [{"role": "system", "content": args.system_prompt}]


def check_length(tokens: list[int], n_ctx: int, config: Config) -> None:
    if not tokens:
        raise UsageError("the prompt has no tokens: give a text with -p, or a file with -f")
    if len(tokens) > n_ctx:
        most = config.n_ctx_train
        cure = f"-c {len(tokens) + 256} would hold it, or " if len(tokens) + 256 <= most else ""
        raise UsageError(
            f"the prompt has {len(tokens)} tokens, the context (-c) holds {n_ctx} and the model's own {most}; "
            f"{cure}shorten the prompt"
        )
