"""`pyllm bench`: reads its flags, runs a suite and prints its records; measures nothing itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from ... import __version__
from ...engine.machine import tables, window
from ...engine.machine.bars import Bars
from ...engine.machine.host import last_level_cache, usable_cores
from ...engine.machine.plain import plain
from ...engine.machine.tables import show
from ...engine.machine.units import size
from ...models.cache.rotation import MODES
from ...models.progress import Progress
from ..machine.noise import BUSY
from ..speed import cases, output
from ..speed.peer import Peer
from ..speed.record import Record
from ..speed.suite import Suite, spread
from .shared import StatusLine, models

DRIFT = 0.1  # of the read bandwidth during a run; if it is more, a note says so
THREADS = 1024  # most that -t takes


def run(args: argparse.Namespace) -> int:
    """Measure and print; after Ctrl-C, print what was measured until then."""
    peer = Peer.open(args.against, rotation=args.peer_rotation, extra=args.peer_args) if args.against else None
    with Bars() as progress:
        suite = Suite(grid(args, progress).cases(), args.repetitions, peer, warm_up=args.warmup)
    line = StatusLine()
    suite.status, suite.warn = line, line.warn
    try:
        suite.run()
    finally:
        line.clear()
        if records := suite.records():
            if args.output == "table":
                show(output.as_table(records), sys.stdout)
            else:
                sys.stdout.write(output.FORMATS[args.output](records))
            where = sys.stdout if args.output in tables.FORMATS else sys.stderr
            print("", *(window.filled(plain(note), where) for note in notes(suite, records)), sep="\n", file=where)
    return 0


def grid(args: argparse.Namespace, progress: Progress) -> cases.Grid:
    """Return the lists that the flags give, with llama-bench's defaults. Raises UsageError."""

    def whole(name: str, flag: str, default: int, low: int, high: int = cases.LIMIT) -> list[int]:
        return cases.numbers(flag, getattr(args, name) or [str(default)], low, high)

    return cases.Grid(
        n_prompt=whole("n_prompt", "-p", 512, 0),
        n_gen=whole("n_gen", "-n", 128, 0),
        pairs=cases.pairs("-pg", args.pg or []),
        n_depth=whole("n_depth", "-d", 0, 0),
        n_batch=whole("batch_size", "-b", 2048, 1),
        n_ubatch=whole("ubatch_size", "-ub", 512, 1),
        type_k=cases.cache_types("k", args.cache_type_k, args.cache_type_k_layers),
        type_v=cases.cache_types("v", args.cache_type_v, args.cache_type_v_layers),
        cache_rotate=cases.names("--cache-rotate", args.cache_rotate or ["auto"], tuple(MODES)),
        n_threads=whole("threads", "-t", usable_cores(), 1, THREADS),
        models=list(models(args, progress)),  # last, after the flags are checked: it may fetch or write a file
    )


def notes(suite: Suite, records: Sequence[Record]) -> Iterator[str]:
    """Yield what a reader must know to judge the figures, a line each."""
    first = records[0]
    yield f"build: {first['build_commit']} (pyllm {__version__}, Numba {first['numba_version']})"
    yield f"cpu: {first['cpu_info']} ({first['cpu_features']})"
    for threads, found in suite.ceilings.items():
        figures = ", ".join(f"{value / 1e9:.1f}" for value in found)
        yield f"read bandwidth, -t {threads}: {figures} GB/s (before and after; the bus column refers to the higher)"
    if suite.peer:
        yield f"peer: {suite.peer.description}"
    cache = last_level_cache()
    small = [r for r in records if not r["n_prompt"] and r["bytes_weights"] + r["bytes_k"] + r["bytes_v"] < 2 * cache]
    if small:
        least = min(r["bytes_weights"] + r["bytes_k"] + r["bytes_v"] for r in small)
        yield (
            f"note: a token reads {size(least)}, much of which may stay in the last-level cache ({size(cache)}): "
            "such a case does not show the memory bus; --synthetic 3B does"
        )
    if any(spread(found) > DRIFT for found in suite.ceilings.values()):
        yield f"note: the read bandwidth changed by more than {DRIFT:.0%} during the run; compare only within the run"
    if suite.others > BUSY:
        yield f"note: other programs took {suite.others:.0%} of this machine meanwhile; a quiet one gives other figures"
