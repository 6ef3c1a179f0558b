"""Logits depend on their sequence alone, to the bit: decode or prefill, any threads, chunks and neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import architectures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.engine.llm import LLM
from pyllm.engine.page_table import PagePool, PageTable
from pyllm.engine.stepper import Session
from pyllm.kernels.formats.table import CACHE_TYPES
from pyllm.kernels.lang import cpu
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.forward.span import Span

pytestmark = pytest.mark.skipif(cpu.AMX, reason="prompts take other sums on the matrix unit: PYLLM_AMX=0 tests this")

N = 700  # tokens: three parts
TOKENS = [int(t) for t in np.random.default_rng(3).integers(3, 60, N)]
V_TYPES = ["f32", "f16", "q8_0", "q5_1", "q4_1", "q4_0", "iq4_nl", "q2_1"]
"""With a scale, with a minimum, with neither; K's sums of integers are exact."""


def logits(llm: LLM, chunks: Sequence[int]) -> np.ndarray:
    """The logits after the last token, taken in by chunks; 1: as decode does it."""
    session: Session = llm.session()
    at, found = 0, np.empty(0)
    for n in chunks:
        take = TOKENS[at : at + n]
        found = session.decode(take[0]) if n == 1 else session.prefill(take)
        at += n
    session.close()
    return found.copy()


@pytest.fixture(scope="module", params=["llama", "gemma3", "gpt-oss", "mixtral"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write(tmp_path_factory.mktemp("same"), request.param, "mixed")


@pytest.mark.parametrize("v_type", V_TYPES)
def test_decode_and_prefill_give_the_same_bits(path: Path, v_type: str) -> None:
    k_type = CACHE_TYPES[(CACHE_TYPES.index(v_type) + 2) % len(CACHE_TYPES)]
    with LLM(path, n_ctx=N, cache=CacheSpec(k_type, v_type), n_threads=1) as llm:
        whole = logits(llm, [N])
        for tail in (1, 70):
            np.testing.assert_array_equal(logits(llm, [N - tail, *[1] * tail]), whole)


@pytest.mark.parametrize("rotate", ["none", "auto"])
def test_threads_and_batches_change_no_bit(path: Path, rotate: str) -> None:
    cache = CacheSpec("q8_0", "q4_1", rotate=rotate)
    found = []
    for threads, n_batch in ((1, 512), (2, 64), (3, 37), (5, 512)):
        with LLM(path, n_ctx=N, cache=cache, n_threads=threads, n_batch=n_batch) as llm:
            found += [logits(llm, [N - 3, 1, 1, 1]), logits(llm, [300, 400])]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.fixture(scope="module")
def llms(path: Path) -> Iterator[dict[tuple[str, str], LLM]]:
    made = {
        pair: LLM(path, n_ctx=N, cache=CacheSpec(*pair), n_threads=2, n_batch=64)
        for pair in (("f16", "f16"), ("q8_0", "q4_0"), ("q4_0", "q4_1"))
    }
    yield made
    for llm in made.values():
        llm.close()


@settings(deadline=None, max_examples=15)
@given(
    pair=st.sampled_from([("f16", "f16"), ("q8_0", "q4_0"), ("q4_0", "q4_1")]),
    n=st.integers(1, N),
    cuts=st.lists(st.integers(1, N), max_size=4),
    back=st.integers(0, N),
)
def test_any_chunks_and_any_cached_prefix(
    llms: dict[tuple[str, str], LLM], pair: tuple[str, str], n: int, cuts: list[int], back: int
) -> None:
    llm = llms[pair]
    ends = sorted({min(c, n) for c in cuts} | {n})
    whole = logits(llm, [n])
    np.testing.assert_array_equal(logits(llm, np.diff([0, *ends]).tolist()), whole)
    session = llm.session()
    session.prefill(TOKENS[:n])
    kept = session.rewind(min(back, n - 1))
    np.testing.assert_array_equal(session.prefill(TOKENS[kept:n]), whole)
    session.close()


@settings(deadline=None, max_examples=10)
@given(lengths=st.lists(st.integers(1, 300), min_size=2, max_size=5), prompt=st.integers(0, 30))
def test_neighbours_change_no_bit(tmp_path_factory: pytest.TempPathFactory, path: Path, lengths: list[int],
                                  prompt: int) -> None:  # fmt: skip
    """Tokens of several sequences in one step, and part of another's prompt, as each has them alone."""
    with LLM(path, n_ctx=2048, sequences=6, cache=CacheSpec("q8_0", "q4_1"), n_threads=2, max_logits=8) as llm:
        pools = [PagePool(t.pool) for t in llm.model.kv.tables]
        alone, spans = [], []
        for i, n in enumerate([*lengths, 5]):
            tables = [PageTable(p, 512, t.kept) for p, t in zip(pools, llm.model.kv.tables, strict=True)]
            tokens = TOKENS[7 * i : 7 * i + n]
            for table in tables:
                table.reserve(n + 1 + prompt)
            pages = [table.pages for table in tables]
            llm.model.step([Span(tokens, 0, pages, prompt=True)], [])
            last = i == len(lengths)
            if last and not prompt:
                break
            span = Span(TOKENS[:prompt] if last else [TOKENS[n]], n, pages, prompt=last)
            spans.append(span)
            alone.append(llm.model.step([span], [len(span.tokens) - 1])[0].copy())
        rows = np.cumsum([len(span.tokens) for span in spans]) - 1
        np.testing.assert_array_equal(llm.model.step(spans, rows.tolist()), np.stack(alone))


def test_a_shared_prefix_changes_no_bit(path: Path) -> None:
    """Rows that share the pages of a prefix attend to them together, and get what each gets alone."""
    with LLM(path, n_ctx=8192, sequences=9, cache=CacheSpec("q8_0", "q4_1"), n_threads=2, max_logits=9) as llm:
        tables = [PageTable(PagePool(t.pool), 1024, t.kept) for t in llm.model.kv.tables]
        for table in tables:
            table.reserve(512)
        llm.model.step([Span(TOKENS[:512], 0, [table.pages for table in tables], prompt=True)], [])
        spans, alone = [], []
        for i in range(9):
            own = [table.fork(512) for table in tables]
            for table in own:
                table.reserve(520)
            pages = [table.pages for table in own]
            llm.model.step([Span(TOKENS[i : i + 5], 512, pages, prompt=True)], [])
            spans.append(Span([TOKENS[50 + i]], 517, pages))
            alone.append(llm.model.step(spans[-1:], [0])[0].copy())
        together = llm.model.step(spans, range(9))
        assert llm.model._step.n_blocks[0, 0] > 0, "they were read together"
        np.testing.assert_array_equal(together, np.stack(alone))
