"""Models of the Hugging Face hub: fetches a repository's files into the hub's own cache, shared with other programs.

huggingface_hub (an extra) asks for names, sizes and checksums, knows logins, and links files into the cache; the bytes
come through `fetch.py`, which resumes a download that broke off.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

from ...models.errors import ModelError, PyllmError, UsageError, did_you_mean
from ...models.progress import Progress
from . import hubcache
from .disk import alone, check_space, disk_errors
from .fetch import AGAIN, LONGEST_PAUSE, PAUSES, Refused, Remote, fetch, incomplete
from .folder import Origin, models_folder, remember
from .pick import PREFERRED, choose, models_of, parts_of, quant_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOG = logging.getLogger(__name__)

T = TypeVar("T")
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_NAME = re.compile(rf"({_PART}/{_PART})(?::([\w.-]+)|/([^:\\]+\.gguf))?", re.IGNORECASE)
HINT = "hf:USER/REPO, hf:USER/REPO:QUANT or hf:USER/REPO/FILE.gguf"


@dataclass(frozen=True)
class Name:
    """The name USER/REPO, USER/REPO:QUANT or USER/REPO/FILE."""

    repo: str
    quant: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f":{self.quant}" if self.quant else "") + (f"/{self.file}" if self.file else "")

    @classmethod
    def parse(cls, text: str) -> Name | None:
        match = _NAME.fullmatch(text)
        if match is None or ".." in text.split("/"):
            return None
        return cls(match[1], match[2] or "", match[3] or "")


@dataclass(frozen=True)
class File:
    """A file of a repository, as the hub describes it."""

    name: str
    size: int
    sha256: str  # "" for a small file
    blob: str  # the name of its bytes in the cache


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def resolve(text: str, *, offline: bool, fresh: bool, progress: Progress) -> Path:
    """Return the model's file, or its first part; fetch it if it is not here or, with `fresh`, not the newest."""
    name = Name.parse(text)
    if name is None:
        raise UsageError(f"MODEL hf:{text[:100]}: is not the name of a model on the hub; write {HINT}")
    forbidden = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    offline = offline or forbidden
    here = hubcache.find(name.repo, name.quant, name.file)
    # If no quantization is named, the hub may have a better one than the one that is here.
    sure = here is not None and bool(name.quant or name.file or choose([here.name], PREFERRED[0]))
    if here is not None and (offline or (sure and not fresh)):
        return here
    if offline:
        cure = ("unset HF_HUB_OFFLINE; " if forbidden else "") + f"pyllm pull {name} fetches it"
        raise ModelError(name, "file", "is not here", cure)
    if importlib.util.find_spec("huggingface_hub") is None:
        if here is not None:
            return here
        raise PyllmError(f"{name}: fetching it needs huggingface_hub; pip install 'pyllm[hub]'")
    try:
        return _Hub(name).fetch(progress)
    except _Unreachable as error:
        if here is None:
            raise
        _LOG.warning("%s; taking what is here", error)
        return here


class _Unreachable(PyllmError):
    """The hub does not answer, or only with its own errors."""


