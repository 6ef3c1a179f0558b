"""SentencePiece vocabularies (Llama 2, Mistral, Gemma, Phi 3): joins pieces by score; knows nothing of control tokens.

The `sentencepiece` library does the joining. It takes a model as a protocol buffer, which is written here by hand from
the file's pieces, their scores and kinds (https://protobuf.dev/programming-guides/encoding):

    ModelProto     1: SentencePiece, repeated;  2: TrainerSpec;  3: NormalizerSpec
    SentencePiece  1: text;  2: score, a float;  3: kind
    TrainerSpec    3: model type, 2 is BPE;  35: whether characters without a piece become bytes
    NormalizerSpec 3: whether a space is put in front;  4: whether spaces are removed;  5: and written as U+2581
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor, SetMinLogLevel

from ..errors import ModelError
from ..file.gguf import GGUF
from ..file.header import CONVERT, short
from ..file.strings import Texts
from .vocabulary import BYTE, CONTROL, SPACE, UNKNOWN, Vocabulary, check_length

SetMinLogLevel(2)  # no warnings on stderr; errors are raised

_NORMAL = 1

# The bytes before and after a piece's text: field tags, and sizes as varints of four bytes, which hold any size that a
# header may have. Most sizes would need one byte, but longer varints are valid.
_HEAD = np.dtype([("piece", "u1"), ("size", "u1", 4), ("text", "u1"), ("length", "u1", 4)])
_TAIL = np.dtype([("score_follows", "u1"), ("score", "<f4"), ("kind_follows", "u1"), ("kind", "u1")])


class SPM:
    """Joins the pair with the best score first, the leftmost of equals; a character without a piece becomes bytes."""

    def __init__(self, g: GGUF, vocabulary: Vocabulary) -> None:
        self._prefix = " " if g.flag("tokenizer.ggml.add_space_prefix", default=True) else ""
        scores = g.floats("tokenizer.ggml.scores")
        check_length(g, "tokenizer.ggml.scores", len(scores), len(vocabulary.texts))
        kinds = np.full(len(scores), _NORMAL, np.uint8)  # llama.cpp joins unused ones too
        kinds[list(vocabulary.control)] = CONTROL  # never made of text
        kinds[list(vocabulary.bytes)] = BYTE
        # The library wants exactly one unknown piece. Ours comes after the vocabulary, with a text longer than all.
        self._unknown = len(scores)
        self._instead = [] if vocabulary.unk_id is None else [vocabulary.unk_id]
        unknown = b"?" * (1 + int(vocabulary.texts.lengths.max()))
        proto = _pieces(vocabulary.texts, scores, kinds)
        proto += _message(1, _message(1, unknown) + _integer(3, UNKNOWN))
        proto += _message(2, _integer(3, 2) + _integer(35, bool(vocabulary.bytes)))
        proto += _message(3, _integer(3, 0) + _integer(4, 0) + _integer(5, 1))
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(proto)
        except RuntimeError as e:
            vocabulary.ids()  # the library refuses duplicate texts, and this says which
            problem = f"cannot be used: {short(str(e), 200)}"
            raise ModelError(g.path, "tokenizer.ggml.tokens", problem, CONVERT) from None

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.EncodeAsIds(self._prefix + text)
        if self._unknown not in ids:
            return ids
        return [i for found in ids for i in (self._instead if found == self._unknown else [found])]

    def piece(self, text: str) -> bytes:
        """Return the bytes that a token's text stands for."""
        return text.replace(SPACE, " ").encode()


def _pieces(texts: Texts, scores: npt.NDArray[np.float32], kinds: npt.NDArray[np.uint8]) -> bytes:
    """Return the messages of all pieces, made at once, as there may be 262,144."""
    lengths, head, tail = texts.lengths, np.zeros(len(texts), _HEAD), np.zeros(len(texts), _TAIL)
    head["piece"], head["text"] = _tag(1, 2), _tag(1, 2)
    head["size"] = _four(1 + 4 + lengths + _TAIL.itemsize)
    head["length"] = _four(lengths)
    tail["score_follows"], tail["kind_follows"] = _tag(2, 5), _tag(3, 0)
    tail["score"], tail["kind"] = scores, kinds
    ends = np.cumsum(_HEAD.itemsize + lengths + _TAIL.itemsize)
    out = np.empty(ends[-1], np.uint8)
    texts_at = ends - _TAIL.itemsize - lengths
    data = np.frombuffer(texts.data, np.uint8)
    out[texts_at[:, None] + np.arange(-_HEAD.itemsize, 0)] = head.view(np.uint8).reshape(len(texts), -1)
    out[np.arange(len(data)) + np.repeat(texts_at - texts.offsets[:-1], lengths)] = data
    out[ends[:, None] + np.arange(-_TAIL.itemsize, 0)] = tail.view(np.uint8).reshape(len(texts), -1)
    return out.tobytes()


def _four(n: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return each integer as a varint of four bytes: seven bits in a byte, and a bit that says that another follows."""
    return n[:, None] >> (0, 7, 14, 21) & 127 | (128, 128, 128, 0)


def _tag(number: int, kind: int) -> int:
    """Return the tag of a field: its number, and its type (0: integer, 2: bytes, 5: float)."""
    return number << 3 | kind


def _varint(n: int) -> bytes:
    return bytes([n & 127 | 128]) + _varint(n >> 7) if n > 127 else bytes([n])


def _integer(number: int, value: int) -> bytes:
    return _varint(_tag(number, 0)) + _varint(value)


def _message(number: int, body: bytes) -> bytes:
    return _varint(_tag(number, 2)) + _varint(len(body)) + body
