"""Models of the hub, tested against our own hub on loopback: choices, logins, broken connections, kept files."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fake_hub
import pytest
import tiny

from pyllm.engine.store import disk, fetch, hub, hubcache, library, sources
from pyllm.engine.store.folder import recall
from pyllm.models.errors import ModelError, PyllmError, UsageError
from pyllm.models.file.gguf import GGUF

ROOT = Path(__file__).parents[3]
REPO = "someone/tiny-GGUF"
Q4, Q8 = b"GGUF" + bytes(range(256)) * 3000, b"GGUF" + bytes(range(255, -1, -1)) * 4000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the folders of the hub's cache and of ours, and no login."""
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(hub, "PAUSES", (0.0, 0.0))
    return tmp_path / "hf" / "hub"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_hub.Hub]:
    with fake_hub.serve() as served:
        served.repos[REPO] = {"README.md": b"text", "tiny-Q8_0.gguf": Q8, "tiny-Q4_K_M.gguf": Q4}
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def get(name: str, *, offline: bool = False, fresh: bool = False) -> Path:
    return sources.resolve(name, offline=offline, fresh=fresh)


def refused(name: str, kind: type[PyllmError] = PyllmError, *, offline: bool = False) -> str:
    with pytest.raises(kind) as error:
        get(name, offline=offline)
    assert "\n" not in str(error.value) and ";" in str(error.value), error.value
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"hf:{REPO}", Q4),
        (REPO, Q4),
        (f"{REPO}:q8_0", Q8),
        (f"hf:{REPO}:Q8_0", Q8),
        (f"hf:{REPO}/tiny-Q8_0.gguf", Q8),
    ],
)
def test_a_repository(name: str, content: bytes, served: fake_hub.Hub, home: Path) -> None:
    path = get(name)
    digest = hashlib.sha256(content).hexdigest()
    assert path.read_bytes() == content
    assert path.parent == home / "models--someone--tiny-GGUF" / "snapshots" / fake_hub.COMMIT
    assert path.resolve() == home / "models--someone--tiny-GGUF" / "blobs" / digest, "where all others look for it"
    assert hubcache.sha256(path) == digest
    origin = recall(path)
    assert origin is not None and origin.licence == "apache-2.0" and origin.source == f"hf:{REPO}/{path.name}"
    asked = len(served.seen)
    assert get(name) == path and get(name, offline=True) == path and len(served.seen) == asked, "it is here"


