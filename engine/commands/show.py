"""`pyllm show`: prints what `inspect` does of a model that is here, and where it came from."""

from __future__ import annotations

from argparse import Namespace

from ...models.describe import describe
from ...models.file.gguf import GGUF
from ..store import sources
from ..store.folder import Origin
from ..store.library import origin_of
from .facts import present


def run(args: Namespace) -> int:
    path = sources.resolve(args.model, offline=True)
    g = GGUF.open(path)
    origin = origin_of(g.path) or Origin("a file of your own")
    licence = origin.licence or str(g.metadata.get("general.license") or "")
    return present(describe(g) | {"origin": {"path": str(g.path), "from": origin.source, "licence": licence}}, args)
