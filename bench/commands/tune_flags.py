"""The flags of `tune`; reads no file."""

from __future__ import annotations

import argparse

from ...engine.commands.flags import MODEL, add_offline, whole

TUNE = """\
Measures which shapes of the kernels are the fastest on this machine, for the formats of a model's weights: how many
rows of a prompt a product takes at once, and how many stay in a core's cache. The winners are kept for this machine and
taken by every later run; `pyllm doctor` shows them. Answers do not change by a bit. It needs an idle machine, and takes
some seconds for each format. PYLLM_TUNE=0 and `pyllm run --no-tune` leave them aside."""


def add_tune(parser: argparse.ArgumentParser) -> None:
    parser.description = TUNE
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    threads = "threads (default: one for each core)"
    parser.add_argument("-t", "--threads", metavar="N", type=whole(1, 1024), help=threads)
    parser.add_argument("--clear", action="store_true", help="forget what was measured on this machine, and stop")
    parser.add_argument("--force", action="store_true", help="measure and keep it although other programs are busy")
    parser.add_argument("--json", action="store_true", help="print one JSON object with all that was measured")
    add_offline(parser)
