"""What the cache holds, read back, against NumPy from the exact K and V."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import tiny

from pyllm.bench.quality.attention_errors import errors, rotated, rounded
from pyllm.bench.quality.caches import Caches
from pyllm.models.arch.registry import read_config
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.probe import Attended
from pyllm.models.text.tokenizer import Tokenizer

TOKENS = [(7 * i + 3) % 250 for i in range(150)]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Caches:
    path = tiny.write(tmp_path_factory.mktemp("m") / "m.gguf", n_embd=96, n_head=3, n_head_kv=1, head_dim=64, n_layer=2)
    g = GGUF.open(path)
    return Caches(g, read_config(g), Tokenizer.from_gguf(g), 192, 1)


def held(caches: Caches, cache: CacheSpec) -> list[Attended]:
    with caches.open([cache]) as (engine,):
        session = engine.session()
        session.prefill(TOKENS)
        return list(engine.attended())


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_what_the_cache_gives_back(caches: Caches, mode: str) -> None:
    """A layer with exact input holds, to the bit, what NumPy makes of the exact K and V; its errors agree too."""
    exact, got = held(caches, CacheSpec("f32", "f32")), held(caches, CacheSpec("1:q4_0,*:f32", "1:q4_0,*:f32", mode))
    np.testing.assert_array_equal(exact[0].k, got[0].k)
    layer, size = caches.config.layers[1], 64 if mode == "auto" else 0
    k_hat, v_hat = (rotated(x, size) for x in (got[1].k, got[1].v))
    for ours, stored in ((rounded(exact[1].k, "q4_0", size), k_hat), (rounded(exact[1].v, "q4_0", size), v_hat)):
        assert naive.nmse(stored, ours) < 1e-5  # the transform adds in another order, so that a tie may round otherwise
    rows = np.arange(100, 150)
    by_cache = errors(exact[1], k_hat, v_hat, layer, rows)
    by_numpy = errors(exact[1], rounded(exact[1].k, "q4_0", size), rounded(exact[1].v, "q4_0", size), layer, rows)
    for name in ("logit_rms", "weights_kld", "output_k", "output_v"):
        assert by_cache[name] == pytest.approx(by_numpy[name], rel=0.02)


def test_queries_keys_and_values_give_the_attention(caches: Caches) -> None:
    """Without rounding there are no errors, and the attention weights are those of the oracle."""
    exact = held(caches, CacheSpec("f32", "f32"))[1]
    found = errors(exact, exact.k, exact.v, caches.config.layers[1], np.arange(75, 150))
    assert found["logit_rms"] == found["weights_kld"] == found["output_k"] == found["output_v"] == 0
    assert found["top_overlap"] == 1


def test_errors_by_hand() -> None:
    """A key that is longer by a tenth changes its score by a tenth, and so its weight."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((40, 1, 32)).astype(np.float32) for _ in range(3))
    k_hat = k.copy()
    k_hat[3] *= 1.1
    config = type("L", (), {"n_head": 1, "n_head_kv": 1, "window": 0, "softcap": 0.0})()
    found = errors(Attended(q, k, v), k_hat, v, config, np.array([39]))
    p, p_hat = (naive.softmax(q[39, 0].astype(float) @ x[:, 0].T.astype(float)) for x in (k, k_hat))
    assert found["weights_kld"] == pytest.approx((p * np.log(p / p_hat)).sum())
    out, out_hat = p @ v[:, 0], p_hat @ v[:, 0]
    assert found["output_k"] == pytest.approx(np.linalg.norm(out_hat - out) / np.linalg.norm(out), rel=1e-6)
    off = np.zeros(40)
    off[3] = 0.1 * (q[39, 0] @ k[3, 0])
    assert found["logit_rms"] == pytest.approx(np.std(off), rel=1e-3)


def test_rotated_is_the_transform() -> None:
    x = np.random.default_rng(1).standard_normal((5, 2, 128)).astype(np.float32)
    for size in (0, 64, 128):
        np.testing.assert_allclose(rotated(x, size), naive.hadamard(x, size), atol=1e-5)
