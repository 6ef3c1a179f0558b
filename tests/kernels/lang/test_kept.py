"""Compiled kernels are found again, whole or not at all; a folder that cannot be used harms nobody."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyllm.kernels.lang import kept
from pyllm.kernels.lang.jit import Kernel, jit, record
from pyllm.kernels.lang.memory import poke_i64

ARGS = record(out="ptr")


def question(a: Any, begin: int, end: int, thread: int) -> None:
    poke_i64(a.out, begin + 7)


def answer(a: Any, begin: int, end: int, thread: int) -> None:
    poke_i64(a.out, begin + 42)


def twice(x: int) -> int:
    return 2 * x


def run() -> int:
    """What a kernel that is compiled or loaded now computes."""
    out, args = np.zeros(1, np.int64), np.zeros(1, ARGS)
    args["out"] = out.ctypes.data
    Kernel("answer", ARGS, answer).run(args, 0, 1)
    return int(out[0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kernels are kept until the test ends."""
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "kernels" / "state")
    monkeypatch.setattr(kept, "REFUSED", kept._refusal())
    kept._warn.cache_clear()
    return kept.FOLDER


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled rather than loaded."""
    names: list[str] = []
    save = kept.Kept.save_overload

    def spy(self: kept.Kept, sig: Any, result: Any) -> None:
        names.append(self._function.__name__)
        save(self, sig, result)

    monkeypatch.setattr(kept.Kept, "save_overload", spy)
    return names


def test_found_again(folder: Path, compiled: list[str], caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert run() == 42
    assert compiled == ["answer"], "compiled once"
    assert [f(4) for f in (jit(twice), jit(twice))] == [8, 8] and jit(twice)(1.5) == 3.0
    assert compiled == ["answer", "twice", "twice"], "and once for each set of types"
    assert len(list(folder.iterdir())) == 3 and not caplog.records
    assert folder.stat().st_mode & 0o077 == 0


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda raw: b"", lambda raw: raw[:20], lambda raw: raw[:-1], lambda raw: raw + b"x", flip(0), flip(40), flip(-9)],
    ids=["empty", "cut in the digest", "a byte short", "a byte long", "digest", "head", "tail"],
)
def test_damaged(
    damage: Callable[[bytes], bytes], folder: Path, compiled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    run()
    [file] = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert run() == run() == 42
    assert compiled == ["answer"] * 2, "made anew, and kept"
    [record] = caplog.records
    assert record.levelno == logging.WARNING and "damaged" in record.getMessage() and str(folder) in record.getMessage()


def test_a_pickle_that_is_whole_and_of_something_else(folder: Path, compiled: list[str]) -> None:
    run()
    [file] = folder.iterdir()
    file.write_bytes(kept._sealed(file, kept.dumps(("another", "thing"))))
    assert run() == 42 and compiled == ["answer"] * 2


def test_a_kernel_under_the_name_of_another(folder: Path, compiled: list[str]) -> None:
    """Also one that is whole, of the same types, and from another state of the sources."""
    run()
    [mine] = folder.iterdir()
    Kernel("question", ARGS, question).address  # noqa: B018
    [other] = (path for path in folder.iterdir() if path != mine)
    mine.write_bytes(other.read_bytes())
    assert run() == 42 and compiled == ["answer", "question", "answer"]
    earlier = folder.with_name("0123456789abcdef") / mine.name
    mine.write_bytes(kept._sealed(earlier, kept._opened(mine)))
    assert run() == 42 and compiled[3:] == ["answer"]


@pytest.mark.skipif(sys.platform == "win32", reason="these kinds of files are POSIX's")
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link to a device", "huge"])
def test_something_else_in_the_place_of_a_kernel(
    kind: str, folder: Path, compiled: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    [path] = folder.iterdir()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        if os.getuid():
            pytest.skip("root alone may make one")
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    elif kind == "huge":
        path.touch()
        os.truncate(path, 1 << 36)
    else:
        path.symlink_to("/dev/zero")
    before = path.lstat()
    assert run() == 42 and compiled == ["answer"] * 2
    assert "a kernel in it is damaged" in caplog.records[0].getMessage()
    if kind != "huge":  # a regular file of this name, in this folder, is a damaged one of ours
        assert path.lstat().st_ino == before.st_ino and [*folder.iterdir()] == [path]
        assert "cannot be written" in caplog.records[1].getMessage()


def test_only_states_of_ours_are_pruned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder.parent
    others = ["notes", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdef0", "state-1"]
    states = [f"{i:016x}" for i in range(3)]
    for i, name in enumerate([*others, *states]):
        (root / name).mkdir()
        (root / name / "file").touch()
        os.utime(root / name, (i, i))
    (root / ("f" * 16)).touch()
    (root / ("e" * 16)).symlink_to(root / "notes")
    stay = {path.name for path in root.iterdir()} - {*states[:2]}
    kept._prune(keep=1)
    assert {path.name for path in root.iterdir()} == stay
    assert [path.name for path in kept.states(root)] == [states[2]]
    if hasattr(os, "getuid"):
        monkeypatch.setattr(kept.os, "getuid", lambda: 12345)
        kept._prune(keep=0)
        assert {path.name for path in root.iterdir()} == stay, "another user's"


def test_a_folder_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kernels").touch()
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "kernels" / "state")
    monkeypatch.setattr(kept, "REFUSED", kept._refusal())
    kept._warn.cache_clear()
    assert run() == run() == 42
    [record] = caplog.records
    assert "cannot be used" in record.getMessage() and "set PYLLM_CACHE" in record.getMessage()


def test_a_folder_of_somebody_else(
    folder: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run()
    if not hasattr(kept.os, "getuid"):
        pytest.skip("no owners on this system")
    monkeypatch.setattr(kept.os, "getuid", lambda: 12345)
    monkeypatch.setattr(kept, "REFUSED", kept._refusal())
    assert run() == 42 and compiled == ["answer"] * 2, "what others can write is not loaded"
    [record] = caplog.records
    assert "belongs to another user" in record.getMessage()


def test_a_folder_that_all_may_write(folder: Path) -> None:
    folder.chmod(0o777)
    assert kept._refusal() == "" and folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written(
    problem: int, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Path, raw: bytes) -> int:
        with self.open("wb") as file:
            file.write(raw[:100])
        raise OSError(problem, "no")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert run() == run() == 42
    assert list(folder.iterdir()) == [], "nothing half"
    [record] = caplog.records
    assert "cannot be written (no)" in record.getMessage()


def test_a_folder_that_was_pruned_meanwhile(folder: Path, compiled: list[str]) -> None:
    folder.rmdir()
    assert run() == run() == 42 and compiled == ["answer"]
