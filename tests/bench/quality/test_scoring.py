"""Texts scored one after the other: what they have in common is not computed again, and no bit changes by that."""

from __future__ import annotations

from pathlib import Path

import architectures
import numpy as np
import pytest

from pyllm.bench.quality.divergence import Divergence
from pyllm.bench.quality.scoring import divergences, surprises
from pyllm.engine.llm import LLM
from pyllm.engine.stepper import Session
from pyllm.kernels.lang import cpu
from pyllm.models.cache.spec import CacheSpec

DRAW = np.random.default_rng(3)
COMMON = DRAW.integers(3, 259, 300).tolist()
TEXTS = [COMMON[:n] + DRAW.integers(3, 259, 330 - n).tolist() for n in (200, 200, 130, 290, 0, 300)]


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_the_same_numbers_as_from_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, decode: bool
) -> None:
    path, taken = architectures.write(tmp_path, arch, "mixed"), [0]
    prefill = Session.prefill

    def counted(self: Session, tokens: list[int]) -> np.ndarray:
        taken[0] += len(tokens)
        return prefill(self, tokens)

    monkeypatch.setattr(Session, "prefill", counted)
    with LLM(path, n_ctx=384, n_threads=2, n_batch=64) as exact, exact.beside(CacheSpec("q8_0", "q4_0")) as other:
        one, two = exact.session(), other.session()
        for text in TEXTS:
            before = taken[0]
            found = divergences(one, [two], text, 250, decode=decode)[0]
            again = surprises(two, text, 250, decode=decode)
            reused, taken[0] = 750 - (taken[0] - before), 0
            assert reused >= 250 or cpu.AMX or arch == "gemma3"
            one.rewind(0), two.rewind(0)
            expected = divergences(one, [two], text, 250, decode=decode)[0]
            for name in Divergence.__dataclass_fields__:
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            two.rewind(0)
            np.testing.assert_array_equal(again, surprises(two, text, 250, decode=decode))
