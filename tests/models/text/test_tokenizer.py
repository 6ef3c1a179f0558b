"""The tokenizer: exactly llama.cpp's ids, any text there and back, and a clear refusal of damaged files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split

from pyllm.models.errors import ModelError, UsageError
from pyllm.models.file.gguf import GGUF
from pyllm.models.file.strings import Texts
from pyllm.models.text import bpe
from pyllm.models.text.pre_tokenizers import PRE_TOKENIZERS
from pyllm.models.text.tokenizer import StreamDecoder, Tokenizer

# Text with hard parts: control tokens, pieces of them, bytes, code points of all planes but no surrogates.
TEXTS = st.lists(
    st.text(max_size=8) | st.sampled_from([*tiny.CONTROL, "<|im_", "|>", "hello world", "  \n", "🦙", "e\u0301"])
).map("".join)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Return a tokenizer with all bytes, a dozen merges and three control tokens."""
    return Tokenizer.from_gguf(GGUF.open(tiny.write(tmp_path_factory.mktemp("toy") / "toy.gguf")))


def changed(folder: Path, **overrides: Any) -> Tokenizer:
    """Return the toy tokenizer with metadata under `tokenizer.ggml.` replaced, or removed by None."""
    names = {f"tokenizer.ggml.{name}": value for name, value in overrides.items()}
    return Tokenizer.from_gguf(GGUF.open(tiny.write(folder / "changed.gguf", overrides=names)))


@pytest.mark.real
def test_ids_of_the_default_model_are_llama_cpps(smollm2: Path, shared: Path) -> None:
    tokenizer = Tokenizer.from_gguf(GGUF.open(smollm2))
    rows = json.loads((shared / "golden" / "tokenize.json").read_text(encoding="utf-8"))["smollm2-135m-instruct-q4_1"]
    for row in rows:
        ids = tokenizer.encode(row["text"], special=row["parse_special"], bos=row["bos"])
        assert ids == row["ids"], row["text"]
        assert tokenizer.decode(ids, special=True) == row["text"]


@pytest.mark.parametrize(
    "name",
    ("deepseek-coder", "deepseek-llm", "gemma-4", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "qwen35",
     "refact", "starcoder"),
)  # fmt: skip
def test_ids_are_llama_cpps(name: str, shared: Path) -> None:
    path = shared / "golden" / "vocab" / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"no vocabulary of {name}: {path} is missing")
    tokenizer = Tokenizer.from_gguf(GGUF.open(path))
    between = "\n__ggml_vocab_test__\n"
    texts = path.with_suffix(".gguf.inp").read_bytes().decode().removesuffix(between).split(between)
    lines = path.with_suffix(".gguf.out").read_text().splitlines()
    assert len(texts) == len(lines)
    for text, line in zip(texts, lines, strict=True):
        ids = tokenizer.encode(text)
        assert ids == [int(i) for i in line.split()], text
        assert tokenizer.decode(ids) in (text, " " + text)  # the space is one that SentencePiece puts in front


