"""The Hugging Face cache as it lies on the disk, shared with other programs; needs no huggingface_hub, fetches nothing.

HF_HOME/hub/models--USER--REPO/blobs/ID                     the files, by sha256 (small ones by git's id)
                               snapshots/COMMIT/NAME        links to them, a folder for each version
                               refs/main                    the newest version, a commit
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .folder import SHA256
from .pick import choose, parts_of


def folder() -> Path:
    """As huggingface_hub finds it: HF_HUB_CACHE, else in HF_HOME, else in the user's cache."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(given)
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return _expanded(home) / "hub"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser().absolute()


def repo_folder(repo: str) -> Path:
    return folder() / f"models--{repo.replace('/', '--')}"


def repos() -> Iterator[str]:
    """The model repositories that something is here of."""
    with suppress(OSError):
        for path in sorted(folder().glob("models--*--*")):
            yield path.name.removeprefix("models--").replace("--", "/", 1)


def snapshots(repo: str) -> Iterator[dict[str, Path]]:
    """The files of each version that is here, by their names in the repository; the newest version first."""
    root = repo_folder(repo)
    main = ""
    with suppress(OSError):
        main = (root / "refs" / "main").read_text(encoding="utf-8").strip()
    with suppress(OSError):
        found = sorted((root / "snapshots").iterdir(), key=lambda path: (path.name != main, -path.stat().st_mtime))
        for snapshot in found:
            files = {path.relative_to(snapshot).as_posix(): path for path in sorted(snapshot.rglob("*.gguf"))}
            yield {name: path for name, path in files.items() if path.is_file()}  # no links to what is gone


def find(repo: str, quant: str = "", file: str = "") -> Path | None:
    """The model (of a split one the first part) in the newest version that has all of it."""
    for files in snapshots(repo):
        parts = parts_of(file) if file else choose(files, quant)
        if parts and files.keys() >= set(parts):
            return files[parts[0]]
    return None


def name_of(path: Path) -> tuple[str, str] | None:
    """(repository, name) of a file in the cache; None for others."""
    with suppress(ValueError):
        first, second, _, *name = path.absolute().relative_to(folder()).parts
        if first.startswith("models--") and second == "snapshots" and name:
            return first.removeprefix("models--").replace("--", "/", 1), "/".join(name)
    return None


def sha256(path: Path) -> str:
    """As the hub told it: a large file's blob is named by it."""
    name = _blob(path).name
    return name if SHA256.fullmatch(name) else ""


def remove(repo: str, names: set[str]) -> int:
    """Deletes files from all versions, and their blobs if nothing else links to them; returns the bytes it frees.

    With its last file goes the repository.
    """
    root = repo_folder(repo)
    links = [path for path in (root / "snapshots").rglob("*") if path.is_file() or path.is_symlink()]
    gone = [link for link in links if "/".join(link.relative_to(root / "snapshots").parts[1:]) in names]
    blobs = {_blob(link) for link in gone} - {_blob(link) for link in links if link not in gone}
    freed = sum(blob.stat().st_size for blob in blobs if blob.exists() and not blob.is_symlink())
    for path in {*gone, *blobs}:
        path.unlink(missing_ok=True)
    if not any(path.is_file() for folder in ("snapshots", "blobs") for path in (root / folder).rglob("*")):
        shutil.rmtree(root)
    return freed


def _blob(path: Path) -> Path:
    """What a link of a snapshot leads to, one step; the file itself where the system has no links."""
    return Path(os.path.normpath(path.parent / os.readlink(path))) if path.is_symlink() else path
