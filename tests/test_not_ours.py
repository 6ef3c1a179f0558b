"""What pyllm did not write stays as it is, whatever it is and wherever it lies; and nothing waits or reads for ever."""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from fake_llm import FakeLLM
from given_roofs import GIVEN

from pyllm.__main__ import main
from pyllm.bench.machine import roofs
from pyllm.bench.report import page, plot, report
from pyllm.engine.advice.study_file import BEGINS, StudyFile, results_of
from pyllm.engine.chat import slash, terminal
from pyllm.engine.chat.chat import Chat
from pyllm.engine.commands import screen
from pyllm.engine.sampler import SamplingParams
from pyllm.engine.store import fetch, folder, hubcache, library, ours
from pyllm.models.errors import PyllmError, UsageError
from pyllm.models.file.gguf import GGUF

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="these kinds of files are POSIX's")

SECONDS = 60  # for a case; what reads a device or waits for a pipe takes for ever
root_only = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="root alone may do this")


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    def end(number: int, frame: Any) -> None:
        pytest.fail(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# Kinds of files that are not ours, each made at a path ----------------------------------------------------------------


def text(path: Path) -> None:
    path.write_text("notes of the user's\n")


def almost(path: Path) -> None:
    path.write_text('{\n "head": {}, "machine": 1}\n')


def not_utf8(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00notes")


def empty(path: Path) -> None:
    path.touch()


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 36)


def a_folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # as /dev/zero


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_text(path: Path) -> None:
    (path.parent / "target").write_text("notes")
    path.symlink_to("target")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def of_another(path: Path) -> None:
    path.write_bytes(BEGINS)
    os.chown(path, 12345, 12345)


KINDS = [text, almost, not_utf8, empty, huge, a_folder, pipe, link_to_a_device, link_to_text, link_to_nothing]
AS_ROOT = [pytest.param(kind, marks=root_only) for kind in (device, of_another)]


def seen(folder: Path) -> dict[str, object]:
    """What is in a folder and would change if somebody touched it."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        s = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(s.st_mode) and s.st_size < 1 << 20 else b""
        found[path.name] = (s.st_ino, s.st_mode, s.st_uid, s.st_rdev, s.st_size, s.st_mtime_ns, content)
    return found


# Places that read or write, each given a path -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf", types="f16")


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> None:
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert code == UsageError.exit_code and out == "" and err.count("\n") == 1, (code, out, err)


Place = Callable[[Path, Path, Any], object]


def study(path: Path, model: Path, capsys: Any) -> None:
    refused(capsys, "study", "kv", model, "-o", path, "--budget", "0s")


def study_added(path: Path, model: Path, capsys: Any) -> None:
    with pytest.raises(PyllmError, match=r"cannot be written"):
        StudyFile(path, {"file": "x"}).add({"cell": {"x": 1}})


def advise(path: Path, model: Path, capsys: Any) -> None:
    refused(capsys, "advise", model, "--study", path, "--budget", "0s")


def results(path: Path, model: Path, capsys: Any) -> None:
    assert results_of(GGUF.open(model), path) == {}


def quantize(path: Path, model: Path, capsys: Any) -> None:
    refused(capsys, "quantize", model, path, "Q8_0", "--force")


def kept_roofs(path: Path, model: Path, capsys: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofs, "path", lambda folder: path)
        assert roofs.kept(path.parent) is None
        assert "cannot be written" in roofs.keep(replace(GIVEN, machine=roofs.machine()), path.parent)


def download(path: Path, model: Path, capsys: Any) -> None:
    """An unfinished download, named after its file."""
    target = path.with_name(path.name.removesuffix(".incomplete"))
    with pytest.raises(PyllmError, match=r"is not replaced"):
        fetch.fetch(fetch.Remote("http://127.0.0.1:9/x.gguf", "x", magic=b"GGUF"), target)


def notes(path: Path, model: Path, capsys: Any) -> None:
    target = path.with_name(path.name.removesuffix(".incomplete.json"))
    with pytest.raises(PyllmError, match=r"is not replaced"):
        fetch.fetch(fetch.Remote("http://127.0.0.1:9/x.gguf", "x", magic=b"GGUF"), target)


def record(path: Path, model: Path, capsys: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "_record", lambda of: path)
        assert folder.recall(model) is None
        folder.forget(model)
        with pytest.raises(OSError):
            folder.remember(model, folder.Origin("hf:x/y"))


def save(path: Path, model: Path, capsys: Any) -> None:
    chat = Chat(FakeLLM(GGUF.open(model)), SamplingParams(), screen, load=0.5, out=io.StringIO())  # type: ignore[arg-type]
    slash.call(chat, "/save", str(path))  # nobody answers the question whether to overwrite it
    assert "not saved" in capsys.readouterr().err


def report_page(path: Path, model: Path, capsys: Any) -> None:
    with pytest.raises(PyllmError, match=r"cannot be written"):
        page.Page("title").write(path)


PLACES: list[tuple[Place, str]] = [
    (study, "s.json"),
    (study_added, "s.json"),
    (advise, "s.json"),
    (results, "s.json"),
    (quantize, "out.gguf"),
    (kept_roofs, "0123456789abcdef.json"),
    (download, "x.gguf.incomplete"),
    (notes, "x.gguf.incomplete.json"),
    (record, "x.gguf.json"),
    (save, "chat.md"),
    (report_page, "report.html"),
]


@pytest.mark.parametrize("kind", [*KINDS, *AS_ROOT])
@pytest.mark.parametrize(("place", "name"), PLACES, ids=[place.__name__ for place, _ in PLACES])
def test_what_is_not_ours_stays(
    place: Place, name: str, kind: Callable[[Path], None], model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if place is download and kind is empty:
        pytest.skip("an empty part holds nothing, and is gone on with")
    kind(tmp_path / name)
    before = seen(tmp_path)
    place(tmp_path / name, model, capsys)
    assert seen(tmp_path) == before


@pytest.mark.parametrize("kind", [a_folder, pipe, link_to_a_device, link_to_text, *AS_ROOT])
def test_unfinished_downloads_are_ours_alone(
    kind: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "models" / "host-01234567"
    place.mkdir(parents=True)
    kind(place / "x.gguf.incomplete")
    (place / "y.gguf.incomplete").write_bytes(b"GGUF")
    before = seen(place)
    assert main(["rm", "--unfinished"]) == 0
    assert before.pop("y.gguf.incomplete") and seen(place) == before


@pytest.mark.parametrize("kind", [link_to_text, *AS_ROOT])
def test_rm_deletes_what_was_fetched(
    kind: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "models" / "package-1.0"
    place.mkdir(parents=True)
    kind(place / "x.gguf")
    before = seen(place)
    [kept] = library.kept()
    with pytest.raises(PyllmError, match=r"delete it yourself"):
        kept.remove()
    assert seen(place) == before


def test_a_link_that_leads_out_of_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = hubcache.repo_folder("me/mine") / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "precious.gguf").write_bytes(b"GGUF")
    (snapshot / "x.gguf").symlink_to(tmp_path / "precious.gguf")
    hubcache.remove("me/mine", {"x.gguf"})
    assert (tmp_path / "precious.gguf").read_bytes() == b"GGUF" and not hubcache.repo_folder("me/mine").exists()


@pytest.mark.parametrize("kind", [pipe, link_to_a_device, huge, a_folder])
def test_small_files_of_other_programs_are_read_with_bounds(
    kind: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (refs := hubcache.repo_folder("me/mine") / "refs").mkdir(parents=True)
    kind(refs / "main")
    assert list(hubcache.snapshots("me/mine")) == []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "state" / "pyllm").mkdir(parents=True)
    kind(tmp_path / "state" / "pyllm" / "history")
    assert isinstance(terminal.history(), terminal.InMemoryHistory)


@pytest.mark.parametrize("kind", [pipe, a_folder, link_to_text])
def test_pictures(kind: Callable[[Path], None], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kind(tmp_path / "a.svg")
    before = seen(tmp_path)
    with pytest.raises(PyllmError, match=r"cannot be written"):
        plot.Plot("a", "", "", "", lambda axes, look: None).save(tmp_path / "a.svg")
    assert seen(tmp_path) == before


def test_looking_whether_a_folder_can_be_written(tmp_path: Path) -> None:
    (tmp_path / ".pyllm").write_text("mine")
    report.check_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".pyllm"] and (tmp_path / ".pyllm").read_text() == "mine"


# What is ours ---------------------------------------------------------------------------------------------------------


def test_a_file_of_ours_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f"
    for content in (b"ours: 1", b"ours: 2"):
        ours.write(path, content, b"ours: ")
        assert path.read_bytes() == ours.read(path, begins=b"ours") == content and not ours.problem(path, b"ours: ")
    path.write_bytes(b"our")
    assert not ours.problem(path, b"ours: "), "cut while it was written"
    assert [p.name for p in path.parent.iterdir()] == ["f"]
    with pytest.raises(ours.Foreign, match="is larger than 2 bytes"):
        ours.read(path, 2)
    assert ours.set_aside(path).name == "f.damaged-1"


def test_a_name_that_somebody_has_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"ours")
    for n in (1, 2):
        (tmp_path / f"f.damaged-{n}").symlink_to("nowhere")
    (tmp_path / "f.part").write_bytes(b"mine")
    ours.write(tmp_path / "f", b"ours", b"ours")
    assert ours.set_aside(tmp_path / "f").name == "f.damaged-3" and (tmp_path / "f.part").read_bytes() == b"mine"


@pytest.mark.parametrize("content", [BEGINS[:7], BEGINS, BEGINS + b"\xff", BEGINS + b"[" * 200_000])
def test_a_study_that_is_damaged_is_set_aside(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(content)
    study = StudyFile.open(tmp_path / "s.json", {})
    assert study.set_aside == tmp_path / "s.json.damaged-1" and study.set_aside.read_bytes() == content
