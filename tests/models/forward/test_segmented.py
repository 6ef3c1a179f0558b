"""Caches with segments: the same bits however tokens are taken in, and what is stored is what the policy says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.engine.llm import LLM
from pyllm.engine.request import Request
from pyllm.engine.sampler import SamplingParams
from pyllm.kernels.attention.values import as_integers
from pyllm.kernels.formats.table import FORMATS
from pyllm.kernels.lang import cpu
from pyllm.kernels.plan import Cost
from pyllm.kernels.shapes import PAGE
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.errors import UsageError
from pyllm.models.forward.attention import AttendCost
from pyllm.models.forward.step import PlanKind

N = 700
TOKENS = [int(t) for t in np.random.default_rng(3).integers(3, 60, N)]
SPECS = {
    "mixed": CacheSpec("q8_0", "q4_1", policy="sink=64:f16,tail=128:f16"),
    "sink": CacheSpec("q4_0", "f16", policy="sink=70:f32/f16"),
    "turbo": CacheSpec("turbo3", "turbo2", policy="sink=10:turbo4,tail=64:f16"),
    "dropped": CacheSpec("q8_0", "q8_0", policy="streaming,sink=4,window=300"),
    "none": CacheSpec("f32", "f32"),
}
SAME_TEXT = pytest.mark.skipif(cpu.AMX, reason="prompts take other sums on the matrix unit: PYLLM_AMX=0 tests this")


def logits(llm: LLM, chunks: Sequence[int]) -> np.ndarray:
    """Return the logits after the last token, taken in by chunks; 1: as decode does it."""
    session = llm.session()
    at, found = 0, np.empty(0)
    for n in chunks:
        take = TOKENS[at : at + n]
        found = session.decode(take[0]) if n == 1 else session.prefill(take)
        at += n
    found = found.copy()
    session.close()
    assert all(pool.free == pool.size for pool in llm.pools)
    return found


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write(tmp_path_factory.mktemp("segments"), request.param, "mixed")


@pytest.fixture(scope="module")
def llms(path: Path) -> Iterator[dict[str, LLM]]:
    made = {name: LLM(path, n_ctx=N, cache=spec, n_threads=1) for name, spec in SPECS.items()}
    yield made
    for llm in made.values():
        llm.close()


@SAME_TEXT
@settings(deadline=None, max_examples=15)
@given(name=st.sampled_from(["mixed", "sink", "turbo", "dropped"]), n=st.integers(1, N),
       cuts=st.lists(st.integers(1, N), max_size=4), back=st.integers(0, 200))  # fmt: skip
def test_chunks_and_rewinding_change_no_bit(llms: dict[str, LLM], name: str, n: int, cuts: list[int],
                                            back: int) -> None:  # fmt: skip
    llm, ends = llms[name], sorted({min(cut, n) for cut in cuts} | {n})
    whole = logits(llm, [n])
    np.testing.assert_array_equal(logits(llm, np.diff([0, *ends]).tolist()), whole)
    one_by_one = min(n - 1, 70)
    np.testing.assert_array_equal(logits(llm, [n - one_by_one, *[1] * one_by_one]), whole)
    session = llm.session()
    session.prefill(TOKENS[:n])
    kept = session.rewind(max(0, n - 1 - back))
    np.testing.assert_array_equal(session.prefill(TOKENS[kept:n]), whole)
    session.close()


@SAME_TEXT
def test_threads_and_batches_change_no_bit(path: Path, llms: dict[str, LLM]) -> None:
    for name in ("mixed", "dropped"):
        expected = logits(llms[name], [N])
        for threads, n_batch in ((3, 37), (2, 64)):
            with llms[name].beside(SPECS[name], n_threads=threads, n_batch=n_batch) as llm:
                np.testing.assert_array_equal(logits(llm, [400, 299, 1]), expected)


def test_exact_logits_are_the_same_bits(path: Path, llms: dict[str, LLM]) -> None:
    for name in ("mixed", "sink", "dropped"):
        with LLM(llms[name]._opened, n_ctx=N, cache=SPECS[name], n_threads=1, exact=True) as one:
            expected = logits(one, [N])
            np.testing.assert_allclose(expected, logits(llms[name], [N]), atol=0.5)
            with one.beside(SPECS[name], n_threads=3, n_batch=37) as llm:
                np.testing.assert_array_equal(logits(llm, [400, 290, *[1] * 10]), expected)


def test_what_is_stored(llms: dict[str, LLM], path: Path) -> None:
    """The first layer's K and V do not depend on attention: each segment holds them as its type encodes them."""
    if path.name.startswith("gemma3"):
        pytest.skip("its first layers have windows")
    exact, llm = llms["none"], llms["sink"]
    for each in (exact, llm):
        each.logits(TOKENS[:500])
    (k, v), (got_k, got_v) = exact.kv(0), llm.kv(0)
    left = (500 - 1) // PAGE * PAGE  # the page that is being filled is the tail
    types = [("f32", "f16", slice(0, 128)), ("q4_0", "f16", slice(128, left)), ("f32", "f16", slice(left, 500))]
    for k_type, v_type, at in types:
        for side, got, fmt in ((k, got_k, FORMATS[k_type]), (v, got_v, FORMATS[v_type])):
            flat = side[at].reshape(-1, side.shape[-1])
            np.testing.assert_array_equal(got[at].reshape(flat.shape), fmt.decode(fmt.encode(flat)), err_msg=str(at))
    llms["dropped"].logits(TOKENS[:500])
    assert len(llms["dropped"].kv(0)[0]) == PAGE + 500 - (500 - 1) // PAGE * PAGE + 5 * PAGE


