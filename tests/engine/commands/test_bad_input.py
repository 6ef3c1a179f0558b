"""A user's mistakes, through the command line and the real engine: one line, an exit code, no traceback."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from pyllm.__main__ import main
from pyllm.kernels.formats.table import CACHE_TYPES
from pyllm.models.forward.loaded import Loaded


def fails(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command prints, after checking that it ends with `code`."""
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == "", "stdout is for answers"
    assert err.startswith("pyllm: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("good") / "tiny.gguf", types="q4_0")


@pytest.fixture(autouse=True)
def nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistakes are found before anything is compiled or packed."""
    monkeypatch.setattr(Loaded, "prepare", lambda *_: pytest.fail("got as far as to compile"))


# Files that are no model ----------------------------------------------------------------------------------------------


def overwritten(at: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + value + raw[at + len(value) :]


NO_MODELS: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "empty": (lambda raw: b"", ("is empty", "download it again")),
    "text": (lambda raw: b"a text, and no model\n" * 9, ("magic", "give a .gguf file")),
    "version 1": (overwritten(4, struct.pack("<I", 1)), ("version", "reads 2 and 3")),
    "version 99": (overwritten(4, struct.pack("<I", 99)), ("version", "reads 2 and 3")),
    "big endian": (overwritten(4, struct.pack(">I", 3)), ("big-endian", "gguf-convert-endian")),
    "many tensors": (overwritten(8, b"\xff" * 8), ("number of tensors",)),
    "many pairs": (overwritten(16, struct.pack("<Q", 1 << 40)), ("number of metadata pairs",)),
    "a long key": (overwritten(24, struct.pack("<Q", 1 << 62)), ("key 1 of", "bytes")),
    **{
        f"cut at {part} of 8": (lambda raw, part=part: raw[: len(raw) * part // 8], ("download it again",))
        for part in range(1, 8)
    },
    "a byte short": (lambda raw: raw[:-1], ("tensor", "download it again")),
}


@pytest.mark.parametrize("command", ["run", "inspect"])
@pytest.mark.parametrize(("damage", "says"), NO_MODELS.values(), ids=NO_MODELS.keys())
def test_no_model(
    command: str,
    damage: Callable[[bytes], bytes],
    says: tuple[str, ...],
    good: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(damage(good.read_bytes()))
    message = fails([command, str(path), *(["-p", "x"] if command == "run" else [])], 3, capsys)
    for part in (str(path), ";", *says):
        assert part in message


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_no_file(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["-p", "x"] if command == "run" else []
    assert "no such file" in fails([command, str(tmp_path / "absent.gguf"), *more], 3, capsys)
    assert "name a .gguf file in it" in fails([command, str(tmp_path), *more], 3, capsys)


# Models that pyllm does not run ---------------------------------------------------------------------------------------

WIDE = np.ones((96, 160), np.float32)
BAD_MODELS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "architecture": ({"arch": "mamba"}, ("general.architecture", "'mamba'", "it runs llama")),
    "no architecture": ({"overrides": {"general.architecture": None}}, ("general.architecture", "is missing")),
    "tokenizer": ({"tokenizer": "t5"}, ("tokenizer.ggml.model", "'t5'", "it knows gemma4, gpt2, llama")),
    "no tokenizer": ({"tokenizer": None}, ("tokenizer.ggml.model", "is missing")),
    "pre-tokenizer": ({"pre": "klingon"}, ("tokenizer.ggml.pre", "'klingon'", "smollm")),
    "layers 0": ({"overrides": {"llama.block_count": 0}}, ("llama.block_count", "must be from 1")),
    "layers text": ({"overrides": {"llama.block_count": "two"}}, ("llama.block_count", "must be a whole number")),
    "layers missing": ({"overrides": {"llama.block_count": None}}, ("llama.block_count", "is missing")),
    "heads 0": ({"overrides": {"llama.attention.head_count": 0}}, ("llama.attention.head_count", "from 1")),
    "heads do not divide": ({"overrides": {"llama.attention.head_count_kv": 3}}, ("head_count_kv", "must divide")),
    "width 0": ({"overrides": {"llama.embedding_length": 0}}, ("llama.embedding_length",)),
    "context 0": ({"overrides": {"llama.context_length": 0}}, ("llama.context_length",)),
    "eps of NaN": ({"overrides": {"llama.attention.layer_norm_rms_epsilon": float("nan")}}, ("rms_epsilon", "nan")),
    "rope base -1": ({"overrides": {"llama.rope.freq_base": -1.0}}, ("llama.rope.freq_base",)),
    "rope scaling": (
        {"overrides": {"llama.rope.scaling.type": "dynamic"}},
        ("rope.scaling.type", "'dynamic'", "linear"),
    ),
    "experts": ({"overrides": {"llama.expert_count": 8}}, ("llama.expert_used_count", "is missing")),
    "one layer too many": ({"overrides": {"llama.block_count": 3}}, ("blk.2.", "is missing")),
    "no embedding": ({"tensors": {"token_embd.weight": None}}, ("token_embd.weight", "is missing")),
    "no norm": ({"tensors": {"output_norm.weight": None}}, ("output_norm.weight", "is missing")),
    "no matrix": ({"tensors": {"blk.1.ffn_up.weight": None}}, ("blk.1.ffn_up.weight", "is missing")),
    "misshapen": ({"tensors": {"blk.0.ffn_gate.weight": WIDE}}, ("blk.0.ffn_gate.weight", "[96, 160]", "[96, 128]")),
    "turned": ({"tensors": {"blk.0.ffn_up.weight": WIDE[:, :96].repeat(2, 0)[:128]}}, ("ffn_up", "[128, 96]")),
    "flat": ({"tensors": {"blk.0.attn_q.weight": WIDE[0]}}, ("blk.0.attn_q.weight", "shape")),
    "odd width": ({"n_ff": 80}, ("ffn_down.weight", "multiples of 32")),
}


@pytest.mark.parametrize(("settings", "says"), BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_a_model_that_pyllm_does_not_run(
    settings: dict[str, Any], says: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.write(tmp_path / "bad.gguf", **settings)
    message = fails(["run", str(path), "-p", "x"], 3, capsys)
    for part in (str(path), ";", *says):
        assert part in message
    assert main(["inspect", str(path)]) == 0, "what it is can be said all the same"


def test_a_tensor_type_that_pyllm_does_not_read(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, name = bytearray(good.read_bytes()), b"blk.1.attn_q.weight"
    at = raw.index(name) + len(name) + 4 + 16  # after the number of dimensions and both of them
    assert raw[at : at + 4] == struct.pack("<I", 2), "q4_0"
    path = tmp_path / "other.gguf"
    for ggml_id, says in ((41, "type q1_0, which pyllm does not read"), (77, "type 77")):
        raw[at : at + 4] = struct.pack("<I", ggml_id)
        path.write_bytes(raw)
        message = fails(["run", str(path), "-p", "x"], 3, capsys)
        assert str(path) in message and "blk.1.attn_q.weight" in message and says in message
        assert main(["inspect", str(path)]) == (0 if ggml_id == 41 else 3)
        capsys.readouterr()


@pytest.mark.parametrize(
    "template", ["{% for", "{{ 1/0 }}", "{{ nothing.at.all }}", "{% for i in range(10**9) %}x{% endfor %}"]
)
@pytest.mark.parametrize("flags", [["-p", "x"], ["-p", "x", "-sys", "y"], ["x", "--json"]])
def test_a_broken_template(template: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny.write(tmp_path / "bad.gguf", chat_template=template)
    message = fails(["run", str(path), *flags], 3, capsys)
    for part in (str(path), "tokenizer.chat_template", "use --raw"):
        assert part in message


# Flags and texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["-t", "0"], ("--threads", "from 1")),
        (["-n", "-5"], ("--predict", "-1 or more")),
        (["--temp", "nan"], ("--temp", "'nan'")),
        (["-c", "-1"], ("--ctx-size", "0 or more")),
        (["-ctk", "q2_k"], ("--cache-type-k", "'q2_k'", *CACHE_TYPES)),
        (["-ctv", "f64"], ("--cache-type-v", "'f64'", *CACHE_TYPES)),
        (["--cache-type-k-layers", "1-0:f16"], ("--cache-type-k-layers", "'1-0:f16' names no layer")),
        (["--cache-type-k-layers", "0-2:f16"], ("--cache-type-k-layers 0-2:f16", "2 layers, 0 to 1")),
        (["--cache-type-v-layers", "0:f16"], ("--cache-type-v-layers", "no type for layer 1", "--cache-type-v")),
        (["-c", "10"], ("the prompt has", "tokens", "holds 10", "-c 2", "shorten the prompt")),
        (["-f", "/no/such/file"], ("-p and -f",)),
        (["-sys", "\udcff"], ("-sys", "not UTF-8")),
    ],
)
def test_flags(flags: list[str], says: tuple[str, ...], good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(["run", str(good), "-p", "hello the world", *flags], 2, capsys)
    for part in says:
        assert part in message


def test_a_prompt_that_no_context_of_the_model_holds(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(["run", str(good), "-p", "x" * 2000], 2, capsys)
    assert "the context (-c) holds 512 and the model's own 512; shorten the prompt" in message


def test_texts_that_are_not_utf8(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin").write_bytes("Grüße".encode("latin-1"))
    assert "not UTF-8 at byte 2" in fails(["run", str(good), "-f", str(tmp_path / "latin")], 2, capsys)
    assert "-p: not UTF-8" in fails(["run", str(good), "-p", "a\udce9"], 2, capsys)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x80")))
    assert "stdin: not UTF-8 at byte 0" in fails(["run", str(good)], 2, capsys)


@pytest.mark.parametrize(("side", "dims"), [("k", {"key": 40, "value": 64}), ("v", {"key": 64, "value": 40})])
def test_a_head_that_a_cache_type_cannot_hold(
    side: str, dims: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = {f"llama.attention.{name}_length": n for name, n in dims.items()}
    path = str(tiny.write(tmp_path / "odd.gguf", overrides=lengths | {"llama.rope.dimension_count": 32}))
    for cache_type in ("q8_0", "q4_0"):
        message = fails(["run", path, "-p", "x", f"-ct{side}", cache_type], 2, capsys)
        for part in (f"--cache-type-{side} {cache_type}", "40 values", "use one of f32, f16, bf16"):
            assert part in message


def test_what_does_not_fit(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(["run", str(good), "-p", "x", "-c", "2000000000"], 4, capsys)
    for part in (str(good), "weights", "KV cache", "GiB", "leaves", "would fit"):
        assert part in message


def test_numbers_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit codes above are the documented ones."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    for code in (0, 1, 2, 3, 4, 130, 141, 143):
        assert f"\n  {code:<4} " in text and f"\n| {code} |" in readme
