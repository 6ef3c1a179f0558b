"""`pyllm run --parallel`: a file of prompts in, a line of JSON for each answer out; knows flags and streams."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .... import __version__
from ....models.arch.registry import read_config
from ....models.errors import PyllmError, UsageError
from ....models.progress import silent
from ...batch import work
from ...batch.answers import Kept, Printed
from ...batch.lines import BadLine, Lines, opened
from ...batch.room import AUTO, Room
from ...batch.tally import Tally
from ...chat.interrupt import impatient
from ...chat.prompt import encode
from ...machine.bars import Bars
from ...parking import Parking
from ...store import sources
from .. import screen
from ..asked import system_prompt
from .chosen import cache_of, context_size, loaded, sampling, warn_of_context

if TYPE_CHECKING:
    from ....models.cache.spec import CacheSpec
    from ....models.config import Config
    from ....models.file.gguf import GGUF
    from ...llm import LLM

PARK = ("park", "park_type", "park_limit")
ONLY = ("output", "keep_order", "keep_going", "retry_errors", "overcommit", *PARK, "max_step")


def asked(args: argparse.Namespace) -> bool:
    """Return whether the flags ask for many prompts; raises UsageError for those that do not go together."""
    if args.parallel is None:
        if given := [f"--{name.replace('_', '-')}" for name in ONLY if getattr(args, name)]:
            raise UsageError(f"{' and '.join(given)}: for many prompts; add --parallel N, and -f FILE with the prompts")
        return False
    if args.prompt is None and args.text is None:
        return True
    if args.parallel == 1 and args.file is None:
        return False  # llama.cpp's default, written out
    raise UsageError("--parallel takes its prompts from lines of JSON (-f FILE, or stdin): leave out -p and PROMPT")


def answer_lines(args: argparse.Namespace) -> int:
    """Answer the prompts in a file, several at once, and return the exit code."""
    if args.file is None and sys.stdin.isatty():
        raise UsageError('--parallel: name a file of prompts with -f, each line as {"prompt": "..."}')
    system, params, parking = system_prompt(args), sampling(args), parking_of(args)
    if args.retry_errors and args.output is None:
        raise UsageError("--retry-errors: tries lines of a file of answers again; name it with -o FILE")
    with Bars() as progress, opened(args.file or "-") as file:
        name = "stdin" if args.file in (None, "-") else args.file
        lines = Lines(file, name, params, system=system, raw=args.raw)
        total = _checked(lines, keep_going=args.keep_going)
        path = sources.resolve(args.model, offline=args.offline, progress=progress)
        return _Batch(path, args, lines, total, parking, progress).run()


def _checked(lines: Lines, *, keep_going: bool) -> int:
    """Return the number of lines; raises BadLine for the first bad one, unless bad lines are answered by an error."""
    total = bad = 0
    for line in lines:
        total += 1
        if isinstance(line, BadLine):
            bad += 1
            if not keep_going:
                raise UsageError(f"{line} (--keep-going leaves out lines that cannot be used)")
    if not total:
        raise UsageError(f'{lines.name}: no lines; each is a prompt, as in {{"prompt": "..."}}')
    if bad == total:
        raise UsageError(f"{lines.name}: none of its {total} lines can be used; the first: {next(iter(lines))}")
    return total


class _Batch:
    """A batch from its file of lines to its statistics."""

    def __init__(
        self,
        path: Path,
        args: argparse.Namespace,
        lines: Lines,
        total: int,
        parking: Parking | None,
        progress: Bars,
    ) -> None:
        from ....models.file.gguf import GGUF
        from ....models.text.template import ChatTemplate

        self.begin = perf_counter()
        self.args, self.lines, self.total, self.parking, self.progress = args, lines, total, parking, progress
        self.gguf = GGUF.open(path)
        self.config = read_config(self.gguf)
        self.n_ctx = context_size(args.ctx_size, self.config)
        self.cache = cache_of(self.gguf, self.config, args)
        self.template = ChatTemplate.from_gguf(self.gguf)

    def run(self) -> int:
        """Answer what has no answer yet; return the exit code."""
        settings = settings_of(self.args, self.gguf, self.config, self.cache, self.n_ctx)
        output, retry = self.args.output, self.args.retry_errors
        sink = Printed() if output is None else Kept(Path(output), settings, retry=retry)
        with closing(sink):
            tally = Tally(self.total, sum(map(sink.has, self.lines)))
            if tally.before == self.total:
                screen.warn(f"all {self.total} lines have their answers in {output}")
                return _code(tally, sink)
            return self._answer(sink, tally)

    def _load(self) -> LLM:
        from ....models.text import sandbox
        from ....models.text.tokenizer import Tokenizer

        room, overcommit = Room(self.gguf, self.config, self.cache, aside=self._aside), self.args.overcommit
        parallel = self.args.parallel
        if parallel == "auto":
            parallel = AUTO if overcommit else max(1, room.most(AUTO, self.n_ctx))
        parallel = min(parallel, self.total)
        tokens = room.tokens(parallel, self.n_ctx, overcommit=overcommit)
        if self.template is not None and not self.args.raw:
            sandbox.start()  # gets ready while the tokenizer is read
        tokenizer = Tokenizer.from_gguf(self.gguf)
        if self.args.raw:
            pass
        elif self.template is None:
            screen.note("pyllm: the model has no chat template: it continues the prompts as they stand")
        else:
            encode(tokenizer, self.template, "Hello", system=self.lines.system)
        warn_of_context(self.n_ctx, self.config)
        return loaded(
            self.gguf, self.args, self.progress, n_ctx=tokens, cache=self.cache, tokenizer=tokenizer,
            sequences=parallel, sequence_ctx=self.n_ctx,
        )  # fmt: skip

    @property
    def _aside(self) -> int:
        """Return the bytes of memory that pages of lines that wait may take."""
        return self.parking.limit if self.parking is not None and self.args.park is None else 0

    def _answer(self, sink: Printed | Kept, tally: Tally) -> int:
        llm = self._load()
        load, code, output = perf_counter() - self.begin, 0, self.args.output
        max_step = self.args.max_step or "off"
        scheduler = llm.scheduler(
            max_step=None if max_step == "off" else max_step, overcommit=self.args.overcommit, parking=self.parking
        )
        told = output is not None or not sys.stdout.isatty()  # a bar among answers would tear them

        def finish() -> None:
            tally.end()
            if tally.cut:
                screen.warn(f"{tally.cut} answers ended where the context of {llm.sequence_ctx} tokens was full (-c)")
            screen.table(tally.rows(llm, load))
            if tally.done < tally.total:
                how = f"the same command goes on with {output}" if output else "with -o FILE a run can go on"
                screen.warn(f"ended with {tally.total - tally.done} of {tally.total} lines left; {how}")

        tally.start()
        try:
            with impatient(last=finish):
                batch = work.Work(
                    scheduler, sink, lambda line: work.tokens_of(line, llm.tokenizer, self.template), tally,
                    keep_order=self.args.keep_order, progress=self.progress if told else silent,
                )  # fmt: skip
                batch.run(self.lines)
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except SystemExit as ended:  # SIGTERM
            code = int(ended.code or 0)
        except PyllmError:
            self.progress.close()
            finish()
            raise
        self.progress.close()
        finish()
        return code or _code(tally, sink)


def _code(tally: Tally, sink: Printed | Kept) -> int:
    """Return the exit code, and say how many lines failed."""
    before = sink.failed if isinstance(sink, Kept) else 0
    if not (failed := tally.failed + before):
        return 0
    again = "; --retry-errors tries them again" if isinstance(sink, Kept) else ""
    screen.warn(f"{failed} of {tally.total} lines failed: their answers hold an error{again}")
    return PyllmError.exit_code


def parking_of(args: argparse.Namespace) -> Parking | None:
    """Return where pages of lines that wait go, by the flags; raises UsageError for a folder that will not do."""
    given = [f"--{name.replace('_', '-')}" for name in PARK if getattr(args, name)]
    if not given:
        return None
    if not args.overcommit:
        raise UsageError(f"{given[0]}: is for lines that wait, which none does without --overcommit; add it")
    if given == ["--park-limit"]:
        raise UsageError("--park-limit: add --park DIR, or --park-type TYPE for copies in memory")
    if args.park is not None:
        try:
            tempfile.TemporaryFile(dir=args.park).close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--park {args.park}: {reason}: name a folder that can be written to") from None
    return Parking(args.park, args.park_limit, cache_type=args.park_type, warn=screen.warn)


def settings_of(args: argparse.Namespace, gguf: GGUF, config: Config, cache: CacheSpec, n_ctx: int) -> dict[str, Any]:
    """Return all that an answer depends on, besides its line."""
    return {
        "pyllm": __version__,
        "model": config.name,
        "model_bytes": gguf.nbytes,
        "ctx_size": n_ctx,
        "cache_type_k": cache.k,
        "cache_type_v": cache.v,
        "cache_rotate": cache.rotate,
        **({"cache_policy": cache.policy} if cache.policy else {}),
        "raw": args.raw,
        "system_prompt": args.system_prompt,
        **({"park_type": args.park_type} if args.park_type else {}),
        **{name: value for name, value in asdict(sampling(args)).items() if name != "stop"},  # only lines have it
    }
