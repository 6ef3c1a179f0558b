"""Files that are no model: each is named for what it is, with a cure, by every command that wants a model."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from pyllm.__main__ import main
from pyllm.models.arch.registry import read_config
from pyllm.models.errors import ModelError
from pyllm.models.file.gguf import GGUF


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.gguf"))
    return file.getvalue()


def safetensors() -> bytes:
    head = json.dumps({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [1]}}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(64)


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(100))
    return file.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "safetensors": (safetensors, "safetensors", "convert_hf_to_gguf"),
    "zip": (zipped, "PyTorch", "convert_hf_to_gguf"),
    "pickle": (lambda: pickle.dumps({"a": 1}, 2) + bytes(90), "PyTorch", "convert_hf_to_gguf"),
    "a newer pickle": (lambda: pickle.dumps({"a": list(range(90))}), "pickle", "convert_hf_to_gguf"),
    "PyTorch's magic": (lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) * 9, "PyTorch", "convert_hf_to_gguf"),
    "web page": (lambda: b"\r\n <!DOCTYPE HTML><html>" + b" " * 90, "web page", "download"),
    "page with BOM": (lambda: b"\xef\xbb\xbf<html lang=en>" + b" " * 90, "web page", "download"),
    "xml": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied' + b" " * 90, "XML", "download"),
    "json": (lambda: b'{"error": "Repository not found"}' + b" " * 90, "JSON", ".gguf"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS", "git lfs pull"),
    "gzip": (lambda: gzip.compress(bytes(999)) + bytes(90), "gzip", "unpack"),
    "tar": (tarred, "tar archive", "unpack"),
    "numpy": (array, "NumPy", "convert"),
    "zeros": (lambda: bytes(999), "unfinished download", "download"),
    **{f"GGML {magic!r}": (lambda magic=magic: magic + bytes(90), "older format", "convert")  # type: ignore[misc]
       for magic in (b"lmgg", b"fmgg", b"tjgg", b"algg")},
}  # fmt: skip


@pytest.mark.parametrize(("made", "what", "cure"), FILES.values(), ids=FILES.keys())
def test_other_files(made: Callable[[], bytes], what: str, cure: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(made())
    with pytest.raises(ModelError) as caught:
        GGUF.open(path)
    said = str(caught.value)
    assert str(path) in said and what in said and cure in said and "no GGUF" in said


KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "adapter": ({"general.type": "adapter", "adapter.type": "lora"}, "LoRA"),
    "adapter without a type": ({"adapter.type": "lora"}, "LoRA"),
    "imatrix": ({"general.type": "imatrix", "general.architecture": None}, "importance matrix"),
    "projector": ({"general.type": "mmproj", "general.architecture": "clip"}, "projector"),
    "old projector": ({"general.architecture": "clip"}, "projector"),
    "control vector": ({"general.architecture": "controlvector"}, "control vector"),
    "any other": ({"general.type": "dataset"}, "'dataset': this is not a model"),
    "no text": ({"general.type": 7}, "this is not a model"),
}


@pytest.mark.parametrize(("overrides", "what"), KINDS.values(), ids=KINDS.keys())
def test_other_kinds(overrides: dict[str, Any], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tiny.write(tmp_path / "a.gguf", overrides=overrides))
    (tmp_path / "text").write_text("hello " * 500)
    for argv in (
        ["run", path, "-p", "x"], ["perplexity", path, "-f", str(tmp_path / "text")], ["advise", path],
        ["study", "kv", path, "-o", str(tmp_path / "study")], ["quantize", path, str(tmp_path / "out"), "Q8_0"],
    ):  # fmt: skip
        assert main(argv) == 3
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and what in err and ";" in err, err
    assert main(["inspect", path]) == 0, "what it is can be said all the same"
    assert what in capsys.readouterr().out


def test_a_vocabulary_alone(tmp_path: Path) -> None:
    path = tiny.write(
        tmp_path / "vocab.gguf", tensors=dict.fromkeys(GGUF.open(tiny.write(tmp_path / "a.gguf")).tensors)
    )
    with pytest.raises(ModelError, match="vocabulary without weights"):
        read_config(GGUF.open(path))


@pytest.mark.parametrize("name", ["model.gguf", "tiny-00001-of-00003.gguf"])
def test_parts_that_were_joined(name: str, tmp_path: Path) -> None:
    tiny.write(tmp_path / "tiny.gguf", split_max_tensors=8)
    parts = sorted(tmp_path.glob("tiny-*.gguf"))
    assert len(parts) == 3
    (tmp_path / "joined").mkdir()
    joined = tmp_path / "joined" / name
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(ModelError, match=r"follow in this file.*llama-gguf-split --merge"):
        GGUF.open(joined)
    assert len(GGUF.open(parts[0]).paths) == 3


def test_a_model_is_a_model(tmp_path: Path) -> None:
    for overrides in ({}, {"general.type": "model"}):
        read_config(GGUF.open(tiny.write(tmp_path / "a.gguf", overrides=overrides)))
