"""`pyllm tune`: has the shapes of a model's products measured, and keeps the best for this machine."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from time import sleep

from ...engine.commands.screen import warn
from ...engine.llm import LLM
from ...engine.machine import host
from ...engine.machine.bars import Bars
from ...engine.machine.tables import Table, show
from ...engine.store import sources, tuned
from ...kernels.ops import linear
from ...kernels.shapes import Shape
from ...models.cache.sizes import PREFILL_ROWS
from ...models.errors import PyllmError, UsageError
from ...models.forward.step import PlanKind
from ..machine import tournament
from ..machine.noise import BUSY, Conditions, Others
from ..machine.tournament import Winner

LOOK = 0.5  # seconds for which other programs are watched before anything is measured


def run(args: argparse.Namespace) -> int:
    """Measure, keep and print; with --clear, only forget what was kept."""
    if args.clear:
        print("forgotten" if tuned.clear() else "nothing was kept for this machine")
        return 0
    if tuned.off():
        raise UsageError("PYLLM_TUNE=0 is set, so nothing that is measured would be used; unset it")
    if not args.force and (share := _others()) > BUSY:
        raise PyllmError(f"other programs take {share:.0%} of this machine: what is fast now may not be later; "
                         "try again on an idle machine, or say --force")  # fmt: skip
    threads = args.threads or host.usable_cores()
    conditions = Conditions()
    with Bars() as progress:
        path = sources.resolve(args.model, offline=args.offline, progress=progress)
        with LLM(path, n_threads=threads, n_ctx=PREFILL_ROWS, tune=False, progress=progress) as llm:
            plan = llm.model.plan(PlanKind.PREFILL)
            found = list(tournament.winners(plan, PREFILL_ROWS, llm.model.team, progress))
    spoiled = list(conditions.warnings())
    if found and (args.force or not spoiled):
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        tuned.keep({won.fmt: tuned.Best(won.shape, won.gain, now) for won in found})
    _print(found, threads, args.json)
    for line in spoiled:
        warn(line if args.force else f"{line}; nothing is kept (--force keeps it)")
    return 0


def _others() -> float:
    """Return the share of the machine that other programs take now."""
    others = Others()
    sleep(LOOK)
    return others.share()


def _print(found: list[Winner], threads: int, as_json: bool) -> None:
    if as_json:
        formats = [{"format": won.fmt, "rows": won.shape.rows, "chunk": won.shape.chunk, "gain": won.gain,
                    "seconds": [[s.rows, s.chunk, t] for s, t in won.seconds.items()]} for won in found]  # fmt: skip
        print(json.dumps({"threads": threads, "prompt": PREFILL_ROWS, "formats": formats}, indent=2))
        return
    if not found:
        print("no shape to choose: products of many rows are done on the matrix unit")
        return
    rows = [[won.fmt, text(linear.SHAPE), text(won.shape), f"{won.gain:.2f}"] for won in found]
    caption = f"products of {PREFILL_ROWS} rows on {threads} threads"
    show(Table(caption, ["weights", "default", "best here", "times as fast"], rows, left=(0, 1, 2)), sys.stdout)


def text(shape: Shape) -> str:
    """Return a shape for people."""
    return f"{shape.rows} rows at once, {shape.chunk} a chunk"
