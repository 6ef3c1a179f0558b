"""A chat at the terminal: lines in, answers out, a few commands; knows a model only through the token loop."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TextIO

from ...models.errors import PyllmError
from ..generate import generate
from ..machine.bars import Bars
from ..results import Timings
from . import statistics
from .interrupt import impatient
from .prompt import check_length, system_messages
from .stream import stream

if TYPE_CHECKING:
    from ..llm import LLM
    from ..sampler import SamplingParams

COMMAND = re.compile(r"/[a-z]+(?=\s|$)")  # "/etc/passwd says" is not a command
# What gpt-oss writes after its thoughts, which later turns must not contain. Other templates leave them out themselves.
FINAL = "<|channel|>final<|message|>"
GREETING = "/help lists the commands, Alt-Enter starts a new line, /bye or Ctrl-D ends the chat."


class Screen(Protocol):
    """Where a chat writes its own messages, apart from the model's answers."""

    def note(self, text: str) -> None: ...
    def table(self, rows: Sequence[tuple[str, str]]) -> None: ...


class Chat:
    """A conversation and the session that holds its tokens."""

    def __init__(
        self,
        llm: LLM,
        params: SamplingParams,
        screen: Screen,
        *,
        system_prompt: str | None = None,
        load: float = 0.0,
        out: TextIO | None = None,
    ) -> None:
        """load: seconds that loading the model took, for the statistics. out: where answers go; default: stdout."""
        self._llm, self._params, self._screen, self._load = llm, params, screen, load
        self.system_prompt = system_prompt
        self._out = sys.stdout if out is None else out
        self._timings: Timings | None = None  # of the last answer
        self._session = llm.session()
        self.commands: dict[str, tuple[str, Callable[[str], None]]] = {
            "/help": ("this list", self._help),
            "/clear": ("forget the conversation", self._clear),
            "/stats": ("speed and memory of the last answer", self._stats),
            "/save": ("FILE: keep the conversation (as JSON where FILE ends in .json)", self._save),
            "/bye": ("leave", lambda _: None),
        }
        self._clear("")

    def loop(self, read_line: Callable[[], str]) -> int:
        """Read lines and answer them; return the exit code. Ctrl-C ends an answer, a second one the chat."""
        warned = False
        while True:
            try:
                line = read_line().strip()
            except EOFError:
                return 0
            except KeyboardInterrupt:
                if warned:
                    raise
                warned = True
                self._screen.note("Ctrl-C again, or /bye, ends the chat.")
                continue
            if not line:
                continue
            warned = False
            command = COMMAND.match(line)
            if command is None:
                warned = self.ask(line)
            elif command[0] == "/bye":
                return 0
            else:
                self._command(command[0], line[command.end() :].strip())

    def ask(self, text: str) -> bool:
        """Answer one message; return whether Ctrl-C ended the answer."""
        self.messages.append({"role": "user", "content": text})
        timings = Timings(load=self._load)
        try:
            assert self._llm.template is not None
            tokens = self._llm.template.encode(self.messages, self._llm.tokenizer)
            check_length(tokens, self._llm.n_ctx, self._llm.config)
            with _ctrl_c() as pressed, Bars() as progress:

                def prefilling(stage: str, done: int, total: int, next: str = "") -> None:
                    if pressed():
                        raise _Interrupted  # the cache stays consistent, and holds what was read so far
                    progress(stage, done, total, next)

                pieces = generate(
                    self._session, tokens, self._sampler, self._llm.tokenizer,
                    n_predict=self._params.max_tokens, ignore_eos=self._params.ignore_eos,
                    timings=timings, progress=prefilling, interrupted=pressed,
                )  # fmt: skip
                answer, stop = stream(pieces, self._out, progress)
        except PyllmError as error:
            self.messages.pop()
            self._screen.note(f"{error}; /clear starts anew")
            return False
        except _Interrupted:
            self.messages.pop()
            self._screen.note("Interrupted before the answer; the message is forgotten.")
            return True
        self.messages.append({"role": "assistant", "content": answer.rpartition(FINAL)[2].strip()})
        self._timings = timings
        if stop == "context":
            self._screen.note(
                f"The context of {self._llm.n_ctx} tokens is full: /clear starts anew, a larger -c holds more."
            )
        self._screen.note(f"{timings.generated_n} tokens, {timings.decode_rate:.1f} tokens/s")
        return stop == "interrupt"

    def _command(self, name: str, rest: str) -> None:
        if name not in self.commands:
            self._screen.note(f"{name}: no such command; /help lists them")
            return
        self.commands[name][1](rest)

    def _help(self, _: str) -> None:
        self._screen.note("\n".join(f"{name:<8}{what}" for name, (what, _) in self.commands.items()))

    def _clear(self, _: str) -> None:
        self.messages = system_messages(self.system_prompt)
        self._sampler = self._llm.sampler(self._params)
        self._timings = None

    def _stats(self, _: str) -> None:
        if self._timings is None:
            self._screen.note("Nothing was answered yet.")
            return
        self._screen.table(statistics.rows(self._llm, self._timings))

    def _save(self, name: str) -> None:
        if not name:
            self._screen.note("/save FILE: name the file to write")
            return
        if name.endswith(".json"):
            text = json.dumps(self.messages, ensure_ascii=False, indent=2)
        else:
            text = "\n\n".join(f"## {message['role']}\n\n{message['content']}" for message in self.messages)
        path = Path(name).expanduser()
        try:
            with path.open("x", encoding="utf-8") as file:  # "x" never overwrites a file
                file.write(text + "\n")
        except (OSError, ValueError) as error:
            self._screen.note(f"{path}: not saved: {getattr(error, 'strerror', None) or error}")
        else:
            self._screen.note(f"Saved {len(self.messages)} messages in {path}.")


class _Interrupted(Exception):
    """Ctrl-C came while the prompt was read."""


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed, to call between steps; a second one interrupts a step."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        with impatient(presses=2):
            yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
