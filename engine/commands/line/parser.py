"""The parser of a command's flags: one line for each mistake, with the likeliest name; and llama.cpp's other flags."""

from __future__ import annotations

import argparse
import re
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ....models.errors import UsageError, did_you_mean
from . import llama_flags

_GLUED = re.compile(r"-[A-Za-z]-?\d.*", re.DOTALL)  # -t4, and never -ngl


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError with one line, takes no flag for another, and suggests names."""

    def __init__(self, prog: str, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def read(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return the arguments, and llama.cpp's flags among them that were left out; raises UsageError."""
        own = self._option_string_actions
        found = take(argv, own) if "-t" in own else Taken(list(argv), [])  # where a model runs
        args, unknown = self.parse_known_intermixed_args(found.rest)
        if flags := [word for word in unknown if len(word) > 1 and word[0] == "-"]:
            name = flags[0].partition("=")[0]
            self.error(f"{flags[0][:80]}: no such flag{did_you_mean(name, own)}")
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        if found.model is not None:
            if args.model is not None and getattr(args, "text", "") is not None:
                self.error(f"MODEL and -m: {args.model[:80]!r} and {found.model[:80]!r}: give one model")
            if args.model is not None:
                args.text = args.model  # the first word that is no flag
            args.model = found.model
        if found.raw:
            args.raw = True
        return args, found.ignored

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse keeps silent about a closed pipe

    def _get_option_tuples(self, option_string: str) -> Any:
        # argparse takes -ngl for -n gl, and -fa for -f a.
        return super()._get_option_tuples(option_string) if _GLUED.fullmatch(option_string) else []

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            problem = f"{str(value)[:80]!r} is none of {', '.join(known)}{did_you_mean(str(value), known)}"
            raise argparse.ArgumentError(action, problem)


@dataclass
class Taken:
    """What was found of llama.cpp's flags in a command line."""

    rest: list[str]  # the words that argparse reads
    ignored: list[str]  # flags without a meaning here, with their values
    model: str | None = None
    raw: bool = False


def take(argv: Sequence[str], own: Mapping[str, argparse.Action]) -> Taken:
    """Take llama.cpp's flags and their values out of a command line; raises UsageError for one that pyllm lacks.

    own: the command's flags, which are left where they are, with their values.
    """
    found, words = Taken([], []), deque(argv)
    while words:
        word = words.popleft()
        name, equals, given = word.partition("=")
        if word == "--":
            found.rest += [word, *words]
            break
        if word in own and word in llama_flags.SWITCHES and words and words[0] in ("0", "1"):
            found.rest += [word] * int(words.popleft())
            continue
        if name in own or name not in VALUES:
            found.rest.append(word)
            takes_value = word in own and isinstance(own[word], (argparse._StoreAction, argparse._AppendAction))
            if takes_value and words:
                found.rest.append(words.popleft())
            continue
        values = [given] if equals else _following(name, words)
        said = " ".join([name, *values])
        if name in MODELS:
            if found.model is not None:
                raise UsageError(f"{said[:80]}: a second model; give one")
            found.model = MODELS[name].format(values[0])
        elif name in llama_flags.RAW and "--raw" in own:
            found.raw = True
        elif name in LACKING and not _same(values, LACKING[name][0]):
            raise UsageError(f"{said[:80]}: llama.cpp's {name} is not there in pyllm; {LACKING[name][1]}")
        else:
            found.ignored.append(said)
    return found


def _following(name: str, words: deque[str]) -> list[str]:
    """Take a flag's values off the words that follow it."""
    form = VALUES[name]
    if form.startswith("["):
        known = "|".join(map(re.escape, form[1:-1].split("|")))
        listed = re.compile(f"({known})(,({known}))*", re.IGNORECASE)
        return [words.popleft()] if words and listed.fullmatch(words[0]) else []
    count = len(form.split())
    if len(words) < count:
        raise UsageError(f"argument {name}: expected {count} argument{'s' * (count > 1)}")
    return [words.popleft() for _ in range(count)]


def _same(values: Sequence[str], nothing: str | None) -> bool:
    """Return whether a flag's values ask for nothing; numbers may be written in several ways."""
    if not values or nothing is None:
        return False
    try:
        return float(values[0]) == float(nothing)
    except ValueError:
        return values[0] == nothing


def _each(rows: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table by each of the names in a row."""
    return {name: value for names, value in rows for name in names.split()}


MODELS: dict[str, str] = _each(llama_flags.MODEL)
LACKING: dict[str, tuple[str | None, str]] = _each((row[0], row[2:]) for row in llama_flags.LACKING)
VALUES: dict[str, str] = {
    **dict.fromkeys(MODELS, "N"),
    **dict.fromkeys(llama_flags.RAW, ""),
    **_each(llama_flags.IGNORED),
    **_each(row[:2] for row in llama_flags.LACKING),
}
"""The values that each flag takes."""
