"""Types that are decoded while loading: the tiles hold what the package gguf decodes, in q8_0."""

from __future__ import annotations

import logging
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny

from pyllm.engine.machine import fit
from pyllm.kernels.formats import tiles
from pyllm.kernels.plan import Team
from pyllm.models.arch.registry import read_config
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.describe import describe
from pyllm.models.file.gguf import GGUF
from pyllm.models.file.header import TENSOR_TYPES, Tensor
from pyllm.models.forward import upcast
from pyllm.models.forward.weights import Weights

SIZES = {name: (size, nbytes) for name, size, nbytes in TENSOR_TYPES.values()}
TYPE = pytest.mark.parametrize("type", upcast.DECODED)


def random_rows(type: str, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return blocks with finite scales, and their values."""
    size, nbytes = SIZES[type]
    raw = np.random.default_rng(0).integers(0, 0x3C, (rows, columns // size * nbytes), dtype=np.uint8)
    return raw, gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[type.upper()])


def replaced(g: GGUF, name: str, type: str, raw: np.ndarray) -> GGUF:
    g.tensors[name] = Tensor(name, g.tensors[name].shape, type, raw.reshape(-1))
    return g


@TYPE
def test_blocks(type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upcast, "PIECE", 2048)  # several pieces
    raw, x = random_rows(type, 37, 512)
    got = upcast.blocks(type, raw, threads=2)
    np.testing.assert_array_equal(got, upcast.WIDE.encode(x))
    error = upcast.WIDE.decode(got) - x
    assert np.sqrt((error**2).mean() / (x**2).mean()) < 0.01


@TYPE
def test_weights(tmp_path: Path, type: str, caplog: pytest.LogCaptureFixture) -> None:
    g = GGUF.open(tiny.write(tmp_path / "a.gguf", n_embd=256))
    rows, columns = g.tensors["token_embd.weight"].shape
    raw, x = random_rows(type, rows, columns)
    weights, team = Weights(replaced(g, "token_embd.weight", type, raw)), Team(2)
    table, matrix = (
        weights.embedding("token_embd.weight", rows, columns),
        weights.matrix("token_embd.weight", rows, columns),
    )
    with caplog.at_level(logging.WARNING):
        weights.pack(team)
    team.close()
    expected = upcast.WIDE.encode(x)
    np.testing.assert_array_equal(tiles.unpack(matrix.data, matrix.format, rows, columns), expected)
    np.testing.assert_array_equal(table.raw, expected)
    assert [record.message.split(":")[0] for record in caplog.records] == [type]


def test_what_is_said_and_counted(tmp_path: Path) -> None:
    g = GGUF.open(tiny.write(tmp_path / "a.gguf", n_embd=256))
    config, before = read_config(g), upcast.held(g.tensors)
    assert upcast.note(g.tensors.values()) == ""
    shape = g.tensors["output.weight"].shape
    replaced(g, "output.weight", "iq3_s", random_rows("iq3_s", *shape)[0])
    assert describe(g)["problem"] is None
    assert upcast.held(g.tensors) == before - shape[0] * shape[1] * 4 + shape[0] * shape[1] * 34 // 32
    assert fit.needs(g, config, 64, CacheSpec()).weights == upcast.held(g.tensors)
    assert upcast.note(g.tensors.values()) == "iq3_s: decoded to q8_0 while loading, 0 MiB of memory for 0 MiB"
