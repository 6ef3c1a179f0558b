"""Text to token ids and back, by the vocabulary in a GGUF file; knows nothing of chats, models or arithmetic.

Control tokens and user-defined tokens are cut out first; `bpe.py` or `spm.py` cut the rest into pieces.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol

from ..errors import ModelError, UsageError
from ..file.gguf import GGUF
from ..file.header import CONVERT, short
from .bpe import ByteLevelBPE, LineBPE
from .pre_tokenizers import PRE_TOKENIZERS
from .special_tokens import Finder
from .spm import SPM
from .vocabulary import Vocabulary

MODELS = {"gemma4": "BPE over lines", "gpt2": "byte-level BPE", "llama": "SentencePiece"}  # `tokenizer.ggml.model`


class _Pieces(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def piece(self, text: str) -> bytes: ...


class Tokenizer:
    """A vocabulary and its rules. Ids are from 0 to n_vocab - 1. Threads may share one."""

    def __init__(self, vocabulary: Vocabulary, pieces: _Pieces, *, add_bos: bool, eats_space: bool = False) -> None:
        """eats_space: white space after a control token belongs to it."""
        self.n_vocab = len(vocabulary.texts)
        self.bos_id, self.eos_id = vocabulary.bos_id, vocabulary.eos_id
        self.eog = vocabulary.eog  # each of these ends an answer
        self.add_bos = add_bos  # the model expects its input to begin with bos_id
        self.control = vocabulary.control
        self.hidden = vocabulary.control - vocabulary.shown  # not shown in an answer
        self._vocabulary, self._pieces = vocabulary, pieces
        self._as_text = vocabulary.verbatim | vocabulary.control
        # `hide` cannot hide a text of one character, so such a text is never taken for a control token.
        texts = vocabulary.texts
        self.control_texts = {texts[i]: i for i in sorted(vocabulary.control) if len(texts[i]) > 1}
        self._verbatim_texts = Finder({texts[i]: i for i in sorted(vocabulary.verbatim)})
        keeps = {"<unk>", "<s>", "<|endoftext|>"}
        self._control_texts = Finder(self.control_texts, self.control_texts.keys() - keeps if eats_space else ())

    @classmethod
    def from_gguf(cls, g: GGUF) -> Tokenizer:
        """Read and check the vocabulary of a file; raises ModelError."""
        return _read(g)

    def encode(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Return the ids of a text; raises UsageError if it has half a surrogate pair.

        special: a control token's text becomes that token, else it is text like any other. bos: begin with bos_id if
        the model expects it.
        """
        _check_unicode(text)
        ids = [self.bos_id] if bos and self.add_bos and self.bos_id is not None else []
        for part in self._control_texts.cut(text) if special else (text,):
            ids.extend([part] if isinstance(part, int) else self._plain(part))
        return ids

    def _plain(self, text: str) -> Iterable[int]:
        for part in self._verbatim_texts.cut(text):
            if isinstance(part, int):
                yield part
            else:
                yield from self._pieces.encode(part)

    def split(self, text: str) -> Iterable[str | int]:
        """Return the text in pieces, with every control token replaced by its id."""
        _check_unicode(text)
        return self._control_texts.cut(text)

    def hide(self, text: str, mark: str) -> str:
        """Return the text with `mark`, a character that it lacks, put into control tokens, so that `split` finds none.

        The mark comes after each character of a token, to break tokens that overlap with it too.
        """
        _check_unicode(text)
        parts, end = [], 0
        for start, stop, _ in self._control_texts.find(text):
            parts += [text[end:start], *(c + mark for c in text[start:stop])]
            end = stop
        return "".join(parts) + text[end:]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Return the text of ids. Bytes that are not UTF-8 become U+FFFD; control tokens vanish without `special`."""
        return b"".join(self.token_bytes(i) for i in ids if special or i not in self.hidden).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """Return a token's bytes, which may not be whole characters; IndexError outside of the vocabulary."""
        if not 0 <= token < self.n_vocab:
            raise IndexError(f"token {token} of {self.n_vocab}")
        text = self._vocabulary.texts[token]
        if token in self._as_text:
            return text.encode()
        byte = self._vocabulary.bytes.get(token)
        return self._pieces.piece(text) if byte is None else bytes([byte])


class StreamDecoder:
    """Turns ids into text as they come, in whole characters: a character's bytes may be spread over tokens."""

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        """special: control tokens show as their text, else not at all."""
        self._tokenizer, self._special = tokenizer, special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """Return the characters that this token completes."""
        hidden = token in self._tokenizer.hidden and not self._special
        return "" if hidden else self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """End the stream and return the rest: "", or U+FFFD for a character cut short."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise UsageError(f"the text is not Unicode: half a surrogate pair at character {e.start}") from None


def _known(g: GGUF, key: str, known: Iterable[str]) -> str:
    """Return the text at a key; raises ModelError if it is not one of `known`."""
    value = g.text(key)
    if value not in known:
        problem = f"is {short(value)}, which pyllm does not know"
        raise ModelError(g.path, key, problem, f"it knows {', '.join(sorted(known))}")
    return value


def _read(g: GGUF) -> Tokenizer:
    kind = _known(g, "tokenizer.ggml.model", MODELS)
    pre = None
    if kind == "gpt2":
        pre = PRE_TOKENIZERS[_known(g, "tokenizer.ggml.pre", PRE_TOKENIZERS)]
    elif kind == "gemma4":
        pre = PRE_TOKENIZERS[kind]
    vocabulary = Vocabulary.from_gguf(g)
    pieces: _Pieces
    if pre is None:
        pieces = SPM(g, vocabulary)
    else:
        pieces = ByteLevelBPE(g, vocabulary, pre) if pre.byte_level else LineBPE(g, vocabulary)
    add_bos = g.flag("tokenizer.ggml.add_bos_token", default=pre is None or pre.add_bos)
    if add_bos and vocabulary.bos_id is None:
        raise ModelError(g.path, "tokenizer.ggml.bos_token_id", "is missing", CONVERT)
    # Phi 3's tokenizer eats space; files do not say so, and llama.cpp goes by their name.
    name = g.text("general.name", default="").lower()
    return Tokenizer(vocabulary, pieces, add_bos=add_bos, eats_space="phi-3" in name or "phi3" in name)
