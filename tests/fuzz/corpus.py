"""The undamaged models: tiny ones of every architecture, format and kind of vocabulary, the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import architectures
import tiny
from fuzz.parts import Parts, Reader

_N = len(tiny.vocabulary()[0])  # each vocabulary has as many tokens as the others: the tensors have these shapes
_LINES = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
_PIECES = [*_LINES, "\u2581", "a", "b", "c", "ab", "\u2581a", "h", "e", "l", "o", "he", "ll", "hello", "w"]
_PIECES = [*_PIECES, *(f"<unused{i}>" for i in range(_N - len(_PIECES)))][:_N]
_KINDS = [2, 3, 3] + [6] * 256 + [1] * (_N - 259)

VOCABULARIES: dict[str, dict[str, Any]] = {
    "spm": {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": _PIECES,
        "tokenizer.ggml.scores": [-float(i) for i in range(_N)],
        "tokenizer.ggml.token_type": _KINDS,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    },
    "lines": {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": _PIECES,
        "tokenizer.ggml.token_type": _KINDS,
        "tokenizer.ggml.merges": ["a b", "h e", "l l", "\u2581 a"],
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    },
    "llama3": {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None},
    "tekken": {"tokenizer.ggml.pre": "tekken", "tokenizer.ggml.padding_token_id": 7},
}
FORMATS = ("f16", "bf16", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4")
BLOCKS_OF_256 = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs")
_WIDE = {"n_layer": 1, "n_embd": 256, "n_head": 8, "n_head_kv": 2, "n_ff": 256}


SPLIT = "split"
"""The model of which the corpus has three parts; each is damaged while the others are whole."""


@dataclass(frozen=True)
class Model:
    """An undamaged model, and where in its header the integers are."""

    name: str
    parts: Parts
    raw: bytes
    head: int  # bytes
    fields: list[tuple[int, int]]
    arch: bytes


def write(folder: Path) -> Iterator[Path]:
    """Write all models."""
    for name, kind in architectures.CASES:
        yield architectures.write(folder, name, kind)
    small = {"n_layer": 1}
    for name, overrides in VOCABULARIES.items():
        yield tiny.write(folder / f"text-{name}.gguf", types="q8_0", overrides=overrides, **small)
    yield tiny.write(folder / f"{SPLIT}.gguf", types="q8_0", split_max_tensors=8)
    for kind in FORMATS:
        yield tiny.write(folder / f"llama-{kind}.gguf", types=kind, **small)
    for kind in BLOCKS_OF_256:
        yield tiny.write(folder / f"llama-{kind}.gguf", types=kind, **_WIDE)


def read(folder: Path) -> list[Model]:
    """Return the models of a folder, in the order of their names."""
    found = []
    for path in sorted(folder.glob("*.gguf")):
        reader = Reader(raw := path.read_bytes())
        arch = next((p.value[8:] for p in reader.parts.pairs if p.key == b"general.architecture"), b"llama")
        found.append(Model(path.stem, reader.parts, raw, reader.head, reader.fields, arch))
    return found
