"""Random vocabularies: each works, or is refused in one line, and nothing else happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyllm.models.errors import ModelError
from pyllm.models.file.gguf import GGUF
from pyllm.models.file.strings import Texts
from pyllm.models.text.pre_tokenizers import PRE_TOKENIZERS
from pyllm.models.text.tokenizer import StreamDecoder, Tokenizer

NAMED = st.sampled_from(["</s>", "<|im_end|>", "<0x0A>", "<0x-1>"])
TEXT = st.text("ab ▁Ġ<>|\n\0é🦙", max_size=4) | st.text(max_size=3) | NAMED


@st.composite
def vocabularies(draw: st.DrawFn) -> dict[str, Any]:
    """Make a vocabulary that is mostly right: one in twenty entries is wrong."""

    def rarely() -> bool:
        return draw(st.integers(0, 19)) == 19

    def resized(values: list[Any], kind: type[np.generic]) -> Any:
        return np.resize(
            np.array(values or [0], kind), max(0, len(values) + (draw(st.integers(-1, 1)) if rarely() else 0))
        )

    tokens = draw(st.lists(TEXT.filter(lambda text: not text.startswith("<0x")), unique=not rarely(), max_size=12))
    pairs = [(a, b) for a in tokens for b in tokens if a and b and " " not in a + b]
    merges = draw(st.lists(st.sampled_from(pairs), max_size=3)) if pairs else []
    if not rarely():
        tokens += sorted({a + b for a, b in merges}.difference(tokens))
    kinds = [draw(st.sampled_from([1, 1, 1, 1, 0, 2, 3, 4, 5])) for _ in tokens]
    if draw(st.booleans()):
        of_bytes = [f"<0x{b:02X}>" for b in range(256)][rarely() :] + ["<0x-1>"] * rarely()
        tokens, kinds = tokens + of_bytes, kinds + [6] * len(of_bytes)
    if kinds and rarely():
        kinds[draw(st.integers(0, len(kinds) - 1))] = draw(st.sampled_from([-1, 6, 7]))
    scores = draw(st.lists(st.floats(-9, 9, width=32), min_size=8, max_size=8)) + [np.nan] * rarely()
    found: dict[str, Any] = {
        "model": "t5" if rarely() else draw(st.sampled_from(["gpt2", "gemma4", "llama"])),
        "pre": draw(st.sampled_from(sorted(PRE_TOKENIZERS))),
        "tokens": Texts.of(tokens),
        "token_type": resized(kinds, np.int32),
        "scores": resized((scores * 40)[: len(tokens)], np.float32),
        "merges": Texts.of([f"{a} {b}" for a, b in merges] + [draw(TEXT)] * rarely()),
        "add_bos_token": draw(st.booleans()),
        "add_space_prefix": draw(st.booleans()),
    }
    for name in ("bos", "eos", "eot", "unknown"):
        if name == "bos" or draw(st.booleans()):
            found[f"{name}_token_id"] = -1 if rarely() else draw(st.integers(0, max(0, len(tokens) - 1)))
    if rarely():
        del found[draw(st.sampled_from(sorted(found)))]
    return found


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(keys=vocabularies(), texts=st.lists(TEXT | st.text(max_size=20), min_size=1, max_size=4))
def test_a_vocabulary_of_chance(keys: dict[str, Any], texts: list[str]) -> None:
    metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    try:
        tokenizer = Tokenizer.from_gguf(GGUF(Path("v.gguf"), 3, metadata, {}, 0, ()))
    except ModelError as error:
        assert str(error).startswith("v.gguf: tokenizer.ggml.") and "\n" not in str(error) and ";" in str(error)
        return
    text = "".join(texts)
    for special in (False, True):
        ids = tokenizer.encode(text, special=special, bos=True)
        assert all(0 <= i < tokenizer.n_vocab for i in ids)
        stream = StreamDecoder(tokenizer, special=special)
        assert "".join(map(stream.feed, ids)) + stream.flush() == tokenizer.decode(ids, special=special)
