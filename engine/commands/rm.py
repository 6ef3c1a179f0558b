"""`pyllm rm`: deletes models that were fetched, and nothing else."""

from __future__ import annotations

import sys
from argparse import Namespace

from ...models.errors import ModelError, UsageError
from ..machine.plain import plain
from ..machine.units import size
from ..store import sources
from ..store.library import Kept, kept, of_path, unfinished


def run(args: Namespace) -> int:
    if args.unfinished == bool(args.models):
        raise UsageError("name the models to delete, or give --unfinished (see pyllm rm --help)")
    if args.unfinished:
        return _remove_unfinished()
    models = list(dict.fromkeys(map(_find, args.models)))  # all names are checked before a model is deleted
    for model in models:
        if args.yes or _agreed(model):
            print(f"deleted {plain(model.name)}: {size(model.remove())} freed")
        else:
            print(f"kept {plain(model.name)}")
    return 0


def _remove_unfinished() -> int:
    parts = unfinished()
    freed = sum(part.stat().st_size for part in parts)
    for part in parts:
        part.unlink(missing_ok=True)
    print(f"deleted unfinished downloads: {size(freed)} freed")
    return 0


def _find(name: str) -> Kept:
    for model in kept():
        if name in (model.name, model.origin.source):
            return model
    path = sources.resolve(name, offline=True)
    if (found := of_path(path)) is None:
        cure = "delete it yourself; pyllm rm deletes only what `pyllm list` names"
        raise ModelError(path, "file", "is your own, pyllm did not fetch it", cure)
    return found


def _agreed(model: Kept) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "pyllm rm asks before it deletes, and there is no terminal to ask at; -y deletes without asking"
        )
    where = "the Hugging Face cache, which other programs share" if model.place == "hub" else model.paths[0].parent
    asked = f"delete {model.name} ({size(model.nbytes)}) from {where}?"
    print(f"{plain(asked)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
