"""SentencePiece: exactly llama.cpp's ids, pieces joined by score as a plain search joins them, bad vocabularies."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.models.errors import ModelError
from pyllm.models.file.gguf import GGUF
from pyllm.models.file.strings import Texts
from pyllm.models.text.spm import _four, _varint
from pyllm.models.text.tokenizer import StreamDecoder, Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTES = [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
FIXED = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), *BYTES]
SPACE = "\u2581"


def open_spm(pieces: list[tuple[str, float, int]], name: str = "tiny", **overrides: Any) -> Tokenizer:
    """Return a tokenizer of (text, score, kind); overrides: metadata under `tokenizer.ggml.`, None to remove it."""
    keys = {
        "model": "llama", "tokens": Texts.of(p[0] for p in pieces),
        "scores": np.array([p[1] for p in pieces], np.float32),
        "token_type": np.array([p[2] for p in pieces], np.int32), "bos_token_id": 1, "eos_token_id": 2,
        "unknown_token_id": 0, **overrides,
    }  # fmt: skip
    metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}
    return Tokenizer.from_gguf(GGUF(Path("spm.gguf"), 3, {"general.name": name} | metadata, {}, 0, ()))


def joined(text: str, scores: dict[str, float]) -> list[str]:
    """Join the best pair first, the leftmost of equals, until no two neighbours make a piece."""
    parts = list(text)
    while True:
        pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not pairs:
            return parts
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@settings(deadline=None, max_examples=60)
@given(
    pieces=st.dictionaries(
        st.text(f"abc{SPACE}", min_size=1, max_size=4), st.sampled_from([-3.0, -2.0, -1.0]), min_size=4, max_size=20
    ),
    unused=st.booleans(),
    texts=st.lists(st.text("abc é🦙\n\0", max_size=20), min_size=5, max_size=20),
    prefix=st.booleans(),
)
def test_pieces_are_joined_by_score(pieces: dict[str, float], unused: bool, texts: list[str], prefix: bool) -> None:
    pieces = {SPACE: -9.0, **pieces}  # without it a space would be bytes
    rows = [*FIXED, *((t, s, UNUSED if unused and len(t) == 2 else NORMAL) for t, s in pieces.items())]
    tokenizer = open_spm(rows, add_space_prefix=prefix)
    ids = {text: i for i, (text, _, _) in enumerate(rows)}
    for text in texts:
        expected: list[int] = []
        for part in joined((" " * (prefix and text != "") + text).replace(" ", SPACE), pieces):
            expected += [ids[part]] if part in ids else [ids[f"<0x{b:02X}>"] for b in part.encode()]
        assert tokenizer.encode(text) == expected
        shown = tokenizer.decode(expected)
        assert shown == (" " + text if prefix and text else text)
        stream = StreamDecoder(tokenizer)
        assert "".join(map(stream.feed, expected)) + stream.flush() == shown


def test_control_tokens_and_the_spaces_between() -> None:
    rows = [*FIXED, (f"{SPACE}a", -1.0, NORMAL), ("a", -2.0, NORMAL), (SPACE, -3.0, NORMAL), ("  ", -1.0, USER_DEFINED)]
    spaced_a, a, space, two = range(len(FIXED), len(rows))
    tokenizer = open_spm(rows)
    assert tokenizer.add_bos  # if the file does not say
    assert tokenizer.encode("a</s>a", special=True, bos=True) == [1, spaced_a, 2, spaced_a]
    assert 2 not in tokenizer.encode("a</s>a")
    assert tokenizer.encode("a  a") == [spaced_a, two, spaced_a]  # llama.cpp adds a space after those too
    assert tokenizer.encode("") == []
    assert tokenizer.decode([two, a]) == "  a"
    plain = open_spm(rows, add_space_prefix=False)
    assert plain.encode("a  a a") == [a, two, a, spaced_a]
    assert plain.encode(" ") == [space]


def test_without_byte_tokens_there_is_the_unknown_token() -> None:
    rows = [*FIXED[:3], ("a", -1.0, NORMAL)]
    assert open_spm(rows, add_space_prefix=False).encode("aéa") == [3, 0, 3]
    assert open_spm(rows, add_space_prefix=False, unknown_token_id=None).encode("aéa") == [3, 3]


def test_phi_3_eats_the_space_behind_its_control_tokens() -> None:
    rows = [*FIXED, ("<|user|>", 0.0, CONTROL), ("a", -1.0, NORMAL), (SPACE, -2.0, NORMAL)]
    user, a, space = range(len(FIXED), len(rows))
    newline = 3 + ord("\n")
    other, phi = (open_spm(rows, name, add_space_prefix=False) for name in ("tiny", "Phi-3 mini"))
    assert other.encode("<|user|>\n a", special=True) == [user, newline, space, a]
    assert phi.encode("<|user|>\n a", special=True) == [user, a]
    assert phi.encode("<s> a", special=True) == [1, space, a]


@pytest.mark.parametrize(
    ("pieces", "overrides", "message"),
    [
        (FIXED, {"scores": np.zeros(1)}, "tokenizer.ggml.scores: has 1 entries for 259 tokens"),
        (FIXED, {"scores": None}, "tokenizer.ggml.scores: is missing"),
        (FIXED, {"scores": np.array([0, np.nan])}, "tokenizer.ggml.scores: number 1 of 2 is not a number"),
        (FIXED, {"token_type": np.array([1])}, "tokenizer.ggml.token_type: has 1 entries for 259 tokens"),
        (FIXED, {"token_type": np.array([7] * 259)}, "tokenizer.ggml.token_type: number 0 of 259 is 7, must be from 0"),
        ([], {}, "tokenizer.ggml.tokens: is empty"),
        (FIXED, {"bos_token_id": 259}, "tokenizer.ggml.bos_token_id: is 259, must be from 0 to 258"),
        (FIXED, {"bos_token_id": None}, "tokenizer.ggml.bos_token_id: is missing"),
        (FIXED, {"unknown_token_id": -1}, "tokenizer.ggml.unknown_token_id: is -1, must be from 0 to 258"),
        (FIXED, {"add_space_prefix": 1}, "tokenizer.ggml.add_space_prefix: is 1, must be true or false"),
        ([*FIXED, ("<0x-1>", 0.0, BYTE)], {}, "token 259 is a byte by its type, but its text '<0x-1>'"),
        ([*FIXED, ("<0xGG>", 0.0, BYTE)], {}, "token 259 is a byte by its type"),
        ([*FIXED, ("", 0.0, BYTE)], {}, "token 259 is a byte by its type"),
        (FIXED[:-1], {}, "tokenizer.ggml.tokens: has tokens for 255 of the 256 bytes"),
        ([*FIXED, ("a", 0.0, NORMAL), ("a", 0.0, NORMAL)], {}, "tokens 259 and 260 are the same text"),
    ],
)  # fmt: skip
def test_a_damaged_vocabulary_is_refused(
    pieces: list[tuple[str, float, int]], overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError) as error:
        open_spm(pieces, **overrides)
    assert message in str(error.value)
    assert "spm.gguf" in str(error.value)
    assert "\n" not in str(error.value)


@given(n=st.integers(0, (1 << 28) - 1))
def test_four_bytes_hold_a_size(n: int) -> None:
    four = _four(np.array([n]))[0].tolist()
    assert sum((byte & 127) << 7 * i for i, byte in enumerate(four)) == n
    short = _varint(n)
    assert sum((byte & 127) << 7 * i for i, byte in enumerate(short)) == n
    assert [byte > 127 for byte in short] == [True] * (len(short) - 1) + [False]


@pytest.mark.real
def test_gemma(gemma: Path, shared: Path) -> None:
    start = time.process_time()
    tokenizer = Tokenizer.from_gguf(GGUF.open(gemma))
    assert time.process_time() - start < 3  # 262,144 pieces
    rows = json.loads((shared / "golden" / "tokenize.json").read_text(encoding="utf-8"))["gemma-3-270m-q4_k_m"]
    for row in rows:
        ids = tokenizer.encode(row["text"], special=row["parse_special"], bos=row["bos"])
        assert ids == row["ids"], row["text"]
        assert tokenizer.decode(ids[row["bos"] :], special=True) == row["text"]
    assert tokenizer.eog >= {1, 106}  # <eos>, <end_of_turn>
