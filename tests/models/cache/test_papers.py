"""The papers' formats: each against a plain formula on small arrays, their bits, their names, and that a model runs."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tiny

from pyllm import LLM
from pyllm.__main__ import main
from pyllm.engine.policy.load import load
from pyllm.kernels.shapes import PAGE
from pyllm.models.cache import papers
from pyllm.models.cache.papers import kvquant, random_tokens, rotatekv, skvq, zipcache
from pyllm.models.cache.segments import parse
from pyllm.models.errors import UsageError

RNG = np.random.default_rng(7)
EACH = papers.variants()


def kv(heads: int = 3, head_dim: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return K with a large channel and a shifted one, and V."""
    k, v = RNG.normal(size=(2, PAGE, heads, head_dim)).astype(np.float32)
    k[:, :, 5] *= 8
    k[:, :, 9] += 20
    return k, v


def plain(x: np.ndarray, n: int) -> np.ndarray:
    """Return a group of values rounded to 2**n even steps from the least to the largest, one by one."""
    low, high = float(x.min()), float(x.max())
    return np.array([low + round((value - low) / (high - low) * (2**n - 1)) * (high - low) / (2**n - 1) for value in x])


@pytest.mark.parametrize(
    ("name", "bits", "group_k", "group_v"),
    [
        ("kivi", 2, np.s_[32:, 1, 7], np.s_[9, 2, :32]),
        ("kivi4", 4, np.s_[:32, 0, 5], np.s_[63, 0, 32:]),
        ("lmdeploy", 4, np.s_[11, 1], np.s_[0, 2]),
        ("lmdeploy8", 8, np.s_[0, 0], np.s_[63, 1]),
        ("hf", 4, np.s_[3, 2], np.s_[4, 1]),
        ("hf2", 2, np.s_[3, 2], np.s_[4, 1]),
    ],
)
def test_groups_with_even_steps(name: str, bits: int, group_k: tuple[object], group_v: tuple[object]) -> None:
    k, v = kv()
    paper = papers.find(name)
    assert paper is not None
    new_k, new_v = paper.policy(k, v, 0, 0)
    for old, new, group in ((k, new_k, group_k), (v, new_v, group_v)):
        np.testing.assert_allclose(new[group], plain(old[group], bits), rtol=1e-4, atol=1e-4)
    alike = {"kivi": 32, "hf": 64, "lmdeploy": 64}[name.rstrip("0123456789")]
    for side in "kv":
        assert paper.bits(side, 3, 64) == bits + 32 / alike


def test_kvquant_keeps_outliers_and_rounds_to_a_codebook() -> None:
    k, v = kv()
    k[3, 1, 20], v[8, 0, 2] = 90, -70
    for x, axes in ((k, (0,)), (v, (1, 2))):
        new = kvquant.coded(x, axes, 3)
        same = new == x
        assert round(0.01 * x.size) <= same.sum() <= 0.02 * x.size
        assert same[np.unravel_index(np.abs(x - x.mean(axes, keepdims=True)).argmax(), x.shape)]
    column = np.where(kvquant.coded(k, (0,), 3)[:, 1, 7] == k[:, 1, 7], np.nan, kvquant.coded(k, (0,), 3)[:, 1, 7])
    assert len(np.unique(column[~np.isnan(column)].round(5))) <= 8, "a channel has the codebook's values"
    values = RNG.normal(size=4000).astype(np.float32)
    book = kvquant.codebook(values, 8)
    error = np.square(book[kvquant.nearest(values, book)] - values).mean()
    assert error == pytest.approx(0.0345, rel=0.1), "Lloyd and Max: 0.03454 for eight values of a normal distribution"
    assert kvquant.bits("k", 3, 64) == pytest.approx(3 + 0.5 + 0.32 + 0.01, abs=0.01)
    assert kvquant.bits("v", 3, 64) == pytest.approx(3 + 32 / 192 + 0.32 + 0.01, abs=0.01)


def test_skvq_groups_channels_of_like_ranges() -> None:
    points = np.array([[-1, 1], [-9, 9], [-1.1, 1], [-9, 8.8], [-0.9, 1], [-8.7, 9]], np.float32)
    labels = skvq.alike(points, 2)
    assert labels[0] == labels[2] == labels[4] != labels[1] == labels[3] == labels[5]
    k, _ = kv(4, 64)
    flat, new = k.reshape(PAGE, -1), skvq.grouped(k, 2).reshape(PAGE, -1)
    labels = skvq.alike(np.stack([flat.min(0), flat.max(0)], 1), 2)
    for label in (0, 1):
        old, group = flat[:, labels == label], new[:, labels == label]
        unclipped = np.stack([plain(row, 2) for row in old])
        assert np.square(group - old).sum() <= np.square(unclipped - old).sum() + 1e-3
        assert all(len(np.unique(row.round(4))) <= 4 for row in group)
    assert skvq.bits("k", 4, 64) == 2 + 64 / 256 + 1 / PAGE
    assert skvq.bits("v", 1, 64) == 2 + 32 / 64, "one group"