@pytest.mark.real
def test_the_default_model_loads_and_encodes_fast(smollm2: Path) -> None:
    g = GGUF.open(smollm2)
    start = time.process_time()
    tokenizer = Tokenizer.from_gguf(g)
    for text in ("a" * 500_000, " " * 500_000, " \n" * 250_000, "!" * 500_000, "12" * 250_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.process_time() - start < 30, "some text takes more than linear time"


@pytest.mark.real
def test_the_default_model_ends_answers(smollm2: Path) -> None:
    tokenizer = Tokenizer.from_gguf(GGUF.open(smollm2))
    assert (tokenizer.n_vocab, tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (49152, 1, 2, False)
    assert tokenizer.eog >= {0, 2}  # <|endoftext|>, <|im_end|>


@settings(deadline=None)
@given(text=TEXTS, special=st.booleans())
def test_text_comes_back(toy: Tokenizer, text: str, special: bool) -> None:
    ids = toy.encode(text, special=special)
    assert toy.decode(ids, special=special) == text
    if not special:
        assert not toy.control.intersection(ids)


@settings(deadline=None)
@given(text=TEXTS)
def test_hidden_control_tokens_are_text(toy: Tokenizer, text: str) -> None:
    hidden = toy.hide(text, "\U000f0000")
    assert list(toy.split(hidden)) == ([hidden] if hidden else [])
    assert hidden.replace("\U000f0000", "") == text.replace("\U000f0000", "")


def test_control_tokens(toy: Tokenizer) -> None:
    text = "<|im_start|>hello<|im_end|>"
    ids = toy.encode(text, special=True)
    start, hello, end = ids
    assert toy.decode(ids) == "hello"
    assert toy.token_bytes(start) == b"<|im_start|>"
    assert toy.token_bytes(hello) == b"hello"
    assert end == toy.eos_id and end in toy.eog
    assert len(toy.encode(text)) > 3


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 271), max_size=30), special=st.booleans())
def test_a_stream_is_the_whole(toy: Tokenizer, ids: list[int], special: bool) -> None:
    stream = StreamDecoder(toy, special=special)
    pieces = [stream.feed(i) for i in ids]
    assert "".join(pieces) + stream.flush() == toy.decode(ids, special=special)
    assert stream.flush() == ""


def test_a_stream_keeps_characters_whole(toy: Tokenizer) -> None:
    llama = toy.encode("🦙")
    assert len(llama) == 4  # one token per byte
    stream = StreamDecoder(toy)
    assert [stream.feed(i) for i in llama] == ["", "", "", "🦙"]
    assert [stream.feed(i) for i in llama[:2]] == ["", ""]
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}"
    assert [stream.feed(i) for i in toy.encode("é")] == ["", "é"]  # as good as new


def test_bos_where_the_model_wants_it(toy: Tokenizer, tmp_path: Path) -> None:
    assert toy.encode("hello", bos=True) == toy.encode("hello")
    wants = changed(tmp_path, add_bos_token=True)
    assert wants.encode("hello", bos=True) == [wants.bos_id, *wants.encode("hello")]
    assert wants.encode("", bos=True) == [wants.bos_id]


def test_a_missing_byte_is_left_out(tmp_path: Path) -> None:
    tokens, types = tiny.vocabulary()
    tokens[tokens.index("!")] = "<none>"
    tokenizer = changed(tmp_path, tokens=tokens, token_type=types)
    assert tokenizer.decode(tokenizer.encode("hel!lo! world")) == "hello world"
    assert tokenizer.encode("hel!lo") != tokenizer.encode("hello")  # pieces that were apart do not merge


def test_user_defined_tokens_are_found_in_any_text(tmp_path: Path) -> None:
    tokens, types = tiny.vocabulary()
    tokenizer = changed(tmp_path, tokens=[*tokens, "é  <x>"], token_type=[*types, 4])
    assert tokenizer.encode("hello" + "é  <x>") == [tokens.index("hello"), len(tokens)]
    assert tokenizer.decode([len(tokens)]) == "é  <x>"


