"""The GGUF reader refuses damaged files: in one line, quickly, and without taking memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import tiny
from gguf_bytes import (
    ALIGNMENT,
    ARRAY,
    BOOL,
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
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.models.arch.registry import read_config
from pyllm.models.describe import describe
from pyllm.models.errors import ModelError
from pyllm.models.file import header
from pyllm.models.file.gguf import GGUF


def key_value(kind: int, value: bytes) -> bytes:
    return file((pair("k", kind, value),))


def one(**kwargs: Any) -> bytes:
    return file((LLAMA,), (info(**kwargs),), bytes(64))


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "one byte": (b"G", "magic"),
    "only magic": (b"GGUF", "version"),
    "wrong magic": (b"PK\3\4" + bytes(60), "not b'GGUF'"),
    "old format": (b"tjgg" + bytes(60), "older format"),
    "version 0": (file(version=u32(0)), "version"),
    "version 1": (file(version=u32(1)), "version"),
    "version 4": (file(version=u32(4)), "version"),
    "big endian": (file(version=u32(3)[::-1]), "big-endian"),
    "no room for counts": (b"GGUF" + u32(3) + u64(0), "number of metadata pairs"),
    "huge tensor count": (file(n_infos=HUGE), "number of tensors"),
    "tensor count above the file": (file(n_infos=50000), "number of tensors"),
    "huge pair count": (file(n_pairs=1 << 63), "number of metadata pairs"),
    "pair count above the file": (file(n_pairs=50), "number of metadata pairs"),
    "huge key": (file((string("k", HUGE) + bytes(20),)), "key 1 of 1"),
    "long key": (file((pair("k" * 65536, U8, b"\0"),)), "65,536 bytes"),
    "empty key": (file((pair("", U64, u64(0)),)), "key 1 of 1"),
    "key not UTF-8": (file((pair(b"k\xff", U8, b"\0"),)), "UTF-8"),
    "key surrogate": (file((pair(b"\xed\xa0\x80", U8, b"\0"),)), "UTF-8"),
    "key twice": (file((LLAMA, LLAMA)), "twice"),
    "key twice of another type": (file((LLAMA, pair("general.architecture", U8, b"\0"))), "twice"),
    "unknown value type": (key_value(13, bytes(8)), "value type 13"),
    "huge value type": (key_value(0xFFFFFFFF, bytes(8)), "value type"),
    "value cut": (key_value(U64, bytes(4)), "key 'k'"),
    "text too long": (key_value(STRING, string("abc", 4)), "key 'k'"),
    "huge text": (key_value(STRING, string("abc", HUGE)), "key 'k'"),
    "text not UTF-8": (key_value(STRING, string(b"\xc0\x80")), "UTF-8"),
    "flag of two": (key_value(BOOL, b"\2"), "must be 0 or 1"),
    "array of arrays": (key_value(ARRAY, array(ARRAY, 1, array(U8, 1, b"\0"))), "array of arrays"),
    "array of unknown type": (key_value(ARRAY, array(77, 1, bytes(8))), "value type 77"),
    "huge array of bytes": (key_value(ARRAY, array(U8, 1 << 62)), "key 'k'"),
    "huge array of flags": (key_value(ARRAY, array(BOOL, HUGE)), "key 'k'"),
    "huge array of texts": (key_value(ARRAY, array(STRING, 1 << 62)), "key 'k'"),
    "array whose size wraps": (key_value(ARRAY, array(U64, 1 << 61)), "key 'k'"),
    "array of flags with a two": (key_value(ARRAY, array(BOOL, 3, b"\0\1\2")), "must be 0 or 1"),
    "text in array too long": (key_value(ARRAY, array(STRING, 2, string("a") + string("b", 9))), "text 1 of 2"),
    "huge text in array": (key_value(ARRAY, array(STRING, 1, string("a", HUGE))), "text 0 of 1"),
    "no room for a length in array": (key_value(ARRAY, array(STRING, 2, string("a" * 9))), "text 1 of 2"),
    "text in array not UTF-8": (key_value(ARRAY, array(STRING, 1, string(b"\xff"))), "UTF-8"),
    "alignment 0": (file((pair(ALIGNMENT, U32, u32(0)),)), ALIGNMENT),
    "alignment 3": (file((pair(ALIGNMENT, U32, u32(24)),)), ALIGNMENT),
    "alignment 1": (file((pair(ALIGNMENT, U32, u32(1)),)), ALIGNMENT),
    "alignment of another type": (file((pair(ALIGNMENT, I8, b"\xf8"),)), ALIGNMENT),
    "alignment past the file": (file((pair(ALIGNMENT, U32, u32(1 << 30)),), (info(),), bytes(64)), "tensor 'a'"),
    "empty name": (one(name=""), "tensor 1 of 1"),
    "name of 64": (one(name="n" * 64), "64 bytes"),
    "name not UTF-8": (one(name=b"\xff"), "UTF-8"),
    "tensor twice": (file((LLAMA,), (info(), info(offset=32)), bytes(64)), "twice"),
    "no dimensions": (one(ne=()), "0 dimensions"),
    "five dimensions": (one(ne=(1,) * 5), "5 dimensions"),
    "huge dimensions": (file((), (string("a") + u32(0xFFFFFFFF) + bytes(32),), bytes(64)), "dimensions"),
    "dimension of 0": (one(ne=(8, 0)), "without a value"),
    "negative dimension": (one(ne=((1 << 64) - 8,)), "end at byte"),
    "product wraps": (one(ne=(4, (1 << 30) - 1, (1 << 30) + 1)), "end at byte"),
    "product wraps to 0": (one(ne=(1 << 32, 1 << 32)), "end at byte"),
    "row no multiple of the block": (one(ne=(8,), kind=2), "multiple of q4_0's 32"),
    "removed type": (one(kind=4), "type 4"),
    "type beyond the last": (one(kind=200), "type 200"),
    "negative type": (one(kind=0xFFFFFFFF), "type"),
    "offset not aligned": (one(offset=8), "multiple of the alignment"),
    "offset past the end": (one(offset=64), "end at byte"),
    "offset wraps": (one(offset=(1 << 64) - 32), "end at byte"),
    "one byte beyond": (one(ne=(65,), kind=24), "end at byte"),
    "overlap": (file((LLAMA,), (info("a", (16,)), info("b", offset=32)), bytes(64)), "lies over"),
    "same bytes": (file((LLAMA,), (info("a"), info("b")), bytes(64)), "lies over"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize(("raw", "says"), BAD.values(), ids=BAD.keys())
def test_refuses(path: Path, raw: bytes, says: str) -> None:
    put(path, raw)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as error:
            GGUF.open(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert says in one_line(error, path)


def test_refuses_a_sparse_terabyte_of_empty_texts(path: Path) -> None:
    put(path, key_value(ARRAY, array(STRING, 1 << 36)))
    os.truncate(path, 1 << 40)
    with pytest.raises(ModelError, match="largest header"):
        GGUF.open(path)


def test_refuses_a_header_beyond_the_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, key_value(ARRAY, array(STRING, 20, string("abcdefgh") * 20)))
    monkeypatch.setattr(header, "HEADER_LIMIT", 256)
    with pytest.raises(ModelError, match="text 12 of 20"):
        GGUF.open(path)


@pytest.mark.skipif(os.name != "posix", reason="has no such files")
def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {
        tmp_path / "absent.gguf": "does not exist",
        tmp_path: "folder",
        tmp_path / "pipe": "pipe",
        Path("/dev/zero"): "device",
        tmp_path / "loop": "symbolic",
        Path("nul\0nul"): "cannot be opened",
        tmp_path / ("n" * 999): "name too long",
    }
    for path, says in cases.items():
        with pytest.raises(ModelError) as error:
            GGUF.open(path)
        assert says in one_line(error, path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_refuses_what_it_may_not_read(path: Path) -> None:
    put(path, file()).chmod(0)
    with pytest.raises(ModelError, match="permission"):
        GGUF.open(path)


def test_a_message_shows_no_escapes_of_the_file(path: Path) -> None:
    put(path, file((pair("\x1b[2J\n" + "k" * 999, 99, b""),)))
    with pytest.raises(ModelError) as error:
        GGUF.open(path)
    message = one_line(error, path)
    assert message.isprintable()
    assert len(message) < len(str(path)) + 200


def small(folder: Path) -> bytes:
    return tiny.write(
        folder / "small.gguf", n_layer=1, n_embd=32, n_head=1, n_head_kv=1, n_ff=32, types="q4_0", tied=True
    ).read_bytes()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """Return a path to write to, a small model's bytes, and how many of them are its header."""
    folder = tmp_path_factory.mktemp("damage")
    raw = small(folder)
    tensors = GGUF.open(folder / "small.gguf").tensors.values()
    return folder / "damaged.gguf", raw, len(raw) - sum(-(-t.data.nbytes // 32) * 32 for t in tensors)


def survives(path: Path, raw: bytes) -> None:
    """Check that the file opens and can be read as a whole, or is refused."""
    put(path, raw)
    try:
        g = GGUF.open(path)
        for tensor in g.tensors.values():
            int(tensor.data.sum())
        describe(g)
        read_config(g)
    except ModelError as e:
        assert str(e).startswith(str(path))
        assert "\n" not in str(e)


def test_cut_anywhere(original: tuple[Path, bytes, int]) -> None:
    path, raw, header_size = original
    stops = [*range(0, 600), *range(600, header_size, 7), *range(header_size - 600, header_size + 64), len(raw) - 1]
    for stop in stops:
        put(path, raw[:stop])
        with pytest.raises(ModelError):
            GGUF.open(path)


def test_trailing_bytes_do_no_harm(original: tuple[Path, bytes, int]) -> None:
    path, raw, _ = original
    assert GGUF.open(put(path, raw + b"more")).architecture == "llama"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bits_flipped_and_bytes_overwritten(original: tuple[Path, bytes, int], data: st.DataObject) -> None:
    path, raw, header_size = original
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header_size - 1) | st.integers(0, 400) | st.integers(header_size - 700, len(raw)))
        extreme = st.sampled_from([b"\xff" * 8, b"\0" * 8, u64(1 << 62), u64(1 << 63), u32(0x7FFFFFFF), u32(9)])
        patch = data.draw(st.binary(min_size=1, max_size=16) | extreme)
        damaged[at : at + len(patch)] = patch
    survives(path, bytes(damaged))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pieces_cut_out_and_put_in(original: tuple[Path, bytes, int], data: st.DataObject) -> None:
    path, raw, header_size = original
    start = data.draw(st.integers(0, header_size))
    stop = data.draw(st.integers(start, min(start + 64, len(raw))))
    survives(path, raw[:start] + data.draw(st.binary(max_size=32)) + raw[stop:])


@settings(max_examples=100, deadline=None)
@given(tail=st.binary(max_size=200))
def test_any_bytes_after_the_magic(original: tuple[Path, bytes, int], tail: bytes) -> None:
    survives(original[0], b"GGUF" + u32(3) + tail)
