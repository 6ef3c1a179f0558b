"""Mixtures of experts: the forward pass against the oracle, itself in other pieces, and files that disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import tiny

from pyllm.engine.llm import LLM
from pyllm.kernels.lang import cpu
from pyllm.models.describe import describe
from pyllm.models.errors import ModelError
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.span import Span

TOKENS: list[int] = np.random.default_rng(0).integers(3, 259, 70).tolist()
SHAPE: dict[str, Any] = {
    "n_embd": 192, "n_head": 6, "n_head_kv": 2, "n_ff": 96, "n_expert": 5, "n_expert_used": 2,
}  # fmt: skip
MIXED = {"": "q4_0", "ffn_down": "q8_0", "token_embd": "q8_0", "output.": "f16"}


def load(path: Path, threads: int = 1) -> LLM:
    return LLM(path, n_ctx=256, cache_type_k="f32", cache_type_v="f32", n_threads=threads, max_logits=128)


def logits(llm: LLM, pieces: list[int]) -> np.ndarray:
    """After each token, taken in by pieces of so many."""
    session, start, found = llm.session(), 0, []
    for n in pieces:
        found += [part.copy() for _, part in session.score(TOKENS[start : start + n])]
        start += n
    session.close()
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("types", "bound"), [("f32", 1e-10), (MIXED, 1e-3), ({"": "q4_0", "ffn_up": "f32"}, 1e-3)], ids=str
)
def test_against_the_oracle_and_in_other_pieces(types: str | dict[str, str], bound: float, tmp_path: Path) -> None:
    """Gate and up may be of different kinds. Decode, small batches and more threads give the same: what is taken in
    beside a row does not matter."""
    path = tiny.write(tmp_path / "m.gguf", types=types, **SHAPE)
    llm = load(path)
    whole = logits(llm, [70])
    assert naive.nmse(whole, naive.llama(GGUF.open(path), TOKENS)) < bound
    same = 2e-3 if cpu.AMX and types != "f32" else 1e-9  # single rows are int8, rows for the matrix unit bfloat16
    for pieces in ([1] * 12 + [58], [2] * 10 + [7] * 5 + [15]):
        assert naive.nmse(logits(llm, pieces), whole) < same
    llm.close()
    for threads in (2, 3):
        llm = load(path, threads)
        assert naive.nmse(logits(llm, [40] + [1] * 30), whole) < same
        llm.close()


@pytest.mark.parametrize("used", [1, 8])
def test_one_expert_and_all(used: int, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf", **SHAPE | {"n_expert": 8, "n_expert_used": used})
    llm = load(path)
    assert naive.nmse(logits(llm, [60, 1, 1, 8]), naive.llama(GGUF.open(path), TOKENS)) < 1e-10
    llm.close()


def test_several_sequences_in_a_step(tmp_path: Path) -> None:
    """One token each: their experts are brought together, and none disturbs another."""
    llm = load(tiny.write(tmp_path / "m.gguf", **SHAPE))
    tables = [np.array([page], np.int64) for page in range(3)]
    spans = [Span([token], 0, [table]) for token, table in zip(TOKENS, tables, strict=False)]
    alone = [llm.model.step([span], [0])[0].copy() for span in spans]
    assert naive.nmse(llm.model.step(spans, [0, 1, 2]), np.stack(alone)) < 1e-11
    llm.close()


def test_only_the_experts_that_are_used_cost(tmp_path: Path) -> None:
    dense = load(tiny.write(tmp_path / "dense.gguf", **SHAPE | {"n_expert": 0})).model
    model = load(tiny.write(tmp_path / "m.gguf", **SHAPE)).model
    experts, router = 2 * 4 * 3 * 192 * 96, 2 * 4 * 5 * 192  # of two layers, in bytes: of one expert, of all routers
    assert model.cost(1, 9).weights == dense.cost(1, 9).weights + experts + router
    assert model.cost(1, 9).macs_f32 == dense.cost(1, 9).macs_f32 + (experts + router) // 4
    assert model.cost(500, 500).weights == dense.cost(500, 500).weights + 4 * experts + router  # all five, as good as
    assert model.cost(2, 9).weights == pytest.approx(dense.cost(2, 9).weights + 2.2 * experts + router)
    for each in (dense, model):
        each.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.expert_used_count": 6}, "llama.expert_used_count: is 6, must be from 1 to 5"),
        ({"llama.expert_used_count": 0}, "llama.expert_used_count: is 0, must be from 1 to 5"),
        ({"llama.expert_used_count": None}, "llama.expert_used_count: is missing"),
        ({"llama.expert_count": 1 << 20}, "llama.expert_count: is 1048576, must be from 0 to 1024"),
        ({"llama.expert_count": 4}, "blk.0.ffn_gate_inp.weight: has shape [5, 192], the hyperparameters ask for [4, 1"),
        ({"llama.expert_count": 0}, "blk.0.ffn_gate.weight: is missing"),
        ({"llama.expert_feed_forward_length": 64}, "blk.0.ffn_gate_exps.weight: has shape [5, 96, 192], the hyper"),
        ({"llama.expert_feed_forward_length": 0}, "llama.expert_feed_forward_length: is 0, must be from 1"),
    ],
    ids=str,
)
def test_counts_that_disagree(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf", **SHAPE, overrides=changes)
    with pytest.raises(ModelError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("n_ff", "message"),
    [(40, "ffn_gate_exps.weight: has experts of 40 rows"), (48, "ffn_down_exps.weight: has rows of")],
)
def test_widths_that_are_no_tiles(n_ff: int, message: str, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf", **SHAPE | {"n_ff": n_ff})
    with pytest.raises(ModelError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: blk.0.{message}")


def test_inspect(tmp_path: Path) -> None:
    facts = describe(GGUF.open(tiny.write(tmp_path / "m.gguf", **SHAPE)))
    assert facts["problem"] is None
    assert facts["parameters"] - facts["active_parameters"] == 2 * 3 * 3 * 192 * 96


def test_a_router_that_gives_no_numbers(tmp_path: Path) -> None:
    """The run ends, and names the place."""
    router = np.full((5, 192), np.nan, np.float32)
    llm = load(tiny.write(tmp_path / "m.gguf", **SHAPE, tensors={"blk.1.ffn_gate_inp.weight": router}))
    for pieces in ([1], [70]):
        assert np.isnan(logits(llm, pieces)).all()
        assert llm.model.broken() == "blk.1.ffn_gate_inp"
    llm.close()
