"""What `pyllm inspect` says of a file, as data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from gguf_bytes import LLAMA, file, info, put, u32

from pyllm.kernels.formats.table import CACHE_TYPES, FORMATS
from pyllm.models.describe import describe
from pyllm.models.file.gguf import GGUF


def test_a_model(tmp_path: Path) -> None:
    path = tiny.write(
        tmp_path / "m.gguf", n_layer=2, n_embd=64, n_head=2, n_head_kv=1, types={"": "q4_1", "ffn_up": "f16"}
    )
    facts = describe(GGUF.open(path))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["file"] == {"paths": [str(path)], "bytes": path.stat().st_size, "gguf_version": 3}
    assert (facts["architecture"], facts["name"], facts["problem"]) == ("llama", "tiny", None)
    assert facts["config"]["layers"][0]["n_head_kv"] == 1
    assert facts["parameters"] == sum(int(np.prod(t["shape"])) for t in facts["tensors"])
    assert facts["weights_bytes"] == sum(t["bytes"] for t in facts["tensors"])
    assert facts["bits_per_weight"] == 8 * facts["weights_bytes"] / facts["parameters"]
    assert facts["chat_template"] == {"present": True, "characters": len(tiny.CHATML)}
    assert facts["tensors"][0] == {"name": "token_embd.weight", "shape": [272, 64], "type": "q4_1", "bytes": 272 * 40}
    assert {row["type"]: (row["tensors"], row["parameters"], row["bytes"]) for row in facts["quantization"]} == {
        "q4_1": (14, 83968, 52480),
        "f16": (2, 12288, 24576),
        "f32": (5, 320, 1280),
    }


def test_the_tokenizer(tmp_path: Path) -> None:
    said = describe(GGUF.open(tiny.write(tmp_path / "m.gguf")))["tokenizer"]
    assert (said["model"], said["pre"], said["tokens"], said["merges"]) == ("gpt2", "gpt-2", 272, len(tiny.MERGES))
    assert said["eos"] == {"id": 2, "text": "<|im_end|>"}
    assert said["padding"] is None
    assert said["control_tokens"] == 3
    assert said["add_bos_token"] is False


def test_a_token_of_every_pair_of_cache_types(tmp_path: Path) -> None:
    cache = describe(GGUF.open(tiny.write(tmp_path / "m.gguf", n_layer=2, n_head_kv=2)))["cache"]
    assert tuple(cache["k"]) == tuple(cache["v"]) == CACHE_TYPES
    assert cache["k"]["q8_0"] == 2 * 2 * 34
    assert len(cache["pairs"]) == len(CACHE_TYPES) ** 2
    assert cache["pairs"]["f16/q4_0"] == cache["k"]["f16"] + cache["v"]["q4_0"]


def test_heads_that_a_type_cannot_hold(tmp_path: Path) -> None:
    cache = describe(GGUF.open(tiny.write(tmp_path / "m.gguf", head_dim=16)))["cache"]
    assert cache["k"]["q8_0"] is None
    assert cache["pairs"]["f16/q8_0"] is None
    assert cache["pairs"]["f16/f16"] == 2 * 2 * 32 * 2 * 2, "heads of 16 are padded to blocks of 32 in the cache"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"general.architecture": "gpt9"}, "'gpt9'"),
        ({"general.architecture": None}, "general.architecture"),
        ({"llama.block_count": 0}, "block_count"),
        ({"tokenizer.ggml.tokens": [1, 2], "tokenizer.ggml.eos_token_id": -5}, "tokens"),
        ({"tokenizer.ggml.tokens": 7, "tokenizer.ggml.token_type": "x", "tokenizer.ggml.merges": 7}, "tokens"),
    ],
)
def test_a_model_that_does_not_run_is_described(tmp_path: Path, overrides: dict[str, object], says: str) -> None:
    facts = describe(GGUF.open(tiny.write(tmp_path / "m.gguf", overrides=overrides)))
    assert says in facts["problem"]
    assert facts["config"] is None
    assert facts["cache"] is None
    assert facts["parameters"] > 0


def test_a_tensor_type_that_does_not_run(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf")
    raw = path.read_bytes()
    at = raw.index(b"output.weight") + len(b"output.weight") + 4 + 2 * 8  # number of dimensions, dimensions
    put(path, raw[:at] + u32(26) + raw[at + 4 :])  # i32, of f32's size
    facts = describe(GGUF.open(path))
    assert "tensor 'output.weight': has type i32" in facts["problem"]
    assert facts["config"] is not None


@pytest.mark.parametrize("raw", [file(()), file((LLAMA,), (info("w"),), bytes(32))], ids=["nothing", "a tensor"])
def test_almost_nothing(tmp_path: Path, raw: bytes) -> None:
    facts = describe(GGUF.open(put(tmp_path / "m.gguf", raw)))
    assert facts["problem"]
    assert facts["tokenizer"]["model"] is None
    assert facts["chat_template"] == {"present": False, "characters": 0}


# The command


def inspect(path: Path, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, pyllm.__main__ as c; code = c.main(); "
         "assert 'numba' not in sys.modules; sys.exit(code)", "inspect", str(path), *flags],
        capture_output=True, text=True, timeout=60, env={"PYTHONPATH": ":".join(p for p in sys.path if p)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_command_prints_tables(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf", types="q8_0", n_head_kv=2)
    out = inspect(path, "--tensors")
    for part in ("m.gguf", "llama", "gpt2 (gpt-2), 272 tokens", "eos <|im_end|>", "KV cache", "blk.1.ffn_down.weight"):
        assert part in out
    lines = [line.split() for line in out.splitlines()]
    heads = {name: 2 * 2 * FORMATS[name].row_bytes(32) for name in CACHE_TYPES}  # of a token: 2 layers, 2 heads of 32
    for k in CACHE_TYPES:
        assert [k, *(f"{heads[k] + heads[v]:,}" for v in CACHE_TYPES)] in lines
    assert "blk.1.ffn_down.weight" not in inspect(path)


def test_the_command_prints_json(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf")
    assert json.loads(inspect(path, "--json")) == describe(GGUF.open(path))


def test_the_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    names = {"general.name": "\x1b[2Jbold [red]x[/red]", "general.architecture": "a\x07[b]"}
    out = inspect(tiny.write(tmp_path / "m.gguf", overrides=names))
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[red]x[/red]" in out
    assert "does not run" in out


@pytest.mark.real
def test_smollm2(smollm2: Path) -> None:
    facts = describe(GGUF.open(smollm2))
    assert facts["problem"] is None
    assert facts["parameters"] == 134_515_008
    assert [row["type"] for row in facts["quantization"]] == ["q4_1", "q8_0", "f32"]
    assert facts["cache"]["pairs"]["q8_0/q4_0"] == 9360
