"""Sessions over a tiny model: what they take in, what they refuse, and which pages they give back."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny

from pyllm.engine.llm import LLM
from pyllm.engine.sequence import Sequence, pools
from pyllm.engine.stepper import Session
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.errors import PyllmError, UsageError
from pyllm.models.forward.step import PlanKind

TOKENS = list(range(3, 103))


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tiny.write(tmp_path_factory.mktemp("tiny") / "m.gguf")
    llm = LLM(path, n_ctx=128, cache_type_k="f32", cache_type_v="f32", n_threads=1, n_batch=32, max_logits=16)
    yield llm
    llm.close()


def test_tokens_and_pages(llm: LLM) -> None:
    s = llm.session()
    assert (s.n_past, s.tokens) == (0, [])
    free = llm.pools[0].free
    s.prefill(TOKENS[:70])
    s.decode(7)
    assert (s.n_past, s.tokens) == (71, TOKENS[:70] + [7])
    assert llm.pools[0].free == free - 2
    s.rewind(64)
    assert (s.tokens, llm.pools[0].free) == (TOKENS[:64], free - 1)
    s.close()
    assert (s.tokens, llm.pools[0].free) == ([], free)


def test_prefill_goes_in_batches_and_says_so(llm: LLM) -> None:
    s, seen = llm.session(), []
    got = s.prefill(TOKENS, lambda done, total: seen.append((done, total))).copy()
    assert seen == [(32, 100), (64, 100), (96, 100), (100, 100)]
    assert got.shape == (llm.config.n_vocab,)
    s.close()

    parts = [(start, part.copy()) for start, part in llm.session().score(TOKENS)]
    assert [(start, len(part)) for start, part in parts] == [(i, min(16, 100 - i)) for i in range(0, 100, 16)]
    np.testing.assert_allclose(parts[-1][1][-1], got, atol=1e-5)


def test_what_does_not_fit_is_refused_and_changes_nothing(llm: LLM) -> None:
    all_pages = pools(llm.model.kv)
    s = Session(Sequence(all_pages, llm.model.kv, llm.n_ctx), llm.stepper)
    s.prefill(TOKENS)
    for n in (29, 1000):
        with pytest.raises(UsageError, match=rf"{n} tokens after 100 .* 128"):
            s.prefill([5] * n)
    s.prefill([5] * 27)
    s.decode(5)
    with pytest.raises(UsageError, match="use a larger -c"):
        s.decode(5)
    assert s.n_past == 128
    with pytest.raises(PyllmError, match="full"):
        Session(Sequence(all_pages, llm.model.kv, llm.n_ctx), llm.stepper).prefill(TOKENS[:1])
    s.rewind(100)
    s.decode(5)


def test_another_cache_beside_it_has_the_same_weights(llm: LLM) -> None:
    def weights(one: LLM) -> list[int]:
        return [
            int(op.args["weights"][0])
            for op in one.model.plan(PlanKind.DECODE).ops
            if "weights" in (op.args.dtype.names or ())
        ]

    other = llm.beside(CacheSpec("q8_0", "q8_0"), n_ctx=64, n_batch=8)
    assert (other.n_ctx, other.n_threads, other.model.max_logits) == (64, 1, 16)
    assert weights(other) == weights(llm) != []
    mine = Session(Sequence(pools(llm.model.kv), llm.model.kv, llm.n_ctx), llm.stepper)
    assert 0 < np.abs(mine.prefill(TOKENS[:40]).copy() - other.session().prefill(TOKENS[:40])).max() < 0.1
    other.close()


def test_a_decode_step_allocates_nothing(tmp_path: Path) -> None:
    """A step allocates only small Python objects: no array of activations, and nothing that stays."""
    path = tiny.write(tmp_path / "m.gguf", types="q8_0")
    llm = LLM(path, n_ctx=256, cache_type_k="q8_0", cache_type_v="q8_0", n_threads=1, n_batch=32)
    s = llm.session()
    s.prefill(TOKENS[:70])
    for token in TOKENS[:40]:
        s.decode(token)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for token in TOKENS[:40]:
        s.decode(token)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    llm.close()
    assert peak - before < 4096 and after - before < 2048


def test_an_empty_prompt_is_refused(llm: LLM) -> None:
    with pytest.raises(UsageError, match="empty"):
        llm.session().prefill([])


def test_bytes(llm: LLM) -> None:
    c = llm.config
    assert llm.kv_bytes == 128 * 2 * c.n_layer * c.n_head_kv * c.head_dim_k * 4
    assert llm.read_at(7).k == llm.read_at(7).v == 7 * c.n_layer * c.n_head_kv * c.head_dim_k * 4
    matrices = (
        c.n_embd * (2 * c.n_embd + 2 * c.n_head_kv * c.head_dim_k + 3 * c.n_ff) * c.n_layer + c.n_vocab * c.n_embd
    )
    assert llm.read_at(1).weights == 4 * matrices
