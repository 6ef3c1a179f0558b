"""A real model against llama.cpp's logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pyllm.engine.llm import LLM

pytestmark = pytest.mark.real
F32Array = npt.NDArray[np.float32]


@contextmanager
def loaded(path: Path, k_type: str, v_type: str) -> Iterator[LLM]:
    llm = LLM(path, n_ctx=512, cache_type_k=k_type, cache_type_v=v_type, max_logits=64)
    try:
        yield llm
    finally:
        llm.close()


def log_softmax(logits: F32Array) -> F32Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)


def scored(llm: LLM, window: npt.NDArray[np.int64]) -> F32Array:
    """Log-probabilities after each of the compared positions, (255, n_vocab)."""
    session = llm.session()
    session.prefill(window[:256].tolist())
    rows = np.concatenate([log_softmax(logits) for _, logits in session.score(window[256:511].tolist())])
    session.close()
    return rows


Golden = dict[str, npt.NDArray[np.generic]]


def read(shared: Path, name: str) -> Golden:
    with np.load(shared / "golden" / f"logits-{name}.npz") as file:
        return {name: file[name] for name in file}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return read(shared, "smollm2-135m-instruct-q4_1")


def divergence(golden: Golden, at: tuple[object, ...], mine: F32Array) -> F32Array:
    """KL divergence of llama.cpp's top 32 from ours, by position."""
    theirs = golden["top_logprobs"][at].astype(np.float64)
    ours = np.take_along_axis(mine, golden["top_ids"][at].astype(np.int64), axis=1)
    return (np.exp(theirs) * (theirs - ours)).sum(axis=-1)


def agreement(path: Path, golden: Golden) -> tuple[float, float]:
    """Mean KL divergence, and how often the first choice is the same."""
    kld, same = [], []
    with loaded(path, "f16", "f16") as llm:
        for i, window in enumerate(golden["tokens"]):
            if llm.tokenizer.add_bos:
                window[0] = llm.tokenizer.bos_id  # llama-perplexity does so
            mine = scored(llm, window)
            kld.append(divergence(golden, (i,), mine))
            same.append(mine.argmax(axis=-1) == golden["top_ids"][i, :, 0])
    return float(np.mean(kld)), float(np.mean(same))


def test_prefill_agrees_with_llamacpp(smollm2: Path, golden: Golden) -> None:
    kld, same = agreement(smollm2, golden)
    assert kld <= 0.008
    assert same >= 0.94


def test_gemma_agrees_with_llamacpp(gemma: Path, shared: Path) -> None:
    kld, same = agreement(gemma, read(shared, "gemma-3-270m-q4_k_m"))
    assert kld <= 0.008
    assert same >= 0.94


def test_decode_agrees_with_llamacpp(smollm2: Path, golden: Golden) -> None:
    tokens = golden["tokens"][0].tolist()
    with loaded(smollm2, "f16", "f16") as llm:
        session = llm.session()
        session.prefill(tokens[:256])
        mine = log_softmax(np.stack([session.decode(t).copy() for t in tokens[256:320]]))
    assert divergence(golden, (0, slice(64)), mine).mean() <= 0.01
