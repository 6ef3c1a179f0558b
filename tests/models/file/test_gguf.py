"""The GGUF reader agrees with gguf's own, and its typed methods with the file."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny
from gguf_bytes import (
    ALIGNMENT,
    ARRAY,
    BOOL,
    F32,
    HUGE,
    I8,
    LLAMA,
    STRING,
    U8,
    U32,
    U64,
    array,
    file,
    info,
    one_line,
    pair,
    put,
    string,
    u32,
    u64,
)

from pyllm.models.arch.registry import read_config
from pyllm.models.errors import ModelError
from pyllm.models.file.gguf import GGUF, part_names
from pyllm.models.file.header import TENSOR_TYPES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_every_kind_of_value(path: Path) -> None:
    texts = array(STRING, 3, string("") + string("é") + string("a\0b"))
    pairs = (
        pair("u8", U8, b"\xff"),
        pair("i8", I8, b"\xff"),
        pair("u32", U32, u32(7)),
        pair("f32", F32, struct.pack("<f", 0.5)),
        pair("bool", BOOL, b"\1"),
        pair("text", STRING, string("grüß\ndich")),
        pair("u64", U64, u64(HUGE)),
        pair("texts", ARRAY, texts),
        pair("no texts", ARRAY, array(STRING, 0)),
        pair("ints", ARRAY, array(U8, 3, b"\1\2\3")),
        pair("no ints", ARRAY, array(U32, 0)),
        pair("floats", ARRAY, array(F32, 2, struct.pack("<2f", 1, -2))),
        pair("flags", ARRAY, array(BOOL, 2, b"\0\1")),
    )
    g = GGUF.open(put(path, file(pairs, version=u32(2))))
    assert g.version == 2
    assert g.metadata["u8"] == 255
    assert g.metadata["i8"] == -1
    assert g.metadata["u64"] == HUGE
    assert g.metadata["bool"] is True
    assert g.text("text") == "grüß\ndich"
    assert g.texts("texts") == ["", "é", "a\0b"]
    assert g.texts("no texts") == []
    assert g.integer("u32", 0, 7) == 7
    assert g.number("f32", 0, 1) == 0.5
    assert g.number("u32", 0, 10) == 7.0
    assert g.flag("bool") is True
    assert g.ints("ints", 1, 3).tolist() == [1, 2, 3]
    assert g.ints("no ints", 0, 0).tolist() == []
    assert g.ints("no texts", 0, 0).tolist() == []
    assert g.floats("floats").tolist() == [1, -2]
    assert g.floats("ints").dtype == np.float32
    assert g.metadata["flags"].tolist() == [False, True]
    assert not g.metadata["ints"].flags.writeable
    assert (g.integer("absent", 0, 1, default=1), g.text("absent", default="x")) == (1, "x")
    assert g.ints("absent", 0, 9, default=[4]).tolist() == [4]

    refused = {
        "absent": (lambda: g.integer("absent", 0, 1), "is missing"),
        "u32": (lambda: g.integer("u32", 0, 6), "is 7, must be from 0 to 6"),
        "text": (lambda: g.integer("text", 0, 6), "the text"),
        "f32": (lambda: g.integer("f32", 0, 6), "must be a whole number"),
        "bool": (lambda: g.integer("bool", 0, 6), "is true, must be"),
        "ints": (lambda: g.ints("ints", 1, 2), "number 2 of 3 is 3"),
        "texts": (lambda: g.ints("texts", 1, 2), "a list of 3 texts"),
        "floats": (lambda: g.ints("floats", 1, 2), "a list of 2 numbers"),
        "flags": (lambda: g.floats("flags"), "a list of 2 flags"),
        "u8": (lambda: g.flag("u8"), "must be true or false"),
        "u64": (lambda: g.text("u64"), "must be a text"),
        "no ints": (lambda: g.texts("no ints"), "must be a list of texts"),
        "i8": (lambda: g.number("i8", 0, 1), "is -1"),
        "general.architecture": (lambda: g.architecture, "is missing"),
    }
    for key, (take, says) in refused.items():
        with pytest.raises(ModelError) as error:
            take()
        assert f": {key}: " in one_line(error, path)
        assert says in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(path: Path, value: float) -> None:
    packed = struct.pack("<f", value)
    g = GGUF.open(put(path, file((pair("x", F32, packed), pair("xs", ARRAY, array(F32, 1, packed))))))
    with pytest.raises(ModelError):
        g.number("x", -1e30, 1e30)
    if np.isnan(value):
        with pytest.raises(ModelError, match="number 0 of 1"):
            g.floats("xs")


def test_tensors_may_lie_apart_and_in_any_order(path: Path) -> None:
    data = bytes(range(200))
    g = GGUF.open(put(path, file((LLAMA,), (info("b", (8,), offset=96), info("a", (4, 2), offset=0)), data)))
    assert list(g.tensors) == ["b", "a"]
    assert g.tensors["a"].shape == (2, 4)
    assert g.tensors["b"].data.tobytes() == data[96:128]
    assert g.tensors["a"].data.tobytes() == data[:32]
    assert not g.tensors["a"].data.flags.writeable


def test_alignment_moves_the_data(path: Path) -> None:
    raw = file((pair(ALIGNMENT, U32, u32(128)),), (info(),))
    raw += bytes(-len(raw) % 128) + b"x" * 32
    assert GGUF.open(put(path, raw)).tensors["a"].data.tobytes() == b"x" * 32


def test_types_are_ggmls() -> None:
    theirs = {int(t): (t.name.lower(), *size) for t, size in gguf.GGML_QUANT_SIZES.items()}
    assert theirs.items() <= TENSOR_TYPES.items(), "a newer gguf knows more"


def agrees(path: Path) -> None:
    """Check that we read what gguf's own reader reads."""
    g, theirs = GGUF.open(path), gguf.GGUFReader(path)
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert g.metadata.keys() == fields.keys()
    for key, value in fields.items():
        ours = g.metadata[key]
        assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == value, key
    assert list(g.tensors) == [t.name for t in theirs.tensors]
    for t in theirs.tensors:
        ours = g.tensors[t.name]
        assert ours.shape == tuple(reversed(t.shape.tolist()))
        assert ours.type == t.tensor_type.name.lower()
        assert np.array_equal(ours.data, t.data.view(np.uint8).ravel())