def kept(k: np.ndarray, v: np.ndarray, layer: int, position: int) -> tuple[np.ndarray, np.ndarray]:
    return k, v


@pytest.mark.parametrize("exact", [pytest.param(False, marks=SAME_TEXT), True], ids=["fast", "exact"])
def test_segments_of_one_type_are_one_cache(exact: bool, tmp_path: Path) -> None:
    """A function that changes nothing keeps the segments apart, though all of them are float32."""
    path = tiny.write(tmp_path / "m.gguf", n_layer=1)
    with LLM(path, n_ctx=N, cache=SPECS["none"], n_threads=1, exact=exact) as one:
        for policy, bits in (("", True), ("tail=200:f32", True), ("sink=64:f32", False)):
            cache = CacheSpec("f32", "f32", policy=policy)
            with LLM(path, n_ctx=N, cache=cache, what_if=kept, n_threads=1, exact=exact) as llm:
                for n in (60, 64 * 5 + 1, 64 * 6, 64 * 8 + 1, N):
                    body = llm.model.kv.borders.whole(n)[1]  # type: ignore[union-attr]
                    if bits and body % 4 == 0:  # whole parts, put together in the same order
                        np.testing.assert_array_equal(logits(llm, [n]), logits(one, [n]))
                    np.testing.assert_allclose(logits(llm, [n]), logits(one, [n]), atol=1e-5)


