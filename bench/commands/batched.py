"""`pyllm bench -npl`: many sequences at once, by llama-batched-bench's flags; measures nothing itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from ... import __version__
from ...engine.machine import host
from ...engine.machine.bars import Bars
from ...engine.machine.host import usable_cores
from ...engine.store import sources
from ...models.errors import UsageError
from ...models.progress import Progress
from ..batched import figures
from ..batched.batched_peer import BatchedPeer
from ..batched.grid import BatchedGrid
from ..batched.rounds import Rounds
from ..machine import noise, roofs
from ..machine.roofs import Roofs
from ..speed.record import Record
from .shared import StatusLine, deliver, settings, whole

SINGLE = {"n_prompt": "-p", "n_gen": "-n", "pg": "-pg", "n_depth": "-d"}
"""Flags that speak of one sequence at a time."""


def asked(args: argparse.Namespace) -> bool:
    """Return whether the flags ask for many sequences at once."""
    return bool(args.npp or args.ntg or args.npl or args.pps)


def run(args: argparse.Namespace) -> int:
    """Measure and print; after Ctrl-C, print what was measured until then."""
    for name, flag in SINGLE.items():
        if getattr(args, name):
            raise UsageError(f"{flag}: does not go with -npp, -ntg, -npl and -pps; leave it out")
    peer = None
    if args.against:
        peer = BatchedPeer.open(args.against, rotation=args.peer_rotation, extra=args.peer_args)
    line = StatusLine()
    with Bars() as progress:
        found = grid(args, progress).cases()
        rounds = Rounds(found, args.repetitions, peer, args.warmup, status=line, warn=line.warn)
        most = min(host.affinity(), max([usable_cores(), *(case.n_threads for case in found)]))
        here = roofs.of_this_machine(most, sources.cache_folder(), progress, line.warn)
    try:
        rounds.run()
    finally:
        line.clear()
        if records := rounds.records(here):
            deliver(args.output, figures.as_table(records), figures.FORMATS, records, notes(rounds, records, here))
    return 0


def grid(args: argparse.Namespace, progress: Progress) -> BatchedGrid:
    """Return the lists that the flags give. Raises UsageError."""
    return BatchedGrid(
        n_prompt=whole("-npp", args.npp, "512", 0),
        n_gen=whole("-ntg", args.ntg, "32", 0),
        n_sequences=whole("-npl", args.npl, "1,2,4,8,16,32", 1),
        shared=args.pps,
        **settings(args, progress),
    )


def notes(rounds: Rounds, records: Sequence[Record], here: Roofs) -> Iterator[str]:
    """Yield what a reader must know to judge the figures, a line each."""
    first = records[0]
    yield f"build: {first['build_commit']} (pyllm {__version__}, Numba {first['numba_version']})"
    yield f"cpu: {first['cpu_info']} ({first['cpu_features']})"
    yield (
        f"bus, unit: the shares of a step's time that its bytes and its multiply-adds take at the least here "
        f"(roofs of {here.measured}); the nearer the larger is to 100 %, the better. Nothing is sampled."
    )
    if rounds.peer:
        yield f"peer: {rounds.peer.description}"
    for warning in roofs.warnings(here):
        yield f"note: {warning}"
    if rounds.others > noise.BUSY:
        taken = f"other programs took {rounds.others:.0%} of this machine meanwhile"
        yield f"note: {taken}; a quiet one gives other figures"
