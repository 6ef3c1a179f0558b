"""Reads and checks the vocabulary in a GGUF file: the tokens' texts and kinds, and which begin and end an answer.

Knows nothing of how text is cut into tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..file.gguf import GGUF
from ..file.header import CONVERT, short
from ..file.strings import Texts

# Kinds of tokens, `tokenizer.ggml.token_type`. 0 (undefined), 1 (normal) and 5 (unused) are all text.
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6

SPACE = "\u2581"  # stands for a space in vocabularies that do not write bytes as characters

# Files name one or two end tokens, but models end answers with others too. llama.cpp knows these by their text, and
# takes them for control tokens whatever kind the file gives them.
END_TEXTS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "</s>",
     "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
     "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[", "<|fim_pad|>", "<fim-pad>", "<fim_pad>",
     "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>")
)  # fmt: skip
_END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")

# In a vocabulary with both texts of a pair, <|end|> ends only a part of an answer (gpt-oss, Solar).
_PARTS = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})
# These come between the parts of an answer. They steer the model, but without them the parts would run together.
_PART_TEXTS = frozenset(("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"))

_BYTE_TEXT = re.compile("<0x([0-9A-F]{2})>")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model. Ids are from 0 to len(texts) - 1."""

    path: Path  # the file, for messages
    texts: Texts = field(repr=False)
    kinds: npt.NDArray[np.int64] = field(repr=False)
    control: frozenset[int]  # tokens that steer the model and are not text
    shown: frozenset[int]  # control tokens that a reader of the answer needs
    verbatim: frozenset[int]  # user-defined tokens, found in a text before it is cut into pieces
    bytes: dict[int, int]  # id -> byte, of the byte tokens
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    eog: frozenset[int]  # each of these ends an answer

    @classmethod
    def from_gguf(cls, g: GGUF) -> Vocabulary:
        """Read the vocabulary; raises ModelError if its lists have different lengths or an id is out of range."""
        texts = g.texts("tokenizer.ggml.tokens")
        if not texts:
            raise ModelError(g.path, "tokenizer.ggml.tokens", "is empty", CONVERT)
        if not texts.lengths.all():  # tokens without a text get llama.cpp's names
            texts = Texts.of(text or f"[EMPTY_{i}]" for i, text in enumerate(texts))
        kinds = g.ints("tokenizer.ggml.token_type", 0, 6)
        check_length(g, "tokenizer.ggml.token_type", len(kinds), len(texts))
        ids = texts.find({*END_TEXTS, *_PART_TEXTS, "<|end|>", "</s>"})

        def special(name: str) -> int | None:
            key = f"tokenizer.ggml.{name}_token_id"
            return g.integer(key, 0, len(texts) - 1) if key in g.metadata else None

        def of(*wanted: int) -> set[int]:
            return set(np.flatnonzero(np.isin(kinds, wanted)).tolist())

        control, ends = of(UNKNOWN, CONTROL), {ids[text] for text in END_TEXTS & ids.keys()}
        shown = {ids[text] for text in _PART_TEXTS & ids.keys()}
        if "<|end|>" in ids and any(pair <= ids.keys() for pair in _PARTS):
            ends.discard(ids["<|end|>"])
            shown.add(ids["<|end|>"])
        if "</s>" in ids and "<|tool_response>" in ids:  # Gemma 4, in which </s> is an HTML tag
            ends.discard(ids["</s>"])
        control |= ends | shown
        ends.update(i for name in _END_KEYS if (i := special(name)) is not None)
        return cls(
            g.path, texts, kinds,
            control=frozenset(control),
            shown=frozenset(shown),
            verbatim=frozenset(of(USER_DEFINED) - control),
            bytes=_bytes(g, texts, sorted(of(BYTE))),
            bos_id=special("bos"), eos_id=special("eos"), unk_id=special("unknown"),
            eog=frozenset(ends),
        )  # fmt: skip

    def ids(self) -> dict[str, int]:
        """Return the id of each text; raises ModelError if two texts are the same."""
        ids = {text: i for i, text in enumerate(self.texts)}
        if len(ids) < len(self.texts):
            twice = next(i for i, text in enumerate(self.texts) if ids[text] != i)
            problem = f"tokens {twice} and {ids[self.texts[twice]]} are the same text"
            raise ModelError(self.path, "tokenizer.ggml.tokens", problem, CONVERT)
        return ids


def check_length(g: GGUF, key: str, found: int, n_tokens: int) -> None:
    if found != n_tokens:
        raise ModelError(g.path, key, f"has {found} entries for {n_tokens} tokens", CONVERT)


def _bytes(g: GGUF, texts: Texts, ids: list[int]) -> dict[int, int]:
    found = {}
    for i in ids:
        match = _BYTE_TEXT.fullmatch(texts[i])
        if match is None:
            problem = f"token {i} is a byte by its type, but its text {short(texts[i])} is none of <0x00> to <0xFF>"
            raise ModelError(g.path, "tokenizer.ggml.tokens", problem, CONVERT)
        found[i] = int(match[1], 16)
    if found and len(found) < 256:
        raise ModelError(g.path, "tokenizer.ggml.tokens", f"has tokens for {len(found)} of the 256 bytes", CONVERT)
    return found