def test_a_function_for_the_body(llms: dict[str, LLM], path: Path) -> None:
    """What changes nothing is stored as the body's types encode it; a wrong function is named in one line."""
    spec, seen = CacheSpec("q8_0", "q4_0", rotate="none", policy="sink=64:f32,tail=64:f32"), []

    def same(k: np.ndarray, v: np.ndarray, layer: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        seen.append((layer, position, len(k)))
        return k, v

    with LLM(path, n_ctx=N, cache=spec, n_threads=1) as llm:
        expected = logits(llm, [N])
    with LLM(path, n_ctx=N, cache=spec, n_threads=1, what_if=same) as llm:
        np.testing.assert_array_equal(logits(llm, [N]), expected)
        whole = len(llm.model.kv.tails)
        assert len(seen) == len(set(seen)) == whole * 8 and min(seen)[1:] == (PAGE, PAGE) and max(seen)[1] == 8 * PAGE
    wrong: dict[str, Any] = {
        "raised ZeroDivisionError in layer": lambda k, v, layer, position: (k, 1 // 0),
        "returned (64, ": lambda k, v, layer, position: (k, v[1:]),
        "not numbers, in layer": lambda k, v, layer, position: (k * np.nan, v),
        "raised TypeError": lambda k: k,
    }
    for says, function in wrong.items():
        with LLM(path, n_ctx=N, what_if=function, n_threads=1) as llm, pytest.raises(UsageError) as caught:
            logits(llm, [N])
        assert says in str(caught.value) and "\n" not in str(caught.value)


def test_many_at_once(path: Path) -> None:
    """Each request's text is what it is alone; one whose policy fails ends, and the others go on."""
    params = SamplingParams(temperature=0, max_tokens=70)
    prompts = [TOKENS[:n] for n in (300, 10, 64, 450, 300)]

    def fails(k: np.ndarray, v: np.ndarray, layer: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        return (k, v) if position < 5 * PAGE else 1 // 0  # type: ignore[return-value]

    for spec, what_if in ((SPECS["mixed"], None), (SPECS["dropped"], None), (SPECS["none"], fails)):
        with LLM(path, n_ctx=2048, sequence_ctx=600, sequences=3, cache=spec, what_if=what_if, n_threads=2) as llm:
            scheduler = llm.scheduler()
            ids = [scheduler.add(Request(prompt, params)) for prompt in prompts]
            found: dict[int, list[int]] = {i: [] for i in ids}
            errors = {}
            while not scheduler.idle:
                for update in scheduler.step():
                    if update.error is not None:
                        errors[update.id] = str(update.error)
                    if update.piece.token is not None:
                        found[update.id].append(update.piece.token)
            scheduler.close()
            assert all(pool.free == pool.size for pool in llm.pools)
            assert set(errors) == (set() if what_if is None else {ids[3]}), errors
            if cpu.AMX:
                continue
            for i, prompt in zip(ids, prompts, strict=True):
                if i not in errors:
                    pieces = llm._pieces(prompt, params, scheduler_timings(), llm.sampler(params))
                    assert [piece.token for piece in pieces if piece.token is not None] == found[i]


def scheduler_timings() -> Any:
    from pyllm.engine.results import Timings

    return Timings()


@pytest.mark.parametrize("exact", [False, True])
def test_the_cost_of_attention_by_side(exact: bool, tmp_path: Path) -> None:
    """A quantized side is multiplied as bytes where the CPU does that; V's weights have two bytes each."""
    path = tiny.write(tmp_path / "m.gguf", n_layer=1)
    with LLM(path, n_ctx=256, cache=CacheSpec("q8_0", "q4_0"), n_threads=1, exact=exact) as llm:
        c, found = llm.config.layers[0], llm.model.plan(PlanKind.DECODE).ops
        costs = [op.cost for op in found if isinstance(op.cost, AttendCost)]
    keys, values = (sum((side(1, 200) for side in sides), Cost())
                    for sides in ([cost.keys for cost in costs], [cost.values for cost in costs]))  # fmt: skip
    macs, ints = 200 * c.n_head * c.head_dim_k, as_integers("q4_0") and not exact
    assert keys == Cost(k=200 * c.n_head_kv * 34, **{"macs_f32" if exact else "macs_i8": macs})
    assert values == Cost(v=200 * c.n_head_kv * 18, **({"macs_i8": 2 * macs} if ints else {"macs_f32": macs}))


def test_every_operation_can_be_looked_at(llms: dict[str, LLM]) -> None:
    for name in ("mixed", "dropped"):
        llms[name].logits(TOKENS[:400])
        assert llms[name].model.broken() is None
        assert all(np.isfinite(each.k).all() for each in llms[name].attended())
        cost = llms[name].model.cost(1, 400)
        assert cost.k and cost.v
