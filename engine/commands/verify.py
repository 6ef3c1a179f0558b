"""`pyllm verify`: checks structure, checksums and numbers of a model file; prints a table or JSON."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from ...models.file.gguf import GGUF
from ...models.progress import Progress
from ..machine.bars import Bars
from ..machine.plain import plain
from ..machine.units import size
from ..store.library import origin_of
from .screen import say

CHUNK = 1 << 20
SHOWN = 20  # bad tensors that are printed; the JSON has all


def run(args: Namespace) -> int:
    with Bars() as progress:
        facts = verify(Path(args.model), progress)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        for name, value in _rows(facts):
            say(f"{name:<11} {plain(value)}")
    return 0 if facts["ok"] else ModelError.exit_code


def verify(path: Path, progress: Progress) -> dict[str, Any]:
    """Return what is right and wrong with a file, or with all parts of a split model, as JSON types."""
    try:
        g, problem = GGUF.open(path), None
    except ModelError as error:
        if not path.is_file():
            raise
        g, problem = None, str(error)
    paths = g.paths if g else (path,)
    facts: dict[str, Any] = {
        "paths": [str(p) for p in paths],
        "bytes": sum(p.stat().st_size for p in paths),
        "structure": {"ok": problem is None, "problem": problem, "tensors": len(g.tensors) if g else 0},
        "sha256": [_checksum(p, progress) for p in paths],
        "values": _values(g, progress) if g else None,
    }
    numbers = facts["values"] is not None and not facts["values"]["bad"]
    facts["ok"] = problem is None and numbers and all(row["ok"] is not False for row in facts["sha256"])
    return facts


def _checksum(path: Path, progress: Progress) -> dict[str, Any]:
    """Return the file's sha256 and the expected one; `ok` is None if none is known."""
    origin = origin_of(path)
    if origin is None or not origin.sha256:
        return {"file": path.name, "ok": None, "expected": None, "found": None}
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(f"sha256 of {path.name}", done, total)
    found = digest.hexdigest()
    return {"file": path.name, "ok": found == origin.sha256, "expected": origin.sha256, "found": found}


def _values(g: GGUF, progress: Progress) -> dict[str, Any]:
    from ...kernels.lang import bus
    from ...models.file.numbers import is_checked, scan

    bus.guard()
    bad = scan(g, lambda done, total: progress("looking for NaN and infinity", done, total))
    g.check_unchanged()
    return {
        "bad": [{"tensor": b.tensor, "type": b.type, "count": b.count, "first": b.first} for b in bad],
        "unchecked": dict(Counter(t.type for t in g.tensors.values() if not is_checked(t.type))),
    }


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    structure, values, paths = facts["structure"], facts["values"], facts["paths"]
    more = f" and {len(paths) - 1} more parts" if len(paths) > 1 else ""
    rows = [("file", f"{paths[0]}{more}, {size(facts['bytes'])}")]
    if structure["ok"]:
        rows.append(
            ("structure", f"ok: {structure['tensors']} tensors, each inside the file, aligned, apart from others")
        )
    else:
        rows.append(("structure", f"WRONG: {structure['problem']}"))
    for row in facts["sha256"]:
        said = {
            True: f"ok: {row['found']}",
            False: f"WRONG: {row['found']} instead of {row['expected']}",
            None: "not known",
        }
        rows.append(("sha256", said[row["ok"]] + (f" ({row['file']})" if more else "")))
    if values is None:
        return [*rows, ("numbers", "not looked at")]
    if not values["bad"]:
        rows.append(("numbers", "ok: no NaN and no infinity"))
    for bad in values["bad"][:SHOWN]:
        where = f"{bad['count']:,} NaN or infinite, the first in block {bad['first']:,}"
        rows.append(("numbers", f"WRONG: {bad['tensor']!a} ({bad['type']}): {where}"))
    if len(values["bad"]) > SHOWN:
        rows.append(("", f"... and in {len(values['bad']) - SHOWN} more tensors"))
    rows += [("", f"not looked at: {n} tensors of {kind}") for kind, n in values["unchecked"].items()]
    return rows
