"""NaN and infinity, found wherever a format has floats, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import gguf_bytes
import numpy as np
import pytest

from pyllm.kernels.formats import FORMATS
from pyllm.models.gguf import GGUF
from pyllm.models.header import TENSOR_TYPES
from pyllm.models.verify import PIECE, Bad, is_checked, scan

NAMES = {name: ggml_id for ggml_id, (name, _, _) in TENSOR_TYPES.items()}


def one_tensor(folder: Path, kind: str, raw: bytes) -> GGUF:
    """A file with a tensor "a" of these bytes."""
    _, size, nbytes = TENSOR_TYPES[NAMES[kind]]
    info = gguf_bytes.info("a", (len(raw) // nbytes * size,), NAMES[kind])
    return GGUF.open(gguf_bytes.put(folder / "m.gguf", gguf_bytes.file(infos=(info,), data=raw)))


@pytest.mark.parametrize("name", FORMATS)
def test_each_format(name: str, tmp_path: Path) -> None:
    """A scale or value that is none makes decoded values that are none; both ways."""
    format = FORMATS[name]
    rng = np.random.default_rng(1)
    clean = format.encode(rng.standard_normal((1, 40 * format.size)).astype(np.float32)).ravel()
    assert scan(one_tensor(tmp_path, name, clean.tobytes())) == []
    for at in range(7 * format.nbytes, 8 * format.nbytes):
        raw = clean.copy()
        raw[at] |= 0x7C  # the high byte of a float16's infinity, or of a large number
        raw[at - 1] |= 0x80 if name == "bf16" else 0
        if name == "f32":
            raw[at], raw[at - 1] = 0x7F, 0xFF
        none = not np.isfinite(format.decode(raw)).all()
        found = scan(one_tensor(tmp_path, name, raw.tobytes()))
        assert bool(found) == none, (at, found)
        if found and at % format.nbytes:
            assert found == [Bad("a", name, 1, 7)]


@pytest.mark.parametrize(("kind", "dtype"), [("f64", "<f8"), ("f32", "<f4"), ("f16", "<f2")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats(kind: str, dtype: str, value: float, tmp_path: Path) -> None:
    x = np.linspace(-60000, 60000, 96, dtype=dtype)
    assert scan(one_tensor(tmp_path, kind, x.tobytes())) == []
    x[[5, 95]] = value
    assert scan(one_tensor(tmp_path, kind, x.tobytes())) == [Bad("a", kind, 2, 5)]


def test_many_pieces(tmp_path: Path) -> None:
    x = np.zeros(2 * PIECE // 4 + 8, "<f4")
    x[[PIECE // 4 + 3, -1]] = np.nan
    seen: list[tuple[int, int]] = []
    g = one_tensor(tmp_path, "f32", x.tobytes())
    assert scan(g, lambda done, total: seen.append((done, total))) == [Bad("a", "f32", 2, PIECE // 4 + 3)]
    assert seen[-1] == (x.nbytes, x.nbytes) and len(seen) == 4


def test_what_is_not_looked_at(tmp_path: Path) -> None:
    assert [kind for kind in ("i8", "i64", "f64", *FORMATS) if not is_checked(kind)] == []
    for kind in set(NAMES) - set(FORMATS) - {"i8", "i16", "i32", "i64", "f64"}:
        assert not is_checked(kind)
        assert scan(one_tensor(tmp_path, kind, b"\xff" * TENSOR_TYPES[NAMES[kind]][2])) == []
