"""`pyllm pull`: fetches models and prints their paths."""

from __future__ import annotations

import sys
from argparse import Namespace

from ..machine.bars import Bars
from ..machine.plain import plain
from ..store import sources


def run(args: Namespace) -> int:
    for name in args.models:
        with Bars() as progress:
            path = sources.resolve(name, offline=False, fresh=True, progress=progress)
        print(plain(path) if sys.stdout.isatty() else path, flush=True)
    return 0