def test_what_is_no_text_is_refused(toy: Tokenizer) -> None:
    with pytest.raises(UsageError, match="half a surrogate pair at character 3"):
        toy.encode("abc\ud800")
    for token in (-1, toy.n_vocab):
        with pytest.raises(IndexError):
            toy.token_bytes(token)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model": "bert"}, "tokenizer.ggml.model: is 'bert', which pyllm does not know; it knows gemma4, gpt2, llama"),
        ({"model": None}, "tokenizer.ggml.model: is missing"),
        ({"pre": "klingon"}, "tokenizer.ggml.pre: is 'klingon', which pyllm does not know; it knows a.x-4.0, "),
        ({"pre": 3}, "tokenizer.ggml.pre: is 3, must be a text"),
        ({"tokens": None}, "tokenizer.ggml.tokens: is missing"),
        ({"tokens": ["a", "b", "a"], "token_type": [1, 1, 1]}, "tokens 0 and 2 are the same text"),
        ({"token_type": [1, 2]}, "tokenizer.ggml.token_type: has 2 entries for 272 tokens"),
        ({"token_type": None}, "tokenizer.ggml.token_type: is missing"),
        ({"token_type": [77] * 272}, "number 0 of 272 is 77"),
        ({"merges": None}, "tokenizer.ggml.merges: is missing"),
        ({"merges": ["h e", "he"]}, "merge 1 is 'he', must be two texts and a space"),
        ({"merges": [" e"]}, "merge 0 is ' e'"),
        ({"merges": ["h e "]}, "merge 0 is 'h e '"),
        ({"merges": ["q q"]}, "tokenizer.ggml.merges: merge 0 is 'q q', which makes no token"),
        ({"merges": ["hell o", "hel lo"]}, "Token `hel` out of vocabulary"),
        ({"bos_token_id": 272}, "tokenizer.ggml.bos_token_id: is 272, must be from 0 to 271"),
        ({"eos_token_id": -1}, "tokenizer.ggml.eos_token_id: is -1"),
        ({"eot_token_id": "x"}, "tokenizer.ggml.eot_token_id: is the text 'x'"),
        ({"add_bos_token": True, "bos_token_id": None}, "tokenizer.ggml.bos_token_id: is missing"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        changed(tmp_path, **overrides)
    assert message in str(error.value)
    assert "changed.gguf" in str(error.value)
    assert "\n" not in str(error.value)


def gemma_4() -> Tokenizer:
    """Return a tokenizer like Gemma 4's: spaces as U+2581, lines as words, bytes as <0x..>."""
    merged = ["\u2581a", "aa", "\n\n", "\n\n\n\n\n", "\u2581a\u2581a"]
    tokens = ["<bos>", *(f"<0x{b:02X}>" for b in range(256)), "a", "\u2581", "\n", *merged]
    keys = {
        "model": "gemma4", "tokens": Texts.of(tokens), "token_type": np.array([3, *[6] * 256, *[1] * 8], np.int32),
        "merges": Texts.of(["\u2581 a", "a a", "\n \n", "\u2581a \u2581a"]), "bos_token_id": 0,
    }  # fmt: skip
    return Tokenizer.from_gguf(GGUF(Path("g.gguf"), 3, {f"tokenizer.ggml.{k}": v for k, v in keys.items()}, {}, 0, ()))


def test_lines_are_words_in_gemma_4() -> None:
    tokenizer = gemma_4()
    a, space, newline, _, aa, two, five, spaced = range(257, 265)
    assert tokenizer.encode(" a a") == [spaced]
    assert tokenizer.encode("\n" * 5) == [five]  # although no merge leads there
    assert tokenizer.encode("\n" * 3) == [two, newline]
    assert tokenizer.encode("aaa \n") == [aa, a, space, newline]
    assert tokenizer.encode("é") == [1 + 0xC3, 1 + 0xA9]
    assert tokenizer.encode("", bos=True) == [0]  # if the file does not say


@settings(deadline=None)
@given(text=st.text("a \n") | st.text())
def test_text_comes_back_from_gemma_4(text: str) -> None:
    tokenizer = gemma_4()
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("\u2581", " ")


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_no_word_takes_more_than_linear_time(name: str) -> None:
    words = [Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[name].patterns]
    start = time.process_time()
    for text in ("a" * 50_000 + "!", "A" * 50_000 + "1", " " * 50_000 + "中", "\n" * 20_000 + "é", "1" * 20_000 + "a"):
        assert "".join(word for word, _ in Sequence(words).pre_tokenize_str(text)) == text
    assert time.process_time() - start < 10


def test_a_word_may_be_longer_than_regular_expressions_can_bear(
    toy: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "hello  the world 🦙 " * 9
    whole = toy.encode(text)
    monkeypatch.setattr(bpe, "_AT_ONCE", 7)
    assert toy.decode(toy.encode(text)) == text
    monkeypatch.setattr(bpe, "_AT_ONCE", len(text))
    assert toy.encode(text) == whole