class _Hub:
    """A repository on the hub."""

    def __init__(self, name: Name) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when huggingface_hub is imported
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        import huggingface_hub

        self.name, self.hub = name, huggingface_hub
        self.token = huggingface_hub.get_token() or ""
        self.api: HfApi = huggingface_hub.HfApi(endpoint=endpoint(), token=self.token or False, library_name="pyllm")

    def fetch(self, progress: Progress) -> Path:
        """Fetch all parts of the model into the cache and return the path of the first."""
        info, files = self._ask(self._describe)
        parts = self._choose(files)
        commit, root = info.sha or "main", hubcache.repo_folder(self.name.repo)
        title = f"{self.name.repo} {parts[0].name}"
        with disk_errors(hubcache.folder(), title):
            (root / "blobs").mkdir(parents=True, exist_ok=True)
            check_space(root, sum(_missing(file, root, commit) for file in parts), title)
            for file in parts:
                self._fetch(file, root, commit, progress)
        first = hubcache.find(self.name.repo, file=parts[0].name)
        assert first is not None, parts
        licence = str((info.card_data or {}).get("license") or "")
        for file in parts:
            path = first.with_name(file.name.rpartition("/")[2])
            with disk_errors(models_folder(), title):
                remember(path, Origin(f"hf:{self.name.repo}/{file.name}", file.sha256, licence))
        return first

    def _describe(self) -> tuple[Any, dict[str, File]]:
        info = self.api.model_info(self.name.repo, files_metadata=True, timeout=30)
        return info, {s.rfilename: _file(s) for s in info.siblings or [] if s.rfilename.lower().endswith(".gguf")}

    def _choose(self, files: dict[str, File]) -> list[File]:
        wanted = parts_of(self.name.file) if self.name.file else choose(files, self.name.quant)
        if wanted and files.keys() >= set(wanted):
            return [files[name] for name in wanted]
        if missing := [name for name in wanted if name not in files and len(wanted) > 1]:
            cure = "name another repository"
            raise ModelError(self.name, missing[0], f"is missing: the model has {len(wanted)} parts", cure)
        there = ", ".join(parts[0] for parts in models_of(files)[:12])
        if not there:
            cure = "look for a repository whose name ends in -GGUF"
            raise ModelError(self.name, "repository", "has no GGUF model", cure)
        asked = self.name.file or self.name.quant
        near = did_you_mean(asked, files if self.name.file else {quant_of(name) for name in files})
        raise ModelError(self.name, asked, "is not in the repository", f"it has {there}{near}")

    def _fetch(self, file: File, root: Path, commit: str, progress: Progress) -> None:
        """Fetch one file into the cache's blobs, then let huggingface_hub link to it."""
        blob, link = _places(file, root, commit)
        lock = hubcache.folder() / ".locks" / root.name / f"{file.blob}.lock"  # as huggingface_hub names it
        with alone(lock, file.name, progress):
            if not blob.exists() and not link.exists():
                url = f"{endpoint()}/{self.name.repo}/resolve/{commit}/{quote(file.name)}"
                remote = Remote(url, file.name, file.size, file.sha256, self.token, b"GGUF")
                try:
                    fetch(remote, blob, progress)
                except Refused as error:
                    raise self._refused(error.status) from None
        self._ask(
            lambda: self.hub.hf_hub_download(
                self.name.repo, file.name, cache_dir=hubcache.folder(), endpoint=endpoint(), token=self.token or False
            )
        )
        if link.exists() and not link.is_symlink():  # a copy, because the system has no links
            blob.unlink(missing_ok=True)

    def _ask(self, question: Callable[[], T]) -> T:
        """Return the hub's answer to `question`; asks again while that may help, then raises a PyllmError."""
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

        # The error of httpx or of requests, whichever this version uses.
        transport = cast("type[Exception]", HfHubHTTPError.__mro__[1])
        pauses = iter(PAUSES)
        while True:
            pause = next(pauses, None)
            try:
                return question()
            except GatedRepoError:
                raise self._refused(403) from None
            except RepositoryNotFoundError:
                raise self._refused(404) from None
            except HfHubHTTPError as error:
                status, said = error.response.status_code, error.response.headers.get("Retry-After", "")
            except (ValueError, TypeError, KeyError, AttributeError):  # a forbidden name; a page instead of an answer
                problem = f"{endpoint()} gives no answer that makes sense"
                raise ModelError(self.name, "repository", problem, "check the name and HF_ENDPOINT") from None
            except (transport, OSError) as error:
                problem = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise _Unreachable(f"{endpoint()} cannot be reached: {problem}; check the network") from None
            if status not in AGAIN:
                raise self._refused(status)
            if pause is None:
                raise _Unreachable(f"{endpoint()} answers {status} again and again; try again later")
            time.sleep(min(float(said), LONGEST_PAUSE) if said.isdecimal() else pause)

    def _refused(self, status: int) -> PyllmError:
        page = f"{endpoint()}/{self.name.repo}"
        if status == 404:
            return ModelError(
                self.name, "repository", f"is not on {endpoint()}, or is private",
                "check the name" + ("" if self.token else "; for a private one set HF_TOKEN"),
            )  # fmt: skip
        if status == 403 or (status == 401 and not self.token):
            return PyllmError(f"{self.name}: not allowed ({status}); accept its terms at {page}, then set HF_TOKEN")
        if status == 401:
            return PyllmError(f"{self.name}: the hub does not accept the login (401); check HF_TOKEN")
        return PyllmError(f"{page}: answers {status}; try again later")


def _places(file: File, root: Path, commit: str) -> tuple[Path, Path]:
    """Return the paths of a file's bytes in the cache and of the link to them."""
    return root / "blobs" / file.blob, root / "snapshots" / commit / file.name


def _missing(file: File, root: Path, commit: str) -> int:
    """Return how many bytes of a file must still be fetched."""
    blob, link = _places(file, root, commit)
    if blob.exists() or link.exists():
        return 0
    part = incomplete(blob)
    return file.size - (part.stat().st_size if part.exists() else 0)


def _file(sibling: Any) -> File:
    sha256 = str(sibling.lfs.sha256) if sibling.lfs else ""
    blob = sha256 or str(sibling.blob_id)
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob):  # it becomes a file name
        raise ValueError(blob)
    return File(sibling.rfilename, int(sibling.size or 0), sha256, blob)
