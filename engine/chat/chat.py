"""A chat at the terminal: lines in, answers out, a few commands; knows a model only through the token loop."""

from __future__ import annotations

import signal
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TextIO

from ...models.errors import PyllmError
from ..generate import generate
from ..machine.bars import Bars
from ..results import Piece, Stop, Timings
from . import slash
from .interrupt import impatient
from .prompt import check_length, system_messages
from .stream import stream

if TYPE_CHECKING:
    from ..llm import LLM
    from ..sampler import SamplingParams
    from .transcript import Messages

PROMPT, MORE = "> ", ". "  # before a line, and before a further line of a block
BLOCK = '"""'
# What gpt-oss writes after its thoughts, which later turns must not contain. Other templates leave them out themselves.
FINAL = "<|channel|>final<|message|>"
GREETING = f"/help lists the commands, {BLOCK} or Alt-Enter starts a new line, /bye or Ctrl-D ends the chat."

ReadLine = Callable[[str], str]
"""Asks for a line with this prompt. Raises EOFError at the end, KeyboardInterrupt for Ctrl-C on an empty line."""


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
        self.llm, self.params, self.screen, self._load = llm, params, screen, load
        self.system_prompt = system_prompt
        self._out = sys.stdout if out is None else out
        self.timings: Timings | None = None  # of the last answer
        self._session = llm.session()
        self._read: ReadLine | None = None  # without it, nothing is asked
        self.clear()

    def loop(self, read_line: ReadLine) -> int:
        """Read lines and answer them; return the exit code. Ctrl-C ends an answer, a second one the chat."""
        self._read = read_line
        warned = False
        while True:
            try:
                line = read_line(PROMPT).strip()
            except EOFError:
                return 0
            except KeyboardInterrupt:
                if warned:
                    raise
                warned = True
                self.screen.note("Ctrl-C again, or /bye, ends the chat.")
                continue
            if not line:
                continue
            warned = False
            command = slash.COMMAND.match(line)
            text = line[command.end() :].strip() if command else line
            if text.startswith(BLOCK):
                text = self._block(text.removeprefix(BLOCK), read_line)
                if not text:
                    continue
            if command is None:
                warned = self.ask(text)
            elif slash.ALSO.get(command[0], command[0]) == "/bye":
                return 0
            else:
                warned = slash.call(self, command[0], text)

    def _block(self, text: str, read_line: ReadLine) -> str:
        """Return the lines up to one that ends with the mark, or to Ctrl-D; "" if Ctrl-C takes them back."""
        try:
            while not text.rstrip().endswith(BLOCK):
                text += "\n" + read_line(MORE)
        except EOFError:
            pass
        except KeyboardInterrupt:
            self.screen.note("The block is forgotten.")
            return ""
        text = text.rstrip().removesuffix(BLOCK).strip("\r\n")
        return text if text.strip() else ""

    def confirm(self, question: str, *, default: bool) -> bool:
        """Ask for yes or no; return the default for an empty line, and False if nobody can be asked."""
        if self._read is None:
            return False
        try:
            answer = self._read(question).strip().lower()
        except (EOFError, KeyboardInterrupt):
            return False
        return answer in ("y", "yes") if answer else default

    # The conversation ------------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """Return the seed in use."""
        return self._sampler.seed

    def turns(self) -> list[int]:
        """Return where the user's messages stand."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "user"]

    def clear(self) -> None:
        """Begin a new conversation under the same system prompt."""
        self.messages: Messages = system_messages(self.system_prompt)
        self.set_params(self.params)
        self.timings = None

    def set_params(self, params: SamplingParams) -> None:
        """Choose tokens by these parameters from now on; the random numbers begin anew."""
        self.params, self._sampler = params, self.llm.sampler(params)

    def set_system(self, text: str | None) -> None:
        """Set the system prompt and keep the conversation; raises a PyllmError if the template refuses it."""
        self.replace([*system_messages(text), *(m for m in self.messages if m["role"] != "system")])

    def replace(self, messages: Messages) -> None:
        """Go on with another conversation; raises a PyllmError if the template refuses it."""
        if any(message["role"] == "user" for message in messages):
            self._tokens(messages)
        self.messages = messages
        self.system_prompt = messages[0]["content"] if messages and messages[0]["role"] == "system" else None

    def undo(self) -> str | None:
        """Take the last question and its answer back; return the question, None if there is none."""
        turns = self.turns()
        if not turns:
            return None
        text = self.messages[turns[-1]]["content"]
        del self.messages[turns[-1] :]
        return text

    def retry(self) -> bool:
        """Answer the last question again, by another seed; return whether Ctrl-C ended the answer."""
        before = list(self.messages)
        text = self.undo()
        if text is None:
            self.screen.note("There is no question to answer again.")
            return False
        if self.params.temperature > 0:
            self._sampler = self.llm.sampler(replace(self.params, seed=(self.seed + 1) % 2**32))
        answered, interrupted = self._ask(text)
        if not answered:
            self.messages = before
        return interrupted

    # Answers ---------------------------------------------------------------------------------------------------------

    def ask(self, text: str) -> bool:
        """Answer one message; return whether Ctrl-C ended the answer."""
        return self._ask(text)[1]

    def _ask(self, text: str) -> tuple[bool, bool]:
        """Answer one message; return whether there is an answer, and whether Ctrl-C ended it."""
        before = list(self.messages)
        self.messages.append({"role": "user", "content": text})
        timings, said, answer = Timings(load=self._load), list[int](), ""
        stop: Stop | None = None
        broke_off = ""
        try:
            while True:
                piece, stop = self._answer(said, timings)
                answer += piece
                if stop != "context" or not self._make_room(said):
                    break
        except PyllmError as error:
            stop, broke_off = None, f"{error}; /clear starts anew"
        except _Interrupted:
            stop, broke_off = "interrupt", "Interrupted before the answer; the message is forgotten."
        if broke_off and not answer:
            self.messages = before
            self.screen.note(broke_off)
            return False, stop == "interrupt"
        self.messages.append({"role": "assistant", "content": answer.rpartition(FINAL)[2].strip()})
        self.timings = timings
        if stop is None:
            self.screen.note(broke_off)
        if stop == "context":
            self.screen.note(
                f"The context of {self.llm.n_ctx} tokens is full: /clear starts anew, a larger -c holds more."
            )
        self.screen.note(f"{timings.generated_n} tokens, {timings.decode_rate:.1f} tokens/s")
        return True, stop == "interrupt"

    def _answer(self, said: list[int], timings: Timings) -> tuple[str, Stop | None]:
        """Answer the last message, or go on after the tokens `said`, which grow; return (text, why it ended)."""
        if len(self._tokens(self.messages)) + len(said) > self.llm.n_ctx:
            self._make_room(said)
        tokens = [*self._tokens(self.messages), *said]
        check_length(tokens, self.llm.n_ctx, self.llm.config)
        with _ctrl_c() as pressed, Bars() as progress:

            def prefilling(stage: str, done: int, total: int, next: str = "") -> None:
                if pressed():
                    raise _Interrupted  # the cache stays consistent, and holds what was read so far
                progress(stage, done, total, next)

            def noted(pieces: Iterator[Piece]) -> Iterator[Piece]:
                for piece in pieces:
                    said.extend([] if piece.token is None else [piece.token])
                    yield piece

            pieces = generate(
                self._session, tokens, self._sampler, self.llm.tokenizer,
                n_predict=self.params.max_tokens, timings=timings, progress=prefilling, interrupted=pressed,
            )  # fmt: skip
            return stream(noted(pieces), self._out, progress)

    def _tokens(self, messages: Messages) -> list[int]:
        assert self.llm.template is not None
        return self.llm.template.encode(messages, self.llm.tokenizer)

    def _make_room(self, said: Sequence[int]) -> bool:
        """Offer to forget the oldest turns, so that a quarter of the context is free; return whether it was done.

        said: the tokens of the answer to the last message, which are kept as that message is.
        """
        system = [message for message in self.messages[:1] if message["role"] == "system"]
        later, n_ctx = self.turns()[1:], self.llm.n_ctx

        def taken(begin: int) -> int:
            return len(self._tokens([*system, *self.messages[begin:]])) + len(said)

        if not later or taken(later[-1]) >= n_ctx:
            return False
        begin = later[min(bisect_left(later, True, key=lambda i: taken(i) <= n_ctx * 3 // 4), len(later) - 1)]
        gone = begin - len(system)
        of = f"{gone} of {len(self.messages) - len(system)} messages"
        if not self.confirm(f"The context of {n_ctx} tokens is full. Forget the oldest {of}? [Y/n] ", default=True):
            return False
        self.messages = [*system, *self.messages[begin:]]
        return True


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
