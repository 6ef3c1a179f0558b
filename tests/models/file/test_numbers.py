"""NaN and infinity are found wherever a format has floats, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import gguf_bytes
import numpy as np
import pytest

from pyllm.kernels.formats.table import FORMATS
from pyllm.models.file.gguf import GGUF
from pyllm.models.file.header import TENSOR_TYPES
from pyllm.models.file.numbers import PIECE, Bad, is_checked, scan

NAMES = {name: ggml_id for ggml_id, (name, _, _) in TENSOR_TYPES.items()}


def tensors(folder: Path, kind: str, raws: list[bytes]) -> GGUF:
    """Return a file with tensors "0", "1", ... of these bytes."""
    _, size, nbytes = TENSOR_TYPES[NAMES[kind]]
    infos, data = [], b""
    for i, raw in enumerate(raws):
        infos.append(gguf_bytes.info(str(i), (len(raw) // nbytes * size,), NAMES[kind], len(data)))
        data += raw + bytes(-len(raw) % 32)
    return GGUF.open(gguf_bytes.put(folder / "m.gguf", gguf_bytes.file(infos=tuple(infos), data=data)))


@pytest.mark.parametrize("name", [name for name, f in FORMATS.items() if f.ggml_id is not None])
def test_each_format(name: str, tmp_path: Path) -> None:
    """NaN and infinity are found exactly where decoded values have them."""
    format = FORMATS[name]
    rng = np.random.default_rng(1)
    clean = format.encode(rng.standard_normal((1, 8 * format.size)).astype(np.float32)).ravel()
    damaged = []
    for at in range(3 * format.nbytes, 4 * format.nbytes):  # each byte of a block, with the one before it
        raw = clean.copy()
        raw[at], raw[at - 1] = (0x7F, 0xFF) if name in ("f32", "bf16") else (raw[at] | 0x7C, raw[at - 1])
        damaged.append(raw)
    found = {
        int(bad.tensor): bad for bad in scan(tensors(tmp_path, name, [raw.tobytes() for raw in (*damaged, clean)]))
    }
    assert found.keys() == {i for i, raw in enumerate(damaged) if not np.isfinite(format.decode(raw)).all()}
    assert found or (format.layout and format.layout.exponent), "all others have floats"
    assert all(bad == Bad(str(i), name, 1, 3) for i, bad in found.items() if i)


@pytest.mark.parametrize("name", [f.name for f in FORMATS.values() if f.layout and f.layout.exponent])
def test_scales_that_are_powers_of_two(name: str, tmp_path: Path) -> None:
    """A scale of all ones is NaN, although it decodes to a number."""
    format = FORMATS[name]
    raw = bytearray(8 * format.nbytes)
    assert format.layout is not None
    raw[3 * format.nbytes + format.layout.d] = 0xFF
    assert scan(tensors(tmp_path, name, [bytes(raw)])) == [Bad("0", name, 1, 3)]


@pytest.mark.parametrize(("kind", "dtype"), [("f64", "<f8"), ("f32", "<f4"), ("f16", "<f2")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats(kind: str, dtype: str, value: float, tmp_path: Path) -> None:
    x = np.linspace(-60000, 60000, 96, dtype=dtype)
    assert scan(tensors(tmp_path, kind, [x.tobytes()])) == []
    x[[5, 95]] = value
    assert scan(tensors(tmp_path, kind, [x.tobytes()])) == [Bad("0", kind, 2, 5)]


def test_many_pieces(tmp_path: Path) -> None:
    x = np.zeros(2 * PIECE // 4 + 8, "<f4")
    x[[PIECE // 4 + 3, -1]] = np.nan
    seen: list[tuple[int, int]] = []
    g = tensors(tmp_path, "f32", [x.tobytes()])
    assert scan(g, lambda done, total: seen.append((done, total))) == [Bad("0", "f32", 2, PIECE // 4 + 3)]
    assert seen[-1] == (x.nbytes, x.nbytes) and len(seen) == 4


def test_what_is_not_looked_at(tmp_path: Path) -> None:
    assert [kind for kind in ("i8", "i64", "f64", *FORMATS) if not is_checked(kind)] == []
    for kind in set(NAMES) - set(FORMATS) - {"i8", "i16", "i32", "i64", "f64"}:
        assert not is_checked(kind)
        assert scan(tensors(tmp_path, kind, [b"\xff" * TENSOR_TYPES[NAMES[kind]][2]])) == []
