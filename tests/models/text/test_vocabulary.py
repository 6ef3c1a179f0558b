"""The tokens that end an answer, control tokens and shown tokens: by ids, by texts, and where texts mislead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.models.errors import ModelError
from pyllm.models.file.gguf import GGUF
from pyllm.models.file.strings import Texts
from pyllm.models.text.special_tokens import Finder
from pyllm.models.text.vocabulary import END_TEXTS, Vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


def vocabulary(tokens: dict[str, int], **metadata: Any) -> Vocabulary:
    """Return a vocabulary of text -> kind, with more metadata under `tokenizer.ggml.`."""
    keys = {"tokens": Texts.of(tokens), "token_type": np.array(list(tokens.values()), np.int32), **metadata}
    return Vocabulary.from_gguf(GGUF(Path("v.gguf"), 3, {f"tokenizer.ggml.{k}": v for k, v in keys.items()}, {}, 0, ()))


@pytest.mark.parametrize("text", sorted(END_TEXTS))
def test_known_texts_end_an_answer_whatever_their_kind(text: str) -> None:
    for kind in (NORMAL, CONTROL, USER_DEFINED):
        v = vocabulary({"a": NORMAL, text: kind})
        assert (v.eog, v.control, v.verbatim) == ({1}, {1}, frozenset())


@pytest.mark.parametrize("key", ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"])
def test_ids_of_the_file_end_an_answer(key: str) -> None:
    assert vocabulary({"a": NORMAL, "b": CONTROL}, **{f"{key}_token_id": 1}).eog == {1}
    with pytest.raises(ModelError, match=f"{key}_token_id: is 2, must be from 0 to 1"):
        vocabulary({"a": NORMAL, "b": CONTROL}, **{f"{key}_token_id": 2})


def test_parts_of_an_answer() -> None:
    tokens = ("<|return|>", "<|call|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>")
    v = vocabulary(dict.fromkeys(tokens, CONTROL), eos_token_id=0)
    assert v.eog == {0, 1}
    assert v.shown == {2, 3, 4, 5}
    assert v.control == {0, 1, 2, 3, 4, 5}
    assert vocabulary({"<|end|>": CONTROL, "<|user|>": CONTROL}).eog == {0}  # Phi
    assert vocabulary({"<|end|>": NORMAL, "<|calls|>": NORMAL, "<|flush|>": NORMAL}).eog == {1, 2}


def test_a_tag_of_html_is_text_in_gemma_4() -> None:
    v = vocabulary({"</s>": NORMAL, "<|tool_response>": USER_DEFINED, "<eos>": CONTROL})
    assert (v.eog, v.control) == ({1, 2}, {1, 2})


def test_kinds_and_texts() -> None:
    v = vocabulary({"": NORMAL, "?": UNKNOWN, "[x]": USER_DEFINED, "y": CONTROL})
    assert v.texts[0] == "[EMPTY_0]"
    assert (v.control, v.verbatim, v.eog) == ({1, 3}, {2}, frozenset())


@given(
    texts=st.lists(st.text("ab <|", min_size=1, max_size=4), unique=True, max_size=6),
    text=st.text("ab <|é🦙", max_size=40),
)
def test_texts_are_found_from_the_left_and_the_longest(texts: list[str], text: str) -> None:
    expected: list[str | int] = []
    at = start = 0
    while at < len(text):
        here = max((t for t in texts if text.startswith(t, at)), key=len, default="")
        if here:
            expected += [text[start:at]] if at > start else []
            expected.append(texts.index(here))
        at += max(1, len(here))
        start = at if here else start
    expected += [text[start:]] if start < len(text) else []
    assert list(Finder({t: i for i, t in enumerate(texts)}).cut(text)) == expected
