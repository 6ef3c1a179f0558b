"""The command line: finds the command, turns what goes wrong into one line and an exit code; knows no command.

The table of commands stands above all floors, in `__main__.py`. A command's module is imported when it is called, so
that `pyllm --help` answers at once.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from ... import __version__
from ...models.errors import FitError, PyllmError, UsageError

INTERRUPTED = 128 + 2  # what a shell reports of a program that SIGINT ended
PIPE_CLOSED = 128 + 13  # and SIGPIPE: the reader, perhaps `head`, has what it wanted
TERMINATED = 128 + 15

EPILOG = f"""\
exit codes:
  0    all went well
  1    something failed on the way: no network, no space left, a damaged download
  {UsageError.exit_code}    a flag or an argument is wrong
  3    the model file is missing, damaged or not supported
  {FitError.exit_code}    the model and its KV cache do not fit in memory
  {INTERRUPTED}  Ctrl-C
  {PIPE_CLOSED}  the reader of the output closed it, as `head` does

environment:
  PYLLM_CACHE  folder of what is kept between runs, such as the default model
  HF_TOKEN     login for the Hugging Face hub; HF_HOME and HF_ENDPOINT as for its own programs

more on a command: pyllm COMMAND --help"""


@dataclass(frozen=True)
class Command:
    """A line of `pyllm --help`: its flags, and the module whose `run(args)` does the work, by its full name."""

    summary: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    module: str
    takes_path: bool = False  # args.model must be the path of a file that is here; other commands resolve it themselves


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are UsageErrors, on one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Run one of the commands and return the process's exit code."""
    try:
        with _terminable():
            code = _dispatch(commands, list(sys.argv[1:] if argv is None else argv))
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a closed pipe can still be handled
            return code
    except PyllmError as error:
        return _complain(error, error.exit_code)
    except MemoryError:
        return _complain("out of memory; a smaller -c or smaller cache types take less", FitError.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:  # such as no space left for the output
        return _complain(error, PyllmError.exit_code)


def script(commands: Mapping[str, Command]) -> NoReturn:
    """Be the program `pyllm`: run a command and end the process."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what users can do something about is logged, and looks like all that we say
    gc.set_threshold(100_000)  # a start makes half a million objects that stay: looking for dead ones is a tenth of it
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter("pyllm: %(message)s"))
    code = main(commands)
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    # All is written and the threads are daemons. Taking Numba and LLVM apart would be 0.4 s of waiting for the prompt.
    os._exit(code)


def _dispatch(commands: Mapping[str, Command], argv: list[str]) -> int:
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows "?" and goes on
    command = commands.get(argv[0]) if argv else None
    try:
        if command is None:
            parser = _top(commands)
            parser.parse_args(argv)
            parser.print_help(sys.stderr)
            return UsageError.exit_code
        parser = Parser(f"pyllm {argv[0]}", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        command.add_flags(parser)
        args = parser.parse_intermixed_args(argv[1:])
    except SystemExit as ended:  # --help and --version
        return int(ended.code or 0)
    if command.takes_path:
        from ..machine.bars import Bars
        from ..store.sources import resolve

        with Bars() as progress:
            args.model = str(resolve(args.model, offline=args.offline, progress=progress))
    return int(importlib.import_module(command.module).run(args) or 0)


def _top(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    parser = Parser(
        "pyllm",
        description="GGUF language models on CPUs in pure Python, with a KV cache in any pair of formats.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pyllm {__version__}")
    lines = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in commands.items():
        lines.add_parser(name, help=command.summary)
    return parser


def _complain(problem: object, code: int) -> int:
    with suppress(OSError, AttributeError):
        sys.stderr.write(f"pyllm: {' '.join(str(problem).split())}\n")
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends what is under way in order, so that no half-written file stays behind."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread, so nobody sends it signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
