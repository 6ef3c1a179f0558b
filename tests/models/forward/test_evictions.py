"""Caches whose tokens are chosen: as a plain model of them in NumPy, and the same bits however tokens are taken in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import architectures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.engine.llm import LLM
from pyllm.engine.request import Request
from pyllm.engine.sampler import SamplingParams
from pyllm.engine.sequence import Sequence
from pyllm.kernels.lang import cpu
from pyllm.kernels.shapes import PAGE
from pyllm.models.cache import evictions
from pyllm.models.cache.seen import Seen
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.config import Layer
from pyllm.models.forward.probe import cached, softmax_weights

N = 500
TOKENS = [int(t) for t in np.random.default_rng(3).integers(3, 60, N)]
SPECS = {
    **{name: CacheSpec("f32", "f32", policy=f"{name},keep=128,tail=64:f32") for name in evictions.names()},
    "sink": CacheSpec("q8_0", "q4_0", policy="h2o,sink=20:q8_0,keep=190,tail=100:f16"),
    "none": CacheSpec("f32", "f32"),
}
SAME_TEXT = pytest.mark.skipif(cpu.AMX, reason="prompts take other sums on the matrix unit: PYLLM_AMX=0 tests this")


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write(tmp_path_factory.mktemp("evictions"), request.param, "mixed")


@pytest.fixture(scope="module")
def llms(path: Path) -> Iterator[dict[str, LLM]]:
    made = {
        name: LLM(path, n_ctx=2 * N, sequence_ctx=N, cache=spec, n_threads=1, sequences=2)
        for name, spec in SPECS.items()
    }
    yield made
    for llm in made.values():
        llm.close()


def chosen_layer(llm: LLM) -> int:
    """Return the first layer whose tokens are chosen."""
    return next(iter(llm.model.kv.marks))


class Plain:
    """What a KV head of one layer keeps, in NumPy: a set of tokens, and their mass."""

    def __init__(self, policy: evictions.Eviction, layer: int, keep: int) -> None:
        self.policy, self.layer, self.keep = policy, layer, keep

    def run(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, at: Layer) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions in the body, (heads, keep) in order, and the mass of all tokens, (heads, tokens)."""
        heads, n = k.shape[1], len(k)
        mass, body = np.zeros((heads, n), np.float32), [list[int]() for _ in range(heads)]
        for row in range(n):
            if row % PAGE == 0 and row >= 2 * PAGE:
                first = row - 2 * PAGE  # the page that leaves: one that is full stays in the tail
                page = list(range(first, first + PAGE))
                if len(body[0]) < self.keep:
                    body = [each + page for each in body]
                else:
                    body = self.choose([each + page for each in body], mass, k, v, row)
            if row % PAGE == 0 and self.policy.rows == "page":
                mass[:] = 0
            for head in range(heads):
                sees = [*body[head], *range(max(0, (row // PAGE - 1)) * PAGE, row + 1)]
                group = slice(head * at.n_head // heads, (head + 1) * at.n_head // heads)
                scores = q[row, group] @ k[sees, head].T
                if at.softcap:
                    scores = at.softcap * np.tanh(scores / at.softcap)
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                if self.policy.rows:
                    mass[head, sees] += (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
        return np.array([sorted(each) for each in body]), mass

    def choose(
        self, body: list[list[int]], mass: np.ndarray, k: np.ndarray, v: np.ndarray, now: int
    ) -> list[list[int]]:
        positions = np.array(body)
        heads = np.arange(len(body))[:, None]
        seen = Seen(
            self.layer, now, positions, mass[heads, positions], lambda: (k[positions, heads], v[positions, heads])
        )
        scores = self.policy.score(seen)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.keep]
        stays = np.take_along_axis(positions, order, axis=1)
        found = []
        for head, old in enumerate(positions):  # the newcomers take the places of those that leave
            free = iter([t for t in old[self.keep :] if t in stays[head]])
            found.append([int(t if t in stays[head] else next(free)) for t in old[: self.keep]])
        return found


@pytest.mark.parametrize("name", evictions.names())
def test_what_is_kept_is_what_a_plain_model_keeps(llms: dict[str, LLM], name: str) -> None:
    llm = llms[name]
    layer = chosen_layer(llm)
    if layer:
        pytest.skip("its first layer has a window, and what is attended to changes what the others store")
    at, policy = llm.config.layers[layer], evictions.find(name)
    assert policy is not None
    q = []
    with llms["none"].beside(SPECS["none"]) as exact:
        session = exact.session()
        for row in range(0, N, PAGE):
            session.prefill(TOKENS[row : row + PAGE])
            q.append(next(exact.attended()).q.copy())
        session.close()
        exact.logits(TOKENS)
        k, v = exact.kv(layer)
    positions, mass = Plain(policy, layer, 128).run(np.concatenate(q), k, v, at)

    llm.logits(TOKENS)
    table = llm._filled().sequence.tables
    marks, last = llm.model.kv.marks[layer]
    body, tail = table[0].pages[:2], table[-2].pages[(N - 1) // PAGE - 1 : (N - 1) // PAGE + 1]
    got = marks.positions[:, body].reshape(len(positions), -1)
    np.testing.assert_array_equal(np.sort(got, axis=1), positions)
    if policy.rows:
        np.testing.assert_allclose(
            marks.mass[:, body].reshape(len(positions), -1), np.take_along_axis(mass, got.astype(int), axis=1),
            rtol=0.02, atol=1e-3,
        )  # fmt: skip
        begin = ((N - 1) // PAGE - 1) * PAGE
        held = last.mass[:, tail].reshape(len(positions), -1)[:, : N - begin]
        np.testing.assert_allclose(held, mass[:, begin:], rtol=0.02, atol=1e-3)
    got_k, got_v = llm.kv(layer)
    for head, those in enumerate(got):
        np.testing.assert_array_equal(got_k[:128, head], k[those, head])
        np.testing.assert_array_equal(got_v[:128, head], v[those, head])


@SAME_TEXT
@settings(deadline=None, max_examples=12)
@given(name=st.sampled_from(["h2o", "snapkv", "kvcrush", "sink"]), n=st.integers(1, N),
       cuts=st.lists(st.integers(1, N), max_size=4), back=st.integers(0, 200))  # fmt: skip
def test_chunks_and_rewinding_change_no_bit(llms: dict[str, LLM], name: str, n: int, cuts: list[int],
                                            back: int) -> None:  # fmt: skip
    llm, ends = llms[name], sorted({min(cut, n) for cut in cuts} | {n})

    def logits(*chunks: int) -> np.ndarray:
        free, session, at, found = [pool.free for pool in llm.pools], llm.session(), 0, np.empty(0)
        for size in chunks:
            take = TOKENS[at : at + size]
            found = session.decode(take[0]) if size == 1 else session.prefill(take)
            at += size
        found = found.copy()
        session.close()
        assert free == [pool.free for pool in llm.pools]
        return found

    whole = logits(n)
    np.testing.assert_array_equal(logits(*np.diff([0, *ends])), whole)
    one_by_one = min(n - 1, 140)
    np.testing.assert_array_equal(logits(n - one_by_one, *[1] * one_by_one), whole)
    session = llm.session()
    session.prefill(TOKENS[:n])
    kept = session.rewind(max(0, n - 1 - back))
    np.testing.assert_array_equal(session.prefill(TOKENS[kept:n]), whole)
    session.close()


@SAME_TEXT
@pytest.mark.parametrize("name", ["h2o", "sink"])
def test_texts_are_the_same_alone_and_batched(llms: dict[str, LLM], name: str) -> None:
    """Also when a request had to wait, and was computed again."""
    requests = [
        Request(TOKENS[at : at + n], SamplingParams(temperature=0, max_tokens=40))
        for at, n in ((0, 300), (100, 250), (7, 410))
    ]

    def texts(llm: LLM, some: list[Request]) -> list[list[int]]:
        scheduler = llm.scheduler()
        ids = [scheduler.add(request) for request in some]
        found: dict[int, list[int]] = {id: [] for id in ids}
        while not scheduler.idle:
            for update in scheduler.step():
                assert update.error is None
                if update.piece.token is not None:
                    found[update.id].append(update.piece.token)
        scheduler.close()
        return [found[id] for id in ids]

    alone = [texts(llms[name], [request])[0] for request in requests]
    with llms[name].beside(SPECS[name], n_ctx=N * 2, sequences=3, sequence_ctx=N, n_threads=2) as llm:
        assert texts(llm, requests) == alone


def test_with_room_for_all_nothing_changes(path: Path, llms: dict[str, LLM]) -> None:
    exact = llms["none"].logits(TOKENS)
    with llms["none"].beside(CacheSpec("f32", "f32", policy="h2o,keep=512,tail=64:f32"), n_ctx=N) as llm:
        np.testing.assert_allclose(llm.logits(TOKENS), exact, atol=1e-5)


@pytest.mark.parametrize("k_type", ["f16", "q8_0", "q4_0", "turbo3"])
def test_the_mass_of_a_row_is_one_for_each_query_head(path: Path, k_type: str) -> None:
    cache = CacheSpec(k_type, "f16", policy="h2o,keep=256,tail=64:f16")
    with LLM(path, n_ctx=N, cache=cache, n_threads=2) as llm:
        llm.logits(TOKENS[:380])
        layer = chosen_layer(llm)
        at, sequence = llm.config.layers[layer], llm._filled().sequence
        body, tail = llm.model.kv.marks[layer]
        found = body.mass[:, sequence.tables[0].pages[:4]].sum((1, 2))
        found += tail.mass[:, sequence.tables[-2].pages[4:6]].reshape(at.n_head_kv, -1)[:, : 380 - 256].sum(1)
        np.testing.assert_allclose(found, 380 * at.n_head / at.n_head_kv, rtol=0.02)


def test_weights_by_the_row(llms: dict[str, LLM]) -> None:
    """While all tokens are there, their mass is the sum of the weights that `softmax_weights` gives."""
    llm = llms["h2o"]
    layer, n = chosen_layer(llm), 120
    llm.logits(TOKENS[:n])
    at, sequence = llm.config.layers[layer], llm._filled().sequence
    mass = llm.model.kv.marks[layer][1].mass[:, sequence.tables[-2].pages[:2]].reshape(at.n_head_kv, -1)[:, :n]
    session = llm.session()
    weights = np.zeros((at.n_head, n), np.float32)
    for row in range(0, n, PAGE):
        session.prefill(TOKENS[row : row + PAGE][: n - row])
        q = list(llm.attended())[layer].q.copy()
        k = stored_keys(llm, session.sequence, layer)
        w = softmax_weights(q, k, at, row)
        weights[:, : w.shape[2]] += w.sum(0)
    session.close()
    by_head = weights.reshape(at.n_head_kv, -1, n).sum(1)
    np.testing.assert_allclose(mass, by_head, rtol=0.02, atol=1e-3)


def stored_keys(llm: LLM, sequence: Sequence, layer: int) -> np.ndarray:
    """Return K of a sequence whose tokens are all in the tail."""
    tail, at = llm.model.kv.tails[layer], np.arange(sequence.n_past)
    pages = sequence.tables[tail.kind].pages
    return cached(tail, llm.config.layers[layer], pages[at // PAGE] * PAGE + at % PAGE)[0]
