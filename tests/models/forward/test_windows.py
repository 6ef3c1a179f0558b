"""Layers with a sliding window: they reuse their pages, and tokens that are needed again are taken in again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import naive
import numpy as np
import pytest
import tiny

from pyllm.engine.machine import fit
from pyllm.engine.page_table import PAGE
from pyllm.engine.sequence import Sequence, pools
from pyllm.engine.stepper import Session, Stepper
from pyllm.models.arch.registry import load_weights, read_config
from pyllm.models.cache.kinds import SLACK
from pyllm.models.cache.sizes import cache_bytes
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.loaded import Loaded
from pyllm.models.forward.model import Model

N_CTX, WINDOW, BATCH = 1024, 70, 64
KEPT = -(-(WINDOW + SLACK) // PAGE) + 1  # pages
TOKENS = np.random.default_rng(0).integers(3, 259, N_CTX).tolist()
OVERRIDES = {
    "gemma3.attention.sliding_window": WINDOW,
    "gemma3.attention.sliding_window_pattern": [True, False, True],
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    shape = {"n_layer": 3, "n_embd": 192, "n_head": 6, "n_head_kv": 2, "head_dim": 64, "tied": True}
    path = tiny.write(tmp_path_factory.mktemp("tiny") / "m.gguf", arch="gemma3", overrides=OVERRIDES, **shape)
    g = GGUF.open(path)
    return load_weights(g, read_config(g))


@pytest.fixture(params=[("f32", "f32"), ("q8_0", "q4_0")], ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def model(loaded: Loaded, pair: tuple[str, str]) -> Iterator[Model]:
    model = Model(loaded, CacheSpec(*pair), n_ctx=N_CTX, threads=2, n_batch=BATCH, max_logits=BATCH)
    yield model
    model.close()


@pytest.fixture
def whole(loaded: Loaded, pair: tuple[str, str]) -> Iterator[np.ndarray]:
    """Yield the logits after each token, from a model that keeps all pages."""
    model = Model(loaded, CacheSpec(*pair), n_ctx=N_CTX, threads=1, n_batch=N_CTX, max_logits=N_CTX)
    assert model.kv.tables[1].pool == model.kv.n_pages
    ((_, logits),) = session(model).score(TOKENS)
    yield logits.copy()
    model.close()


def session(model: Model) -> Session:
    return Session(Sequence(pools(model.kv), model.kv, N_CTX), Stepper(model))


def bound(pair: tuple[str, str]) -> float:
    return 1e-10 if pair[0] == "f32" else 2e-4


def test_only_the_window_is_kept(model: Model) -> None:
    assert (model.kv.tables[1].kept, model.kv.tables[1].pool, model.kv.n_pages) == (KEPT, KEPT, N_CTX // PAGE)
    bytes_of = [layer.k_pool.nbytes for layer in model.kv.layers]
    assert bytes_of[0] == bytes_of[2] == bytes_of[1] * KEPT // model.kv.n_pages
    near, far = model.cost(1, WINDOW), model.cost(1, N_CTX)
    row = near.k // (3 * WINDOW)  # K of a token in one layer
    assert far.k == row * (2 * WINDOW + N_CTX)


def test_memory_is_as_large_as_said(loaded: Loaded, model: Model, pair: tuple[str, str], tmp_path: Path) -> None:
    g = GGUF.open(tiny.write(tmp_path / "m.gguf"))  # its weights do not matter
    need = fit.needs(g, loaded.config, N_CTX, model.kv.spec)
    tables = N_CTX * 4 * (64 + 1)  # turns, at one base for all layers, and the scale
    assert need.kv == model.kv.nbytes == cache_bytes(loaded.config, model.kv.spec, N_CTX, n_batch=BATCH)
    assert need.positions == tables
    fits = need.largest_ctx(need.total)
    assert fits == N_CTX
    assert need.largest_ctx(need.total - need.kv + 100_000) < N_CTX


def test_repeated_pages(model: Model) -> None:
    s = session(model)
    s.prefill(TOKENS[:200])
    s.repeat(1000)
    assert np.isfinite(s.decode(5)).all()
    s.rewind(1000)
    assert np.isfinite(s.decode(5)).all()


def test_pages_go_round(model: Model, whole: np.ndarray, pair: tuple[str, str]) -> None:
    s = session(model)
    got = np.concatenate([part.copy() for _, part in s.score(TOKENS[:-20])])
    got = np.concatenate([got, *(s.decode(t)[None].copy() for t in TOKENS[-20:])])
    assert naive.nmse(got, whole) < bound(pair)
    s.close()
    assert s.sequence.tables[1]._pool.free == KEPT


@pytest.mark.parametrize("seed", range(3))
def test_any_way_there_and_back(model: Model, whole: np.ndarray, pair: tuple[str, str], seed: int) -> None:
    """Tokens come in pieces of any size and are rewound to any length; the next logits are as without that."""
    rng, s = np.random.default_rng(seed), session(model)
    s.prefill(TOKENS[:900])
    for _ in range(12):
        n = int(rng.integers(1, 130)) if rng.random() < 0.7 else 1
        n = min(n, N_CTX - s.n_past)
        if n:
            start = s.n_past
            got = s.prefill(TOKENS[start : start + n]) if n > 1 else s.decode(TOKENS[start])
            assert naive.nmse(got, whole[s.n_past - 1]) < bound(pair), s.n_past
        back(s, int(rng.integers(1, s.n_past)) if rng.random() < 0.4 else s.n_past - int(rng.integers(0, 20)))
        assert s.tokens == TOKENS[: s.n_past]


def back(s: Session, n: int) -> None:
    """Go back to n tokens, as callers do that need them."""
    kept = s.rewind(n)
    assert kept in (0, n)
    if kept < n:
        s.prefill(TOKENS[kept:n])


def test_what_is_kept_is_not_taken_again(model: Model) -> None:
    s = session(model)
    s.prefill(TOKENS[:1000])
    assert s.rewind(1000 - SLACK) == 1000 - SLACK
    assert s.rewind(200) == s.n_past == 0, "token 200 sees what is gone"
    s.prefill(TOKENS[:300])
    assert s.rewind(200) == s.n_past == 200
    assert s.tokens == TOKENS[:200]


def test_two_sequences(loaded: Loaded) -> None:
    model = Model(loaded, CacheSpec("f32", "f32"), n_ctx=2 * N_CTX, threads=1, n_batch=BATCH, sequences=2)
    every, stepper = pools(model.kv), Stepper(model)
    sessions = [Session(Sequence(every, model.kv, N_CTX), stepper) for _ in range(2)]
    tokens = TOKENS, TOKENS[::-1]
    alone = []
    for each in tokens:
        s = session(model)
        s.prefill(each[:900])
        alone.append(s.decode(each[900]).copy())
        s.close()
    for start, end in pairwise((0, 100, 800, 900)):
        for s, each in zip(sessions, tokens, strict=True):
            s.prefill(each[start:end])
    for s, each, expected in zip(sessions, tokens, alone, strict=True):
        assert naive.nmse(s.decode(each[900]), expected) < 1e-10
    model.close()


def test_a_window_that_no_context_leaves(tmp_path: Path) -> None:
    """A window longer than the context takes no more pages than the context."""
    overrides = OVERRIDES | {"gemma3.attention.sliding_window": 10_000}
    path = tiny.write(
        tmp_path / "m.gguf", arch="gemma3", n_layer=3, n_embd=192, n_head=6, tied=True, overrides=overrides
    )
    g = GGUF.open(path)
    model = Model(load_weights(g, read_config(g)), CacheSpec("f32", "f32"), n_ctx=128, threads=1, n_batch=BATCH)
    assert model.kv.tables[1].pool == model.kv.n_pages == 2
    model.close()
