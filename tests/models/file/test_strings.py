"""A list of texts behaves as the list of strings that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.models.file.strings import Texts


@given(texts=st.lists(st.text("aé🦙", max_size=3)), wanted=st.lists(st.text("aé🦙", max_size=3)))
def test_texts_are_a_list(texts: list[str], wanted: list[str]) -> None:
    found = Texts.of(texts)
    assert found == texts and len(found) == len(texts) and list(found) == texts
    assert [found[i] for i in range(-len(texts), len(texts))] == texts * 2
    assert found[1:3] == texts[1:3]
    assert found.find(wanted) == {text: texts.index(text) for text in wanted if text in texts}
    assert found.not_unicode() is None
    with pytest.raises(IndexError):
        found[len(texts)]


@given(texts=st.lists(st.binary(max_size=3) | st.sampled_from([b"\xc3", b"\xa9", "é".encode()]), max_size=6))
def test_each_text_must_be_utf_8(texts: list[bytes]) -> None:
    def bad(text: bytes) -> bool:
        try:
            text.decode()
        except UnicodeDecodeError:
            return True
        return False

    at = Texts(b"".join(texts), np.cumsum([0, *map(len, texts)])).not_unicode()
    assert (at is not None) == any(map(bad, texts))
    if at is not None:
        assert bad(texts[at])
