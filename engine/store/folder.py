"""pyllm's own folder: the fetched models, and a record of where each came from; fetches nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from . import ours

BEGINS = b'{"source": "'  # a record
SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_folder() -> Path:
    """Return the folder of what pyllm keeps between runs: PYLLM_CACHE, else in the user's cache."""
    if given := os.environ.get("PYLLM_CACHE"):
        return Path(given).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("pyllm")


def models_folder() -> Path:
    """Return the folder of the models that pyllm fetched, with a folder in it for each source."""
    return cache_folder() / "models"


@dataclass(frozen=True)
class Origin:
    """Where a file came from. The record lies beside a file of ours, but apart for files in other programs' folders."""

    source: str  # what MODEL may be to get it again
    sha256: str = ""
    licence: str = ""


def remember(path: Path, origin: Origin) -> None:
    """Write the record of a file. Raises OSError, also if something that is not ours is in its place."""
    ours.write(_record(path), json.dumps(asdict(origin)).encode(), BEGINS)


def recall(path: Path) -> Origin | None:
    """Return the record of a file; None for a file of the user's own and for a damaged record."""
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        said = json.loads(ours.read(_record(path), begins=BEGINS))
        return Origin(**{name: str(value) for name, value in said.items()})
    return None


def forget(path: Path) -> None:
    """Delete the record of a file, if there is one of ours."""
    if not ours.problem(record := _record(path), BEGINS):
        record.unlink(missing_ok=True)


def _record(path: Path) -> Path:
    if models_folder() in path.parents:
        return path.with_name(f"{path.name}.json")
    return models_folder() / ".origins" / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]}.json"


def safe_name(name: str) -> str:
    """Make a file name of a name from elsewhere: no folder, nothing that a file system dislikes, not too long."""
    return re.sub(r"[^\w.+-]", "_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".")[-120:] or "model.gguf"
