"""The loop of a batch: lines go into the scheduler, answers come out; knows no flags and no terminal.

The answer to a line is the one that it has alone: it depends neither on the order of the lines nor on how many run at
once. A line's error is its answer, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from ...models.errors import PyllmError
from ...models.progress import Progress, silent
from ..chat.prompt import encode
from ..request import Request, Update
from ..results import Timings
from .answers import Answer
from .lines import BadLine, Line
from .tally import Tally

if TYPE_CHECKING:
    from ...models.text.template import ChatTemplate
    from ...models.text.tokenizer import Tokenizer
    from ..scheduler import Scheduler

HELD = 8  # answers for each sequence that may wait for those before them
SAMPLE = 16  # steps from one look at the pages to the next


class Sink(Protocol):
    """Where answers go."""

    def has(self, line: Line | BadLine) -> bool: ...
    def write(self, answer: Answer) -> None: ...


@dataclass
class Pending:
    """A line that runs."""

    line: Line
    place: int  # among the lines that this run answers
    prompt: int  # tokens
    seed: int
    timings: Timings
    pieces: list[str] = field(default_factory=list)
    last: float = 0.0  # when its last token came


def tokens_of(line: Line, tokenizer: Tokenizer, template: ChatTemplate | None) -> list[int]:
    """Return the tokens of a line's prompt; raises a PyllmError."""
    if line.prompt is not None:
        return encode(tokenizer, template, line.prompt, system=line.system, raw=line.raw)
    if template is None:
        raise PyllmError("messages: the model has no chat template to put them in; give a prompt to continue")
    system = [] if line.system is None else [{"role": "system", "content": line.system}]
    return template.encode([*system, *line.messages], tokenizer)


class Work:
    """Lines on their way through a scheduler."""

    def __init__(
        self,
        scheduler: Scheduler,
        sink: Sink,
        tokens: Callable[[Line], Sequence[int]],
        tally: Tally,
        *,
        keep_order: bool = False,
        progress: Progress = silent,
    ) -> None:
        """tokens: returns the tokens of a line's prompt. keep_order: answers come in the order of the lines.

        Otherwise they come as they are done, so that nothing waits and nothing is lost when the run is ended.
        """
        self._scheduler, self._sink, self._tokens, self._tally = scheduler, sink, tokens, tally
        self._parallel, self._keep_order, self._progress = scheduler.llm.n_sequences, keep_order, progress
        self._pending: dict[int, Pending] = {}
        self._held: dict[int, Answer] = {}  # by place, those that wait for others
        self._next = 0  # the place that is written next
        self._started = 0

    def run(self, lines: Iterable[Line | BadLine]) -> None:
        """Answer the lines that have no answer yet. What is written when an exception ends this stays."""
        source = (line for line in lines if not self._sink.has(line))
        steps, progress, tally = 0, self._progress, self._tally
        while self._feed(source) or not self._scheduler.idle:
            for update in self._scheduler.step():
                self._take(update)
            if steps % SAMPLE == 0:
                tally.pages = max(tally.pages, _pages(self._scheduler))
            steps += 1
            progress("answering", tally.done, tally.total, tally.status(len(self._scheduler.running)))
        tally.end()

    def _feed(self, source: Iterator[Line | BadLine]) -> bool:
        """Start lines as long as the scheduler should know more; return whether one was started."""
        before = self._started
        while len(self._pending) < 2 * self._parallel and len(self._held) < HELD * self._parallel:
            if (line := next(source, None)) is None:
                break
            self._start(line)
        return self._started > before

    def _start(self, line: Line | BadLine) -> None:
        place, self._started = self._started, self._started + 1
        if isinstance(line, BadLine):
            failed = {"id": line.id, "line": line.number, "error": line.problem, "request": line.digest}
            self._fail(place, failed)
            return
        try:
            prompt = self._tokens(line)
            params = line.params.seeded()
            id = self._scheduler.add(Request(prompt, params))
        except PyllmError as error:
            self._fail(place, _failed(line, error))
            return
        timings = self._scheduler.timings(id)
        assert timings is not None
        self._pending[id] = Pending(line, place, len(prompt), params.seed, timings)

    def _take(self, update: Update) -> None:
        """Take what a step gave to a line."""
        pending, piece = self._pending[update.id], update.piece
        pending.pieces.append(piece.text)
        if piece.token is not None:
            now = perf_counter()
            if pending.last:
                self._tally.between.add(now - pending.last)
            pending.last = now
            self._tally.generated_n += 1
        if update.error is not None:
            del self._pending[update.id]
            self._fail(pending.place, _failed(pending.line, update.error))
        elif piece.stop is not None:
            del self._pending[update.id]
            self._tally.count(pending.timings, piece.stop)
            self._finish(pending.place, _answer(pending, piece.stop))

    def _fail(self, place: int, answer: Answer) -> None:
        self._tally.failed += 1
        self._finish(place, answer)

    def _finish(self, place: int, answer: Answer) -> None:
        """Write an answer, or hold it until those before it are written."""
        if not self._keep_order:
            self._sink.write(answer)
            return
        self._held[place] = answer
        while self._next in self._held:
            self._sink.write(self._held.pop(self._next))
            self._next += 1


def _answer(pending: Pending, stop: str) -> Answer:
    line, times = pending.line, pending.timings
    answer: dict[str, Any] = {"id": line.id, "text": "".join(pending.pieces), "stop": stop}
    answer |= {"prompt_tokens": pending.prompt, "reused_tokens": times.reused_n, "tokens": times.generated_n}
    answer |= {"requantized_tokens": times.requantized_n} if times.requantized_n else {}
    answer |= {"seed": pending.seed, "seconds": round(times.prompt + times.decode, 4)}
    return _with_metadata(answer, line)


def _failed(line: Line, error: PyllmError) -> Answer:
    return _with_metadata({"id": line.id, "error": str(error)}, line)


def _with_metadata(answer: Answer, line: Line) -> Answer:
    return {**answer, **({} if line.metadata is None else {"metadata": line.metadata}), "request": line.digest}


def _pages(scheduler: Scheduler) -> int:
    """Return how many pages, of layers that keep all tokens, running sequences have; shared ones count once."""
    tables = [r.own.tables[0] for r in scheduler.running]
    return len(set(chain.from_iterable(table.pages[table.first : table.count].tolist() for table in tables)))
