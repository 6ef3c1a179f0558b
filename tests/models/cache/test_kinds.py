"""Kinds of layers: windows of several sizes in one model, each with pages of its own."""

from __future__ import annotations

from collections.abc import Sequence as Numbers
from dataclasses import replace

import naive
import naive_recorder
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from pyllm.engine.sequence import Sequence, pools
from pyllm.engine.stepper import Session, Stepper
from pyllm.kernels.shapes import MAX_TABLES, PAGE, pages
from pyllm.models.arch.registry import load_weights, read_config
from pyllm.models.cache.kinds import SLACK, Kind, kind_of, kinds
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.config import Config
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.model import Model

WINDOWS = (20, 0, 200, 20)
N_CTX, BATCH = 1024, 64
TOKENS = np.random.default_rng(0).integers(3, 259, 900).tolist()
"""More tokens than the pages of any window hold."""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> GGUF:
    path = tmp_path_factory.mktemp("tiny") / "m.gguf"
    return GGUF.open(tiny.write(path, arch="gemma3", n_layer=4, n_embd=192, n_head=6, head_dim=64, tied=True))


def windowed(config: Config, windows: Numbers[int]) -> Config:
    return replace(
        config, layers=tuple(replace(layer, window=w) for layer, w in zip(config.layers, windows, strict=True))
    )


@given(windows=st.lists(st.sampled_from([0, 1, 64, 4096]), min_size=4, max_size=4))
def test_each_layer_has_one_kind(gguf: GGUF, windows: list[int]) -> None:
    config = windowed(read_config(gguf), windows)
    found = kinds(config)
    assert found[0].window == 0 and len(found) <= MAX_TABLES
    assert sorted(i for kind in found for i in kind.layers) == [0, 1, 2, 3]
    assert [found[kind_of(config, i)].window for i in range(4)] == windows
    assert all(kind.layers for kind in found[1:]), "only the kind that keeps all may have no layers"


def test_too_many_windows(gguf: GGUF) -> None:
    with pytest.raises(AssertionError):
        kinds(windowed(read_config(gguf), (1, 2, 3, 4)))


@given(
    window=st.integers(1, 5000), n_batch=st.integers(1, 2000), n_ctx=st.integers(1, 10_000), sequences=st.integers(1, 4)
)
def test_pages_of_a_window(window: int, n_batch: int, n_ctx: int, sequences: int) -> None:
    """Wherever a batch begins in a page, what its rows see and what they store is kept."""
    kind = Kind(window, (0,))
    assert kind.kept_pages(n_batch) * PAGE >= window + n_batch + PAGE - 1
    assert kind.pool_pages(n_ctx, n_batch, sequences) == min(pages(n_ctx), kind.kept_pages(n_batch) * sequences)
    whole = Kind(0, (0,))
    assert whole.kept_pages(n_batch) == 0 and whole.pool_pages(n_ctx, n_batch, sequences) == pages(n_ctx)


def test_two_windows_give_the_oracles_logits(gguf: GGUF) -> None:
    """In batches, then token by token; then rewound to where one window still has all, and to where none has."""
    config = windowed(read_config(gguf), WINDOWS)
    expected = naive_recorder.played(config, naive_recorder.Weights(gguf), TOKENS, N_CTX)
    model = Model(
        load_weights(gguf, config), CacheSpec("f32", "f32"), n_ctx=N_CTX, threads=2, n_batch=BATCH, max_logits=BATCH
    )
    assert [table.window for table in model.kv.tables] == [0, 20, 200]
    assert [layer.kind for layer in model.kv.layers] == [1, 0, 2, 1]
    session = Session(Sequence(pools(model.kv), model.kv, N_CTX), Stepper(model))
    found = np.concatenate([logits.copy() for _, logits in session.score(TOKENS[:880])])
    found = np.concatenate([found, *(session.decode(token)[None].copy() for token in TOKENS[880:])])
    assert naive.nmse(found, expected) < 1e-10

    tables = session.sequence.tables
    assert [table.first > 0 for table in tables] == [False, True, True]
    assert tables[1].first > tables[2].first, "the smaller window gives its pages back sooner"
    for n in (900 - SLACK, 300, 5):
        kept = session.rewind(n)
        if kept < n:
            session.prefill(TOKENS[:n])
        assert naive.nmse(session.prefill(TOKENS[n : n + 70]), expected[n + 69]) < 1e-10, n
        assert naive.nmse(session.decode(TOKENS[n + 70]), expected[n + 70]) < 1e-10, n
        session.prefill(TOKENS[session.rewind(n) :])
    model.close()
