"""The whole forward pass on tiny random models, against the oracle and against itself in other pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import tiny

from pyllm.engine.page_table import PagePool, PageTable
from pyllm.engine.sequence import Sequence as TokenSequence
from pyllm.engine.sequence import pools
from pyllm.engine.stepper import Session, Stepper
from pyllm.kernels.lang import cpu
from pyllm.models.arch.registry import load_weights, read_config
from pyllm.models.cache.layer_map import written
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.model import Model
from pyllm.models.forward.span import Span

TOKENS = np.random.default_rng(0).integers(3, 259, 100).tolist()
N_CTX = 1024
Load = Callable[..., Model]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """load(cache types of all layers or of each, threads=, **arguments of tiny.write): a model, closed at the end."""
    models: list[Model] = []

    def load(
        cache: tuple[str, str] | list[tuple[str, str]] = ("f32", "f32"), *, threads: int = 1, rotate: str = "auto",
        **model: Any,
    ) -> Model:  # fmt: skip
        # Three query heads to a KV head, as in SmolLM2 and in most of the kernels' tests: nothing more to compile.
        shape = {"n_embd": 192, "n_head": 6, "n_head_kv": 2} | model
        g = GGUF.open(tiny.write(tmp_path / f"{len(models)}.gguf", **shape))
        config = read_config(g)
        types = zip(*cache, strict=True) if isinstance(cache, list) else ([t] * config.n_layer for t in cache)
        spec = CacheSpec(*map(written, types), rotate)
        sizes = {"n_ctx": N_CTX, "n_batch": 128, "max_logits": 128}
        models.append(Model(load_weights(g, config), spec, threads=threads, **sizes))
        return models[-1]

    yield load
    for model in models:
        model.close()


def session(model: Model) -> Session:
    """A sequence with all pages to itself."""
    return Session(TokenSequence(pools(model.kv), model.kv, N_CTX), Stepper(model))


def logits(model: Model, tokens: Sequence[int] = TOKENS) -> np.ndarray:
    """After each token, taken in at once."""
    return np.concatenate([part.copy() for _, part in session(model).score(tokens)])


def expected(tmp_path: Path, cache: list[tuple[str, str]] | None = None) -> np.ndarray:
    """What the oracle says of the first model loaded."""
    return naive.llama(GGUF.open(tmp_path / "0.gguf"), TOKENS, cache)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("fmt", ["f32", "f16", "bf16"])
def test_float_weights(load: Load, tmp_path: Path, fmt: str, tied: bool) -> None:
    near = 1e-4 if fmt == "bf16" and cpu.AMX else 1e-10  # the matrix unit takes activations as bfloat16 too
    assert naive.nmse(logits(load(types=fmt, tied=tied)), expected(tmp_path)) < near


# What activations of 8 bits cost, whatever the weights' format: 1e-4.
@pytest.mark.parametrize(
    "weights",
    [
        "q8_0",
        "q4_0",
        "q4_1",
        "mxfp4",
        {"": "q4_1", "token_embd": "q8_0"},
        {"": "f16", "ffn_down": "q4_0", "attn_v": "q8_0"},
    ],
    ids=str,
)
def test_quantized_weights(load: Load, tmp_path: Path, weights: str | dict[str, str]) -> None:
    model = load(types=weights, tied=isinstance(weights, dict))
    assert naive.nmse(logits(model), expected(tmp_path)) < 5e-4


@pytest.mark.parametrize(
    ("pair", "bound"),
    [(("f16", "f16"), 1e-9), (("bf16", "q8_0"), 1e-5), (("q8_0", "q4_0"), 1e-4), (("q4_0", "q4_0"), 2e-4)],
    ids=str,
)
def test_cache_types(load: Load, tmp_path: Path, pair: tuple[str, str], bound: float) -> None:
    """Against the oracle with K and V rounded alike; integers of K round the query too."""
    assert naive.nmse(logits(load(pair)), expected(tmp_path, [pair] * 2)) < bound


@pytest.mark.parametrize(
    ("rotate", "rotation"), [("auto", (128, 64)), ("k", (128, 0)), ("v", (0, 64)), ("none", (0, 0))]
)
def test_rotated_caches(load: Load, tmp_path: Path, rotate: str, rotation: tuple[int, int]) -> None:
    """Against the oracle that rotates alike, closer than to one that rotates otherwise."""
    got = logits(load(("q4_0", "q4_0"), rotate=rotate, n_head=3, n_head_kv=1, head_dim=128))
    g = GGUF.open(tmp_path / "0.gguf")
    apart = {
        r: naive.nmse(got, naive.llama(g, TOKENS, [("q4_0", "q4_0")] * 2, r))
        for r in ((128, 64), (128, 0), (0, 64), (0, 0))
    }
    assert apart[rotation] < 2e-4 and min(apart, key=apart.__getitem__) == rotation


def test_floats_are_not_rotated(load: Load, tmp_path: Path) -> None:
    model = load(("f32", "q8_0"), rotate="both", n_head=3, n_head_kv=1, head_dim=128)
    assert [(layer.k_rotation, layer.v_rotation) for layer in model.kv.layers] == [(0, 64)] * 2


def test_cache_types_by_layer(load: Load, tmp_path: Path) -> None:
    pairs = [("q4_0", "f32"), ("f16", "bf16"), ("q8_0", "q4_0")]
    got = logits(load(pairs, n_layer=3))
    assert naive.nmse(got, expected(tmp_path, pairs)) < 1e-4
    assert naive.nmse(got, expected(tmp_path)) > 1e-4


@pytest.mark.parametrize(
    "shape",
    [
        {"n_head": 2, "n_head_kv": 1, "head_dim": 80, "n_embd": 96},
        {"n_head": 4, "n_head_kv": 2},
        {"n_head": 4, "n_head_kv": 4},
        {"n_head": 8, "n_head_kv": 1, "head_dim": 16},
        {"n_head": 2, "n_head_kv": 2, "head_dim": 128, "n_ff": 32, "n_vocab": 301},
        {"overrides": {"llama.rope.dimension_count": 16}},
        {"overrides": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}},
        {"overrides": {"llama.rope.freq_base": 500.0}, "tensors": {"rope_freqs.weight": np.geomspace(1, 8, 16)}},
    ],
    ids=str,
)
def test_shapes(load: Load, tmp_path: Path, shape: dict[str, Any]) -> None:
    assert naive.nmse(logits(load(**shape)), expected(tmp_path)) < 1e-10


FLOAT = {"cache": ("f32", "f32"), "bound": 1e-11}
# With a matrix unit a prompt's activations are bfloat16 and those of a single token int8: two roundings of the same.
MIXED = {"cache": ("q8_0", "q8_0"), "types": {"": "q4_1", "token_embd": "q8_0"}, "bound": 1e-3 if cpu.AMX else 1e-4}
KINDS = pytest.mark.parametrize("kind", [FLOAT, MIXED], ids=["float", "mixed"])


@KINDS
def test_pieces_and_decode_agree(load: Load, kind: dict[str, Any]) -> None:
    kind = dict(kind)
    bound, model = kind.pop("bound"), load(**kind)
    whole = logits(model)
    for size in (1, 7, 64):
        s = session(model)
        for start in range(0, len(TOKENS), size):
            end = min(start + size, len(TOKENS))
            last = s.decode(TOKENS[start]) if size == 1 else s.prefill(TOKENS[start:end])
            error = naive.nmse(last, whole[end - 1])
            assert error < bound, (size, end)


@KINDS
def test_threads_agree(load: Load, kind: dict[str, Any]) -> None:
    kind = dict(kind)
    bound, tokens = kind.pop("bound"), TOKENS * 4
    alone = None
    for threads in (1, 2, 3):
        s = session(load(threads=threads, **kind))
        s.prefill(tokens[:-2])
        got = np.stack([s.decode(t).copy() for t in tokens[-2:]])  # deep enough to be split between threads
        alone = got if alone is None else alone
        assert naive.nmse(got, alone) < bound


def test_rewind_and_continue(load: Load) -> None:
    model = load(("q8_0", "q4_0"))
    s, fresh = session(model), session(model)
    s.prefill(TOKENS)
    s.rewind(70)
    fresh.prefill(TOKENS[:70])
    for token in TOKENS[:5]:
        got = s.decode(token).copy()
        np.testing.assert_array_equal(got, fresh.decode(token))
    assert s.tokens == fresh.tokens == TOKENS[:70] + TOKENS[:5]


def test_sessions_do_not_disturb_each_other(load: Load) -> None:
    model = load(("q8_0", "q4_0"))
    pieces = list(pairwise((0, 10, 63, 64, 65, 80)))
    alone = []
    for tokens in (TOKENS, TOKENS[20:]):
        s = session(model)
        alone.append([s.prefill(tokens[start:end]).copy() for start, end in pieces])
    every, stepper = pools(model.kv), Stepper(model)
    one, other = (Session(TokenSequence(every, model.kv, 256), stepper) for _ in range(2))
    for i, (start, end) in enumerate(pieces):
        np.testing.assert_array_equal(one.prefill(TOKENS[start:end]), alone[0][i])
        np.testing.assert_array_equal(other.prefill(TOKENS[20 + start : 20 + end]), alone[1][i])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lengths", [[(0, 5), (0, 70), (64, 1)], [(400, 1), (3, 1), (310, 1)]], ids=str)
def test_several_sequences_in_a_step(load: Load, threads: int, lengths: list[tuple[int, int]]) -> None:
    """Spans of (position, tokens), each of a sequence of its own: the same as one after the other."""
    model, tokens = load(threads=threads), TOKENS * 5
    pool, spans, expected = PagePool(model.kv.n_pages), [], []
    model.kv.layers[0].k_pool[:] = 255  # NaN: what is not stored must not be read
    for past, n in lengths:
        table = PageTable(pool, N_CTX)
        table.reserve(past + n)
        for start in range(0, past, 128):
            model.step([Span(tokens[start : min(start + 128, past)], start, [table.pages])], [])
        spans.append(Span(tokens[past : past + n], past, [table.pages]))
        expected.append(model.step(spans[-1:], [n - 1])[0].copy())
    outs = np.cumsum([n for _, n in lengths]) - 1
    assert naive.nmse(model.step(spans, outs.tolist()), np.stack(expected)) < 1e-11
