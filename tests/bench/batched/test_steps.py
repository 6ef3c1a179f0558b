"""Many sequences through a tiny model: which tokens go into which step, what they share, what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from fake_bench import batched_case
from given_roofs import GIVEN
from hypothesis import given
from hypothesis import strategies as st

from pyllm import LLM
from pyllm.bench.batched.steps import StepCost, chunks, fork, sample, spared_tokens
from pyllm.bench.speed.engines import random_tokens
from pyllm.kernels.shapes import PAGE, PART
from pyllm.models.forward.step import PlanKind

ROWS = 8


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf", n_ctx=1024)
    with LLM(path, n_ctx=ROWS * 768, sequences=ROWS, n_threads=2, n_batch=256) as llm:
        yield llm


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 12))
def test_prompts_go_through_in_full_steps(lengths: list[int], n_rows: int) -> None:
    sequences: Any = [SimpleNamespace(number=i, at_once=int) for i in range(len(lengths))]
    prompts = [[10 * i + j for j in range(n)] for i, n in enumerate(lengths)]
    steps = list(chunks(sequences, prompts, n_rows))
    flat = [token for takes, _ in steps for take in takes for token in take.tokens]
    assert flat == [token for prompt in prompts for token in prompt]
    sizes = [sum(len(take.tokens) for take in takes) for takes, _ in steps]
    assert all(size == n_rows for size in sizes[:-1]) and all(0 < size <= n_rows for size in sizes)
    last = []
    for takes, logits_rows in steps:
        assert all(take.prompt and take.tokens[0] // 10 == take.sequence.number for take in takes)  # type: ignore[attr-defined]
        rows = [token for take in takes for token in take.tokens]
        last += [rows[row] for row in logits_rows]
    assert last == [prompt[-1] for prompt in prompts if prompt]


@pytest.mark.parametrize("shared", [False, True])
def test_pages_are_given_back(llm: LLM, shared: bool) -> None:
    case = batched_case(n_prompt=300, n_gen=3, n_sequences=ROWS, shared=shared)
    free = [pool.free for pool in llm.pools]
    found = sample(llm, case)
    assert len(found.steps) == 3 and found.gen == sum(found.steps) and min(found.prompt, *found.steps) > 0
    assert [pool.free for pool in llm.pools] == free


@pytest.mark.parametrize("shared", [False, True])
def test_pages_as_foretold(llm: LLM, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = batched_case(n_prompt=300, n_gen=30, n_sequences=ROWS, shared=shared)
    free, least, take = llm.pools[0].free, [], llm.stepper.take

    def watched(*args: Any) -> Any:
        logits = take(*args)
        least.append(llm.pools[0].free)
        return logits

    monkeypatch.setattr(llm.stepper, "take", watched)
    sample(llm, case)
    assert free - min(least) == case.n_pages


@pytest.mark.parametrize("n", [5, PAGE, PAGE + 1, 4 * PAGE + 7])
def test_a_fork_goes_on_like_the_original(llm: LLM, n: int) -> None:
    tokens = random_tokens(llm.config.n_vocab, n + 2)
    one = llm.sequence()
    llm.stepper.prefill(one, tokens[:n])
    other = fork(llm, one)
    wanted, found = ([llm.stepper.decode(s, t).copy() for t in tokens[n:]] for s in (one, other))
    np.testing.assert_array_equal(found, wanted)
    one.rewind(0)
    other.rewind(0)


def test_no_prompt_and_no_steps(llm: LLM) -> None:
    assert sample(llm, batched_case(n_prompt=0)).prompt < 10_000_000
    assert sample(llm, batched_case(n_gen=0)).steps == () and StepCost.of(llm, batched_case(n_gen=0)) is None


@pytest.mark.parametrize("rows", [1, 5, 6, ROWS])
@pytest.mark.parametrize("prompt", [100, 256, 600])
def test_what_rows_read_together_counts_once(llm: LLM, rows: int, prompt: int) -> None:
    """As many parts as the engine's own jobs leave out."""
    case = batched_case(n_prompt=prompt, n_gen=1, n_sequences=rows, shared=True)
    sample(llm, case)
    step = llm.model._step
    jobs = [*step.jobs[0][: int(step.n_jobs[0, 0])], *step.blocks[0][: int(step.n_blocks[0, 0])]]
    read = sum(int(job["parts"]) for job in jobs)
    assert (rows * -(-(prompt + 1) // (PART * PAGE)) - read) * PART * PAGE == spared_tokens(case, llm.config)


def test_the_cost_of_a_step(llm: LLM) -> None:
    case = batched_case(n_prompt=512, n_gen=3, n_sequences=ROWS)
    cost, shared = StepCost.of(llm, case), StepCost.of(llm, replace(case, shared=True))
    assert cost and shared
    middle = llm.model.cost(ROWS, 514, PlanKind.FEW)
    assert (cost.weights, cost.k, cost.v) == (middle.weights, middle.k, middle.v)
    assert (shared.weights, shared.macs) == (cost.weights, cost.macs)
    assert shared.k == cost.k - (ROWS - 1) * 512 * cost.k / (ROWS * 514) < cost.k / 4
    bus, unit = cost.shares(1e-3, GIVEN, 1)
    assert bus == pytest.approx(1e3 * cost.streamed / GIVEN.bandwidth(1, cost.streamed))
    assert unit == pytest.approx(1e3 * sum(n / GIVEN.peak(path, 1) for path, n in cost.macs.items()))