def test_a_path_that_exists_wins(served: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    (tmp_path / REPO).write_bytes(b"")
    assert get(REPO) == Path(REPO) and not served.seen


def test_another_program_finds_it_and_we_find_what_it_fetched(served: fake_hub.Hub, home: Path) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    theirs = hf_hub_download(REPO, "tiny-Q8_0.gguf", cache_dir=home, endpoint=served.url)
    asked = len(served.seen)
    assert get(f"{REPO}:Q8_0") == Path(theirs) and len(served.seen) == asked
    ours = get(REPO)
    assert hf_hub_download(REPO, ours.name, cache_dir=home, local_files_only=True) == str(ours)
    found = scan_cache_dir(home)
    assert not found.warnings and found.size_on_disk == len(Q4) + len(Q8)


def test_a_broken_connection_is_resumed(served: fake_hub.Hub) -> None:
    served.cuts = [300_000, 100_000]
    assert get(REPO).read_bytes() == Q4
    assert [r for r in served.ranges() if r] == ["bytes=300000-", "bytes=300000-", "bytes=400000-", "bytes=400000-"]


def test_what_one_run_left_is_taken_up_by_the_next(served: fake_hub.Hub, home: Path) -> None:
    served.cuts = [300_000, 0, 0, 0]
    assert "run the command again to go on" in refused(REPO)
    blobs = home / "models--someone--tiny-GGUF" / "blobs"
    [part] = blobs.glob("*.incomplete")
    assert part.read_bytes() == Q4[:300_000]
    before = len(served.seen)
    assert get(REPO).read_bytes() == Q4
    assert {seen.range for seen in served.seen[before:] if seen.path[1:].startswith(part.name[:64])} == {
        "bytes=300000-"
    }
    assert [path.name for path in blobs.iterdir()] == [hashlib.sha256(Q4).hexdigest()]


def test_a_key_that_ends_it_leaves_what_is_here(served: fake_hub.Hub, home: Path) -> None:
    def progress(stage: str, done: int, total: int, next: str = "") -> None:
        if done > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sources.resolve(REPO, offline=False, progress=progress)
    [part] = home.rglob("*.incomplete")
    assert 0 < part.stat().st_size < len(Q4) and Q4.startswith(part.read_bytes())
    assert get(REPO).read_bytes() == Q4


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c(served: fake_hub.Hub, home: Path) -> None:
    """Ctrl-C ends `pyllm pull` without a traceback and with code 130; what has come stays."""
    served.pause = 0.05
    code = f"from pyllm.__main__ import script; import sys; sys.argv[1:] = ['pull', {REPO!r}]; script()"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    running = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    while not [part for part in home.rglob("*.incomplete") if part.stat().st_size]:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert (running.returncode, said) == (130, "")
    [part] = home.rglob("*.incomplete")
    assert Q4.startswith(part.read_bytes())
    served.pause = 0.0
    assert get(REPO).read_bytes() == Q4


def test_a_damaged_part_is_noticed_and_not_kept(served: fake_hub.Hub, home: Path) -> None:
    served.cuts = [300_000, 0, 0, 0]
    refused(REPO)
    [part] = home.rglob("*.incomplete")
    part.write_bytes(bytes(300_000))
    assert "damaged: sha256" in refused(REPO)
    assert not [*home.rglob("*.incomplete")] and get(REPO).read_bytes() == Q4


def test_a_wrong_size(served: fake_hub.Hub, home: Path) -> None:
    served.headers = {"Content-Length": "12345"}
    assert "the server has 12,345 bytes instead of 768,004" in refused(REPO)
    assert not [*home.rglob("*.incomplete")]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int, served: fake_hub.Hub) -> None:
    served.statuses, served.api_statuses = [status, status], [status]
    assert get(REPO).read_bytes() == Q4


def test_a_server_that_stays_busy(served: fake_hub.Hub) -> None:
    served.api_statuses = [503] * 9
    assert "answers 503 again and again" in refused(REPO)
    served.api_statuses, served.statuses = [], [500] * 9
    assert "500" in refused(REPO)


def test_no_such_repository(served: fake_hub.Hub) -> None:
    assert "is not on http://127.0.0.1" in refused("hf:someone/else", ModelError)
    assert "set HF_TOKEN" in refused("someone/else", ModelError)


def test_no_such_quantization_or_file(served: fake_hub.Hub) -> None:
    served.repos["someone/text"] = {"README.md": b""}
    for name in (f"{REPO}:Q2_K", f"hf:{REPO}/other.gguf"):
        assert "it has tiny-Q8_0.gguf, tiny-Q4_K_M.gguf" in refused(name, ModelError)
    assert "has no GGUF model" in refused("someone/text", ModelError)