def test_rotatekv_rounds_what_is_rotated() -> None:
    """With 8 fine bits nothing but a small error is left; one large channel costs less than without rotation."""
    k, v = kv(4, 64)
    k[:, :, 9] -= 20
    new_k, _ = rotatekv.policy(k, v, 0, 0, 2)
    fine_k, fine_v = rotatekv.policy(k, v, 0, 0, 8)
    assert np.abs(fine_k - k).max() < 0.1 and np.abs(fine_v - v).max() < 0.05
    by_token = np.stack([plain(row, 2) for row in k.reshape(PAGE, -1)]).reshape(k.shape)
    assert np.square(new_k - k).mean() < 0.7 * np.square(by_token - k).mean()
    hadamard = np.array([[(-1) ** (i & j).bit_count() for i in range(256)] for j in range(256)]) / 16
    turned = (new_k.reshape(PAGE, -1) @ hadamard)[:, np.argsort((k.reshape(PAGE, -1) @ hadamard).sum(0))]
    assert all((np.diff(np.sort(row[:128])) > 1e-3).sum() < 4 for row in turned), "four values in a group of a token"
    assert rotatekv.bits("k", 4, 64) == 2 + 32 / 128 + 8 / PAGE and rotatekv.bits("v", 4, 64) == 2 + 32 / 128


def test_zipcache_and_its_control() -> None:
    """The tokens of short keys have 4 bits, the others 2; the control chooses as many, by head, at random."""
    k, v = kv()
    new_k, new_v = zipcache.policy(k, v, 0, 0)
    for head in range(3):
        rank = np.linalg.norm(k[:, head], axis=1).argsort()
        for tier, n in ((rank[:26], 4), (rank[26:], 2)):
            np.testing.assert_allclose(new_k[tier, head, 40], plain(k[tier, head, 40], n), rtol=1e-4, atol=1e-4)
            scale, token = np.sqrt(np.abs(v[:, head]).max(0)), tier[1]
            expected = plain(v[token, head] / scale, n) * scale
            np.testing.assert_allclose(new_v[token, head], expected, rtol=1e-4, atol=1e-4)
    first, again, other = (random_tokens.policy(k, v, 0, position)[0] for position in (0, 0, PAGE))
    assert (first == again).all() and (first != other).any()
    integers = (26 * 4 + 38 * 2) / 64
    for module in (zipcache, random_tokens):
        assert module.bits("k", 3, 64) == integers + 1 + 0.5 / 64
        assert module.bits("v", 3, 64) == integers + 0.5 + 0.25 + 0.5 / 64


@pytest.mark.parametrize(("name", "shape"), [*product(EACH, ((1, 256), (2, 32), (5, 80), (8, 16)))])
def test_any_heads(name: str, shape: tuple[int, int]) -> None:
    """What comes back are K and V, also where all of a channel or of a token are the same."""
    k, v = kv(*shape)
    k[:, 0, 1], v[3] = 2.5, 0
    paper, (heads, head_dim) = papers.find(name), shape
    assert paper is not None
    for old, new in zip((k, v), paper.policy(k, v, 1, PAGE), strict=True):
        assert new.shape == old.shape and np.isfinite(new).all()
        assert np.square(new - old).mean() < old.var()
    assert all(2 < paper.bits(side, heads, head_dim) < 16 and math.isfinite(paper.sink + paper.tail) for side in "kv")


def test_names() -> None:
    assert papers.names() == sorted(papers.names()) and {"kivi", "random_tokens"} < set(papers.names())
    assert {"kivi4", "lmdeploy8", "skvq3"} < set(EACH) and "kivi2" not in EACH
    assert str(parse("kivi")) == "kivi,tail=128:f32"
    assert str(parse("skvq,tail=64")) == "skvq,sink=5:f32,tail=64:f32"
    assert load("kivi4") is not None
    for wrong in ("kivi3", "kivy", "kivi44", "__init__"):
        with pytest.raises(UsageError, match="unknown policy; use streaming, chance, h2o"):
            parse(wrong)
    with pytest.raises(UsageError, match="did you mean kivi"):
        parse("kivy")


def test_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ", ".join(papers.names()) in said


def test_a_model_runs_with_each(tmp_path: Path) -> None:
    file = tiny.write(tmp_path / "m.gguf")
    tokens: list[int] = np.random.default_rng(1).integers(3, 259, 330).tolist()

    def logits(policy: str) -> np.ndarray:
        with LLM(file, n_ctx=384, cache_type_k="f32", cache_type_v="f32", cache_policy=policy, n_threads=1) as llm:
            return llm.logits(tokens)[-1]

    exact = logits("")
    for name in papers.names():
        assert 0 < np.abs(logits(f"{name},tail=64") - exact).max() < 10, name
