"""Models of random weights: the files load, have the promised size, and are written once."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyllm.bench.speed import synthetic
from pyllm.bench.speed.synthetic import SHAPES, Shape
from pyllm.kernels.formats.table import FORMATS, WEIGHT_TYPES
from pyllm.models.arch.registry import read_config
from pyllm.models.describe import describe
from pyllm.models.errors import FitError, PyllmError
from pyllm.models.file.gguf import GGUF
from pyllm.models.text.tokenizer import Tokenizer

TINY = Shape(2, 128, 96, 4, 2, 300, tied=True)


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_what_they_are_called(name: str) -> None:
    parameters = sum(math.prod(dims) for dims in SHAPES[name].tensors().values())
    assert parameters == pytest.approx(float(name.split("-")[0].removesuffix("B")) * 1e9, rel=0.08)
    assert SHAPES[name].head_dim in (64, 128)


def test_experts(tmp_path: Path) -> None:
    shape = Shape(2, 128, 96, 4, 2, 300, True, 4, 2)
    synthetic.write(tmp_path / "a.gguf", shape, "q4_0", "tiny")
    g = GGUF.open(tmp_path / "a.gguf")
    assert describe(g)["problem"] is None
    config = read_config(g)
    assert (config.expert_count, config.expert_used_count, config.expert_feed_forward_length) == (4, 2, 96)
    assert {name: tensor.shape for name, tensor in g.tensors.items()} == shape.tensors()
    assert g.tensors["blk.0.ffn_gate_inp.weight"].type == "f32"
    assert g.tensors["blk.0.ffn_down_exps.weight"].type == "q4_0"


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_file_loads(tmp_path: Path, weight_type: str, tied: bool) -> None:
    shape = Shape(2, 256, 96, 4, 2, 300, tied)
    synthetic.write(tmp_path / "a.gguf", shape, weight_type, "synthetic tiny")
    g = GGUF.open(tmp_path / "a.gguf")
    assert describe(g)["problem"] is None
    config = read_config(g)
    assert (config.n_layer, config.n_vocab, config.head_dim_k, config.name) == (2, 300, 64, "synthetic tiny")
    assert {name: tensor.shape for name, tensor in g.tensors.items()} == shape.tensors()
    assert sum(t.data.nbytes for t in g.tensors.values()) == synthetic.nbytes(shape, FORMATS[weight_type])
    for name, tensor in g.tensors.items():
        own = FORMATS["f32" if len(tensor.shape) == 1 else weight_type].fitting(tensor.shape[-1])
        assert tensor.type == own.name, name
        values = FORMATS[tensor.type].decode(tensor.data)
        spread = 0 if len(tensor.shape) == 1 else 1 if name == "token_embd.weight" else tensor.shape[1] ** -0.5
        assert values.std() == pytest.approx(spread, rel=0.1), name


def test_its_tokenizer_knows_every_byte(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "a.gguf", TINY, "q4_0", "tiny")
    tokenizer = Tokenizer.from_gguf(GGUF.open(tmp_path / "a.gguf"))
    for text in ("hello", "Grüße, 世界 \x00\xff"):
        assert b"".join(tokenizer.token_bytes(i) for i in tokenizer.encode(text)) == text.encode()


def test_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthetic.SHAPES, "tiny", TINY)
    stages: list[tuple[int, int]] = []
    path = synthetic.make(tmp_path, "tiny", "q8_0", lambda stage, done, total, next="": stages.append((done, total)))
    assert stages[-1][0] == stages[-1][1] == synthetic.nbytes(TINY, FORMATS["q8_0"])
    before = path.stat()
    assert synthetic.make(tmp_path, "tiny", "q8_0") == path and path.stat() == before
    assert synthetic.make(tmp_path, "tiny", "q4_0") != path
    assert not list(tmp_path.rglob("*.part"))


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "free_memory", lambda: (1 << 30, "the machine"))
    with pytest.raises(FitError, match=r"--synthetic 8B: .* but the machine leaves 1.00 GiB; "):
        synthetic.make(tmp_path, "8B", "q8_0")
    monkeypatch.setattr(synthetic, "free_memory", lambda: (1 << 40, "the machine"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    with pytest.raises(PyllmError, match=r"--synthetic 8B: .* are free; .*PYLLM_CACHE"):
        synthetic.make(tmp_path, "8B", "q8_0")
    assert not list(tmp_path.rglob("*.gguf"))


def test_nothing_is_left_of_one_that_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthetic.SHAPES, "tiny", TINY)

    def stop(stage: str, done: int, total: int, next: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.make(tmp_path, "tiny", "q4_0", stop)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