def test_logins(served: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    served.token = "secret"
    assert "for a private one set HF_TOKEN" in refused(REPO)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "does not accept the login (401); check HF_TOKEN" in refused(REPO)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert get(REPO).read_bytes() == Q4
    told = [seen.host for seen in served.seen if "secret" in seen.headers.get("Authorization", "")]
    assert told and set(told) == {served.url.removeprefix("http://")}, "the host of the bytes learns no login"


@pytest.mark.parametrize("token", ["", "mine"])
def test_a_gated_repository(token: str, served: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    served.gated = True
    monkeypatch.setenv("HF_TOKEN", token)
    assert f"accept its terms at {served.url}/{REPO}" in refused(REPO)


def test_offline(served: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"is not here; pyllm pull hf:{REPO} fetches it" in refused(REPO, ModelError, offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused(REPO, ModelError)
    assert not served.seen
    monkeypatch.delenv("HF_HUB_OFFLINE")
    q8 = get(f"{REPO}:Q8_0")
    assert get(REPO, offline=True) == q8, "what is here is taken"
    assert get(REPO).read_bytes() == Q4, "with a network, the hub's best"


def test_a_hub_that_is_not_there(
    served: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = get(f"{REPO}:Q8_0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert get(REPO) == here
    assert "cannot be reached" in caplog.text and "taking what is here" in caplog.text
    assert "http://127.0.0.1:9 cannot be reached" in refused("someone/else")


def test_a_newer_version(served: fake_hub.Hub) -> None:
    old = get(REPO)
    served.commit = "beef" + "0" * 36
    served.repos[REPO]["tiny-Q4_K_M.gguf"] = Q8
    assert get(REPO) == old and get(REPO, fresh=True).read_bytes() == Q8
    assert get(REPO, offline=True).read_bytes() == Q8, "the newest counts"


def test_a_split_model(served: fake_hub.Hub, tmp_path: Path) -> None:
    first = tiny.write(tmp_path / "m-Q4_K_M.gguf", n_layer=1, split_max_tensors=5)
    files = {f"Q4_K_M/{path.name}": path.read_bytes() for path in sorted(tmp_path.glob("m-*.gguf"))}
    assert len(files) == 3
    served.repos[REPO] = files
    for name in (REPO, f"hf:{REPO}/Q4_K_M/{first.name.replace('00001', '00002')}"):
        path = get(name)
        assert path.name == first.name and len(GGUF.open(path).paths) == 3
    del files[f"Q4_K_M/{first.name.replace('00001', '00003')}"]
    served.commit = "beef" + "0" * 36
    with pytest.raises(ModelError, match=r"00003-of-00003\.gguf: is missing: the model has 3 parts"):
        get(f"hf:{REPO}/Q4_K_M/{first.name}", fresh=True)


def test_a_system_without_links(served: fake_hub.Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda cache_dir=None: False)
    path = get(REPO)
    assert not path.is_symlink() and path.read_bytes() == Q4
    assert [file for file in home.rglob("*") if file.is_file() and file.stat().st_size == len(Q4)] == [path], "once"
    origin = library.origin_of(path)
    assert origin is not None and origin.sha256 == hashlib.sha256(Q4).hexdigest()
    served.seen.clear()
    assert get(REPO, fresh=True) == path and not served.ranges(), "not fetched again"
    [model] = library.kept()
    assert model.remove() == len(Q4) and not [*home.glob("models--*")]


def test_no_space(served: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert "no space left: fetching someone/tiny-GGUF tiny-Q4_K_M.gguf takes 1 MB, 0 MB are free" in refused(REPO)
    assert not any(seen.path.startswith("/someone") for seen in served.seen), "nothing is fetched before"


def test_without_huggingface_hub(served: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    here = get(f"{REPO}:Q8_0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'pyllm[hub]'" in refused("someone/else")
    assert get(f"{REPO}:Q8_0") == here and get(REPO) == here, "what is here needs no hub"


@pytest.mark.parametrize(
    "name", ["hf:", "hf:alone", "hf:a/b/c.txt", "hf:a/../b.gguf", "hf:a/b:", "hf:-x/y", "hf:a/b\0"]
)
def test_names_that_are_none(name: str) -> None:
    assert "hf:USER/REPO" in refused(name, UsageError)


def test_a_name_that_the_hub_does_not_allow(served: fake_hub.Hub) -> None:
    assert "check the name" in refused("hf:a--b/c", ModelError)


def test_two_at_once(served: fake_hub.Hub, tmp_path: Path) -> None:
    """Two processes share one download."""
    code = f"from pyllm.engine.store import sources; sources.resolve({REPO!r}, offline=False)"
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT / "src")}) for _ in "ab"
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert get(REPO, offline=True).read_bytes() == Q4
    assert len([path for path in served.paths() if hashlib.sha256(Q4).hexdigest() in path]) == 1
