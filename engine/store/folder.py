"""pyllm's own folder: where fetched models lie, and what is remembered of where they came from; fetches nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_folder() -> Path:
    """What pyllm keeps between runs lies here; PYLLM_CACHE names another folder."""
    if given := os.environ.get("PYLLM_CACHE"):
        return Path(given).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("pyllm")


def models_folder() -> Path:
    """The models that pyllm fetched, a folder for each source."""
    return cache_folder() / "models"


@dataclass(frozen=True)
class Origin:
    """Where a file came from. A record beside a file of ours; those of files in other programs' folders lie apart."""

    source: str  # what MODEL may be to get it again
    sha256: str = ""
    licence: str = ""


def remember(path: Path, origin: Origin) -> None:
    record = _record(path)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(asdict(origin)), encoding="utf-8")


def recall(path: Path) -> Origin | None:
    """What was remembered of the file; None for a file of the user's own, and where the record is damaged."""
    with suppress(OSError, ValueError, TypeError):
        said = json.loads(_record(path).read_text(encoding="utf-8"))
        return Origin(**{name: str(value) for name, value in said.items()})
    return None


def forget(path: Path) -> None:
    _record(path).unlink(missing_ok=True)


def _record(path: Path) -> Path:
    if models_folder() in path.parents:
        return path.with_name(f"{path.name}.json")
    return models_folder() / ".origins" / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]}.json"


def safe_name(name: str) -> str:
    """A name from elsewhere as a file name of ours: no folder, nothing that a file system dislikes, not too long."""
    return re.sub(r"[^\w.+-]", "_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".")[-120:] or "model.gguf"
