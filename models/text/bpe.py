"""Byte pair encoding: joins pairs in the order of the file's merges; knows nothing of control tokens.

Hugging Face's `tokenizers` does the joining, with the file's own vocabulary and merges. There are two kinds: GPT-2's,
which writes each byte of a word as a printable character; and Gemma 4's, in which a line is one word, a space is
written as U+2581, and a character without a token becomes the tokens of its bytes.
"""

from __future__ import annotations

import re

import tokenizers
from tokenizers import Regex, models, pre_tokenizers

from ..errors import ModelError
from ..file.gguf import GGUF
from ..file.header import CONVERT, short
from .pre_tokenizers import PreTokenizer
from .vocabulary import SPACE, Vocabulary

_KEY = "tokenizer.ggml.merges"
_AT_ONCE = 1 << 21  # characters; the library's regular expressions give up on a word after ten million steps
_NEWLINES = re.compile("(\n+)")

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_BYTE_OF = {
    **{c: ord(c) for c in _ALPHABET if ord(c) < 256},
    # Bytes that are not printable in Latin-1 get the characters from U+0100 on, in order.
    **dict(
        zip((c for c in _ALPHABET if ord(c) > 255), (b for b in range(256) if chr(b) not in _ALPHABET), strict=True)
    ),
}


class ByteLevelBPE:
    """BPE over bytes, as in GPT-2."""

    def __init__(self, g: GGUF, vocabulary: Vocabulary, pre: PreTokenizer) -> None:
        self._n_vocab = len(vocabulary.texts)
        # A byte without a token gets an id after the vocabulary, which `encode` drops: if the library did not know it,
        # the bytes beside it would be merged.
        ids = vocabulary.ids()
        missing = [c for c in _ALPHABET if c not in ids]
        spare = {c: i for i, c in enumerate(missing, start=self._n_vocab)}
        self._bpe = _build(g, ids | spare, ignore_merges=pre.ignore_merges)
        words = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence([*words, to_bytes])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for start in range(0, len(text), _AT_ONCE):
            ids.extend(self._bpe.encode(text[start : start + _AT_ONCE], add_special_tokens=False).ids)
        # llama.cpp drops bytes without a token too.
        return ids if not ids or max(ids) < self._n_vocab else [i for i in ids if i < self._n_vocab]

    def piece(self, text: str) -> bytes:
        """Return the bytes that a token's text stands for."""
        try:
            return bytes([_BYTE_OF[c] for c in text])
        except KeyError:  # never made from bytes: an unused or a foreign token
            return text.encode()


class LineBPE:
    """BPE over lines, as in Gemma 4."""

    def __init__(self, g: GGUF, vocabulary: Vocabulary) -> None:
        self._ids = vocabulary.ids()
        self._bpe = _build(g, self._ids, byte_fallback=True)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(_NEWLINES.split(text.replace(" ", SPACE))):
            if i % 2 and part in self._ids:  # a run of newlines; merges need not lead to its longest token
                ids.append(self._ids[part])
            elif part:
                ids.extend(self._bpe.encode(part, add_special_tokens=False).ids)
        return ids

    def piece(self, text: str) -> bytes:
        """Return the bytes that a token's text stands for."""
        return text.replace(SPACE, " ").encode()


def _build(g: GGUF, ids: dict[str, int], **options: bool) -> tokenizers.Tokenizer:
    merges: list[tuple[str, str]] = []
    for i, merge in enumerate(g.texts(_KEY)):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ModelError(g.path, _KEY, f"merge {i} is {short(merge)}, must be two texts and a space", CONVERT)
        if left + right not in ids:  # the library's memory for joined texts is as long as the longest token
            raise ModelError(g.path, _KEY, f"merge {i} is {short(merge)}, which makes no token", CONVERT)
        merges.append((left, right))
    try:
        return tokenizers.Tokenizer(models.BPE(ids, merges, **options))
    except Exception as e:  # the library raises plain Exception
        raise ModelError(g.path, _KEY, f"does not fit the tokens: {short(str(e), 200)}", CONVERT) from None
