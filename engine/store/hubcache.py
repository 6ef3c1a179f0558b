"""The Hugging Face cache on the disk, shared with other programs; needs no huggingface_hub, fetches nothing.

HF_HOME/hub/models--USER--REPO/blobs/ID                     the files, by sha256 (small ones by git's id)
                               snapshots/COMMIT/NAME        links to them, a folder for each version
                               refs/main                    the newest version's commit
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from . import ours
from .folder import SHA256
from .pick import choose, parts_of


def folder() -> Path:
    """Return the cache's folder as huggingface_hub finds it: HF_HUB_CACHE, else in HF_HOME or the user's cache."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(given)
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return _expanded(home) / "hub"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser().absolute()


def repo_folder(repo: str) -> Path:
    return folder() / f"models--{repo.replace('/', '--')}"


def repos() -> Iterator[str]:
    """Yield the model repositories that have a folder in the cache."""
    with suppress(OSError):
        for path in sorted(folder().glob("models--*--*")):
            yield path.name.removeprefix("models--").replace("--", "/", 1)


def snapshots(repo: str) -> Iterator[dict[str, Path]]:
    """Yield the files of each version in the cache by their names in the repository, the newest version first."""
    root = repo_folder(repo)
    main = ""
    with suppress(OSError, UnicodeDecodeError):
        main = ours.read(root / "refs" / "main", 1000).decode().strip()
    with suppress(OSError):
        found = sorted((root / "snapshots").iterdir(), key=lambda path: (path.name != main, -path.stat().st_mtime))
        for snapshot in found:
            files = {path.relative_to(snapshot).as_posix(): path for path in sorted(snapshot.rglob("*.gguf"))}
            yield {name: path for name, path in files.items() if path.is_file()}  # no dangling links


def find(repo: str, quant: str = "", file: str = "") -> Path | None:
    """Return the model, or its first part, from the newest version that has all parts; None if none has."""
    for files in snapshots(repo):
        parts = parts_of(file) if file else choose(files, quant)
        if parts and files.keys() >= set(parts):
            return files[parts[0]]
    return None


def name_of(path: Path) -> tuple[str, str] | None:
    """Return the repository and the name in it of a file in the cache; None for other files."""
    with suppress(ValueError):
        first, second, _, *name = path.absolute().relative_to(folder()).parts
        if first.startswith("models--") and second == "snapshots" and name:
            return first.removeprefix("models--").replace("--", "/", 1), "/".join(name)
    return None


def sha256(path: Path) -> str:
    """Return the sha256 of a large file, which is its blob's name; "" for small files."""
    name = _blob(path).name
    return name if SHA256.fullmatch(name) else ""


def remove(repo: str, names: set[str]) -> int:
    """Delete files from all versions, and their blobs if nothing else links to them; return the bytes freed.

    If no file is left, delete the repository's folder too.
    """
    root = repo_folder(repo)
    links = [path for path in (root / "snapshots").rglob("*") if path.is_file() or path.is_symlink()]
    gone = [link for link in links if "/".join(link.relative_to(root / "snapshots").parts[1:]) in names]
    blobs = {_blob(link) for link in gone} - {_blob(link) for link in links if link not in gone}
    inside = root.resolve()
    blobs = {blob for blob in blobs if inside in (blob.parent.resolve() / "x").parents}  # a user's link leads elsewhere
    freed = sum(blob.stat().st_size for blob in blobs if blob.exists() and not blob.is_symlink())
    for path in {*gone, *blobs}:
        path.unlink(missing_ok=True)
    if not any(path.is_file() for folder in ("snapshots", "blobs") for path in (root / folder).rglob("*")):
        shutil.rmtree(root)
    return freed


def _blob(path: Path) -> Path:
    """Return the blob that a snapshot's link names; the file itself if the system has no links."""
    return Path(os.path.normpath(path.parent / os.readlink(path))) if path.is_symlink() else path
