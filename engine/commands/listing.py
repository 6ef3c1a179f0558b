"""`pyllm list`: prints the models that are here."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from datetime import datetime, timezone

from ..machine.tables import Table, show
from ..machine.units import size
from ..store.catalogue import CATALOGUE
from ..store.library import Kept, kept, unfinished
from .screen import warn


def run(args: Namespace) -> int:
    models = kept()
    here = {model.name for model in models}
    others = [entry for entry in CATALOGUE.values() if entry.name not in here] if args.all else []
    if args.output == "json":
        known = [
            {"name": entry.name, "source": entry.source, "bytes": entry.size, "licence": entry.licence, "paths": []}
            for entry in others
        ]
        print(json.dumps([*map(_as_json, models), *known], indent=2))
        return 0
    if not models and not args.all:
        warn("no model is here yet; pyllm list --all names some, pyllm pull fetches them")
    if rows := [_row(model) for model in models]:
        _print(("MODEL", "SIZE", "TYPE", "FETCHED", "IN"), rows, args.output)
    if parts := unfinished():
        amount = size(sum(part.stat().st_size for part in parts))
        warn(f"{amount} of unfinished downloads are here too; pyllm pull goes on with them")
    if others:
        print("\nnot here; pyllm pull fetches them" if rows else "pyllm pull fetches them:")
        _print(
            ("MODEL", "SIZE", "LICENCE", "FROM"),
            [(e.name, size(e.size), e.licence, e.source) for e in others],
            args.output,
        )
    return 0


def _row(model: Kept) -> tuple[str, ...]:
    fetched = datetime.fromtimestamp(model.time).strftime("%Y-%m-%d %H:%M")
    return model.name, size(model.nbytes), model.quant or "-", fetched, model.place


def _as_json(model: Kept) -> dict[str, object]:
    return {
        "name": model.name,
        "source": model.origin.source,
        "bytes": model.nbytes,
        "type": model.quant or None,
        "fetched": datetime.fromtimestamp(model.time, timezone.utc).isoformat(timespec="seconds"),
        "in": model.place,
        "licence": model.origin.licence or None,
        "sha256": model.origin.sha256 or None,  # of the first part
        "paths": [str(path) for path in model.paths],
    }


def _print(head: tuple[str, ...], rows: list[tuple[str, ...]], how: str) -> None:
    """Print a table with sizes to the right."""
    show(Table("", head, rows, left=[i for i, name in enumerate(head) if name != "SIZE"], rule=False), sys.stdout, how)