def test_agrees_with_gguf_on_a_tiny_model(path: Path) -> None:
    agrees(tiny.write(path, types={"": "q4_1", "token_embd": "q8_0", "ffn_up": "bf16"}))


@pytest.mark.real
def test_smollm2(smollm2: Path) -> None:
    g = GGUF.open(smollm2)
    assert (len(g.tensors), len(g.metadata), g.architecture) == (272, 33, "llama")
    assert len(g.texts("tokenizer.ggml.tokens")) == 49152
    assert g.texts("tokenizer.ggml.merges")[:2] == ["Ġ t", "Ġ a"]
    assert g.tensors["token_embd.weight"].shape == (49152, 576)
    assert g.tensors["token_embd.weight"].type == "q8_0"


# Split models


def split(folder: Path) -> list[Path]:
    first = tiny.write(folder / "m.gguf", n_layer=1, types="q8_0", split_max_tensors=5)
    parts = sorted(folder.glob("m-*-of-00003.gguf"))
    assert first == parts[0]
    assert len(parts) == 3
    return parts


def test_a_split_model_is_one_from_any_part(tmp_path: Path) -> None:
    parts = split(tmp_path)
    whole = GGUF.open(tiny.write(tmp_path / "whole.gguf", n_layer=1, types="q8_0"))
    for part in parts:
        g = GGUF.open(part)
        assert g.path == parts[0]
        assert g.paths == tuple(parts)
        assert g.nbytes == sum(p.stat().st_size for p in parts)
        assert g.tensors.keys() == whole.tensors.keys()
        assert all(np.array_equal(g.tensors[n].data, whole.tensors[n].data) for n in g.tensors)
        assert read_config(g).n_layer == 1


def test_a_part_is_missing(tmp_path: Path) -> None:
    parts = split(tmp_path)
    parts[1].unlink()
    with pytest.raises(ModelError, match="has 3 parts") as error:
        GGUF.open(parts[2])
    one_line(error, parts[1])


def test_a_part_has_another_name(tmp_path: Path) -> None:
    renamed = split(tmp_path)[0].rename(tmp_path / "first.gguf")
    with pytest.raises(ModelError, match="NAME-00001-of-00003") as error:
        GGUF.open(renamed)
    one_line(error, renamed)


def test_parts_in_the_wrong_order(tmp_path: Path) -> None:
    parts = split(tmp_path)
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(ModelError, match="not that of part 2 of 3") as error:
        GGUF.open(parts[0])
    one_line(error, parts[1])


def test_parts_of_different_models(tmp_path: Path) -> None:
    parts = split(tmp_path)
    other = tiny.write(tmp_path / "other.gguf", n_layer=2, types="q8_0", split_max_tensors=9)
    assert other.name == "other-00001-of-00003.gguf"
    parts[1].write_bytes(other.with_name("other-00002-of-00003.gguf").read_bytes())
    with pytest.raises(
        ModelError, match=r"split\.tensors\.count: differs from that of m-00001.*different models"
    ) as error:
        GGUF.open(parts[2])
    one_line(error, parts[1])


def test_counts_that_disagree(tmp_path: Path) -> None:
    parts = [part.rename(part.with_name(part.name.replace("of-00003", "of-00004"))) for part in split(tmp_path)]
    with pytest.raises(
        ModelError, match="is 3, but the file's name says 4; name the parts NAME-00001-of-00003"
    ) as error:
        GGUF.open(parts[0])
    one_line(error, parts[0])


def test_names_of_parts() -> None:
    assert part_names("a-00002-of-00003.gguf") == [f"a-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for whole in ("a.gguf", "a-00004-of-00003.gguf", "a-00000-of-00000.gguf", "a-1-of-3.gguf"):
        assert part_names(whole) == [whole]


@pytest.mark.parametrize(
    ("name", "total", "says"), [("a", 2, "in another part"), ("b", 3, "have 2 tensors"), ("b", 2, "")]
)
def test_tensors_of_parts_are_counted(tmp_path: Path, name: str, total: int, says: str) -> None:
    def part(no: int, tensor: str) -> Path:
        keys = {"split.no": no, "split.count": 2, "split.tensors.count": total}
        pairs = (LLAMA, *(pair(k, U32, u32(v)) for k, v in keys.items()))
        return put(tmp_path / f"m-{no + 1:05}-of-00002.gguf", file(pairs, (info(tensor),), bytes(32)))

    first = part(0, "a")
    part(1, name)
    if not says:
        assert list(GGUF.open(first).tensors) == ["a", "b"]
        return
    with pytest.raises(ModelError, match=says):
        GGUF.open(first)
