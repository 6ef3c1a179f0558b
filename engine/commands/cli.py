"""The command line: finds the command and turns errors into one line and an exit code; knows no command.

The table of commands is above all floors, in `__main__.py`. A command's module is imported when it is called, so that
`pyllm --help` answers at once.
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
from ..chat.interrupt import at_once
from ..machine.plain import plain
from .line.parser import Parser
from .line.streams import encode, fill, spare_stderr
from .screen import warn

INTERRUPTED = 128 + 2  # what a shell reports for a program that SIGINT ended
PIPE_CLOSED = 128 + 13  # likewise for SIGPIPE: the reader, such as `head`, has read enough
TERMINATED = 128 + 15

EPILOG = f"""\
exit codes:
  0    all went well
  1    something failed on the way: no network, no space left, a damaged download
  {UsageError.exit_code}    a flag or an argument is wrong
  3    the model file is missing, damaged or not supported, or was cut or changed while in use
  {FitError.exit_code}    the model and its KV cache do not fit in memory
  {INTERRUPTED}  Ctrl-C
  {PIPE_CLOSED}  the reader of the output closed it, as `head` does
  {TERMINATED}  SIGTERM

environment:
  PYLLM_CACHE  folder for files that are kept between runs, such as the default model
  HF_TOKEN     login for the Hugging Face hub; HF_HOME and HF_ENDPOINT work as in the hub's programs

more on a command: pyllm COMMAND --help"""


@dataclass(frozen=True)
class Command:
    """A command: its line in `pyllm --help`, its flags, and the full name of the module whose `run(args)` is called."""

    summary: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    module: str
    takes_path: bool = False  # args.model is resolved to a file on this machine before `run`


def main(commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Run one of the commands and return the process's exit code."""
    fill()
    encode()
    try:
        with _terminable():
            code = _dispatch(commands, list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()  # a closed pipe can still be handled here
            return code
    except PyllmError as error:
        return _complain(error, error.exit_code)
    except MemoryError:
        return _complain("out of memory; take a smaller -c or smaller cache types", FitError.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as ended:  # SIGTERM
        return ended.code if isinstance(ended.code, int) else PyllmError.exit_code
    except ImportError as error:
        missing = "; pip install pyllm installs what is missing" if isinstance(error, ModuleNotFoundError) else ""
        return _complain(f"{error}{missing}", PyllmError.exit_code)
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would complain.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:  # for example no space left for the output
        return _complain(error, PyllmError.exit_code)


def script(commands: Mapping[str, Command]) -> NoReturn:
    """Run a command and end the process, as the program `pyllm`."""
    try:
        _prepare()
        code = main(commands)
        sys.stderr.flush()
    except KeyboardInterrupt:  # before `main`, or once more, while the first was handled
        code = INTERRUPTED
    # All output is written and the threads are daemons. Tearing down Numba and LLVM would take another 0.4 s.
    os._exit(code)


def _prepare() -> None:
    """Make the process ready: warnings, logging, memory, streams."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what users should know is logged, in pyllm's own format
    gc.set_threshold(100_000)  # imports make half a million lasting objects; collecting them takes a tenth of the start
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Formatter("pyllm: %(message)s"))
    fill()
    spare_stderr()


def _dispatch(commands: Mapping[str, Command], argv: list[str]) -> int:
    name = next((name for n in (2, 1) if (name := " ".join(argv[:n])) in commands), "")
    command = commands.get(name)
    try:
        if command is None:
            if argv and (argv[0].endswith(".gguf") or argv[0].startswith(("hf:", "pypi:", "https:"))):
                raise UsageError(f"{argv[0][:80]}: is no command; did you mean pyllm run {argv[0][:80]}?")
            parser = _top(commands)
            parser.parse_args(argv)
            parser.print_help(sys.stderr)
            return UsageError.exit_code
        parser = Parser(f"pyllm {name}")
        with at_once():
            command.add_flags(parser)
        args, ignored = parser.read(argv[len(name.split()) :])
        if ignored and "--log-disable" not in ignored:
            warn(f"{', '.join(ignored)}: llama.cpp's, without a meaning here")
    except SystemExit as ended:  # --help and --version
        return int(ended.code or 0)
    if command.takes_path:
        from ..machine.bars import Bars
        from ..store.sources import resolve

        with Bars() as progress:
            args.model = str(resolve(args.model, offline=args.offline, progress=progress))
    with at_once():
        module = importlib.import_module(command.module)
    return int(module.run(args) or 0)


def _top(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    parser = Parser(
        "pyllm",
        description="GGUF language models on CPUs in pure Python, with a KV cache in any pair of formats.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"pyllm {__version__}")
    lines = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in commands.items():
        lines.add_parser(name, help=command.summary)
    return parser


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def _complain(problem: object, code: int) -> int:
    with suppress(OSError, AttributeError):
        warn(" ".join(str(problem).split()))
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that clean-up runs and no half-written file is left."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # signals go to the main thread only, and this is another
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
