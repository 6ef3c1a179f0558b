"""`pyllm quantize` on tiny models: the contents of the file that it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from pyllm import __main__ as cli
from pyllm.engine.commands.quantize import convert
from pyllm.kernels.formats.table import FORMATS
from pyllm.models.file import rewrite
from pyllm.models.file.gguf import GGUF


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = {"tiny.numbers": [1, 2, 3], "tiny.empty": "", "tiny.flag": True, "general.alignment": 64}
    return tiny.write(tmp_path_factory.mktemp("model") / "a.gguf", n_embd=256, n_ff=96, overrides=overrides)


def values(g: GGUF, name: str) -> np.ndarray:
    tensor = g.tensors[name]
    return FORMATS[tensor.type].decode(tensor.data).reshape(tensor.shape)


@pytest.mark.parametrize("type", ["Q4_K_M", "Q8_0", "F16"])
def test_what_is_written(source: Path, tmp_path: Path, type: str) -> None:
    seen: list[tuple[int, int]] = []
    before, after = convert(GGUF.open(source), tmp_path / "b.gguf", type, threads=2,
                            progress=lambda stage, done, total, next="": seen.append((done, total)))  # fmt: skip
    a, b = GGUF.open(source), GGUF.open(tmp_path / "b.gguf")
    assert before == sum(t.data.nbytes for t in a.tensors.values())
    assert after == sum(t.data.nbytes for t in b.tensors.values()) < before
    assert seen[-1] == (before, before) and sorted(seen) == seen
    assert list(a.tensors) == list(b.tensors)
    for name, tensor in b.tensors.items():
        assert tensor.shape == a.tensors[name].shape
        if len(tensor.shape) == 1:
            assert (tensor.type, bytes(tensor.data)) == ("f32", bytes(a.tensors[name].data))
        else:
            fmt, x = FORMATS[tensor.type], values(a, name)
            np.testing.assert_array_equal(values(b, name), fmt.decode(fmt.encode(x)), err_msg=name)
    if type == "Q4_K_M":
        assert b.tensors["output.weight"].type == "q6_k"
        assert b.tensors["blk.1.attn_q.weight"].type == "q4_k"
        assert b.tensors["blk.1.ffn_down.weight"].type == "q8_0"  # rows of 96


def test_metadata_is_copied_to_the_byte(source: Path, tmp_path: Path) -> None:
    convert(GGUF.open(source), tmp_path / "b.gguf", "Q4_K_M", threads=1)
    a, b = dict(rewrite.pairs(source)), dict(rewrite.pairs(tmp_path / "b.gguf"))
    new = {"general.file_type": rewrite.whole(15), "general.quantization_version": rewrite.whole(2)}
    assert b == a | new
    assert GGUF.open(tmp_path / "b.gguf").integer("general.file_type", 0, 99) == 15


def test_parts_become_one(tmp_path: Path) -> None:
    first = tiny.write(tmp_path / "a.gguf", n_embd=256, split_max_tensors=7)
    whole = GGUF.open(first)
    assert len(whole.paths) > 1
    convert(whole, tmp_path / "b.gguf", "Q8_0", threads=2)
    b = GGUF.open(tmp_path / "b.gguf")
    assert b.paths == (tmp_path / "b.gguf",) and b.tensors.keys() == whole.tensors.keys()


def test_experts(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 40, 256), dtype=np.float32)
    tiny.write(tmp_path / "a.gguf", n_embd=256, tensors={"blk.0.ffn_up_exps.weight": x})
    convert(GGUF.open(tmp_path / "a.gguf"), tmp_path / "b.gguf", "Q4_K_S", threads=2)
    got = GGUF.open(tmp_path / "b.gguf")
    assert got.tensors["blk.0.ffn_up_exps.weight"].type == "q4_k"
    assert np.sqrt(np.mean((values(got, "blk.0.ffn_up_exps.weight") - x) ** 2)) < FORMATS["q4_k"].max_error


def refused(capsys: pytest.CaptureFixture[str], code: int, *args: object) -> str:
    assert cli.main(["quantize", *map(str, args)]) == code
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_refusals(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b.gguf"
    assert "'Q9'" in refused(capsys, 2, source, out, "Q9")
    assert "the folder" in refused(capsys, 2, source, tmp_path / "no" / "b.gguf", "Q8_0")
    assert "is the model that is read" in refused(capsys, 2, source, source, "Q8_0", "--force")
    out.write_bytes(b"precious")
    assert "--force" in refused(capsys, 2, source, out, "Q8_0")
    assert "only a GGUF file is replaced" in refused(capsys, 2, source, out, "Q8_0", "--force")
    assert out.read_bytes() == b"precious"
    out.write_bytes(b"GGUF")
    assert cli.main(["quantize", str(source), str(out), "q8_0", "--force"]) == 0
    capsys.readouterr()
    line = refused(capsys, 3, out, tmp_path / "c.gguf", "Q4_K_M")
    assert "quantized already (q8_0)" in line and "--allow-requantize" in line
    assert cli.main(["quantize", str(out), str(tmp_path / "c.gguf"), "Q4_K_M", "--allow-requantize"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"b.gguf", "c.gguf"}


def test_nothing_is_left_of_one_that_was_broken_off(source: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, next: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(GGUF.open(source), tmp_path / "b.gguf", "Q8_0", threads=2, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("type", "fmt", "value"),
    [
        ("F16", "f16", 1e6),
        ("F16", "f16", -np.inf),
        ("BF16", "bf16", np.nan),
        ("Q4_0", "q4_0", 1e6),
        ("Q4_1", "q4_1", 1e6),
        ("Q8_0", "q8_0", 1e8),
        ("Q8_0", "q8_0", np.nan),
        ("Q8_0", "q8_0", np.inf),
        ("Q4_K_M", "q4_k", np.nan),
        ("Q4_K_M", "q4_k", 1e9),
        ("Q4_K_M", "q4_k", -1e35),
        ("Q3_K_M", "q3_k", 1e20),
        ("IQ4_XS", "iq4_xs", 1e35),
    ],
)
def test_values_that_the_type_cannot_represent(
    type: str, fmt: str, value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).standard_normal((96, 256), dtype=np.float32)
    x[5, 77], x[60, 3] = value, np.nan  # only the first is named
    path = tiny.write(tmp_path / "a.gguf", n_embd=256, tensors={"blk.1.ffn_gate.weight": x})
    line = refused(capsys, 3, path, tmp_path / "b.gguf", type)
    assert f"a.gguf: blk.1.ffn_gate.weight: has {value:g} at [5, 77], which {fmt} cannot represent" in line
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"]
