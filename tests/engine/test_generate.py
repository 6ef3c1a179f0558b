"""The token loop, with a fake session that gives the replies of the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from fake_llm import REPLY, FakeLLM, FakeSampler, FakeSession

from pyllm.engine.generate import common_prefix, generate
from pyllm.engine.results import Timings
from pyllm.models.file.gguf import GGUF


@pytest.fixture
def llm(tmp_path: Path) -> FakeLLM:
    return FakeLLM(GGUF.open(tiny.write(tmp_path / "tiny.gguf")))


class Recorded:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, stage: str, done: int, total: int, next: str = "") -> None:
        self.calls.append((stage, done, total))


def run(
    llm: FakeLLM, prompt: list[int], session: FakeSession | None = None, **options: Any
) -> tuple[str, Any, Timings]:
    timings = Timings()
    sampler = FakeSampler()
    options = {"timings": timings} | options
    pieces = list(generate(session or llm.session(), prompt, sampler, llm.tokenizer, **options))
    assert all(piece.stop is None for piece in pieces[:-1])
    return "".join(piece.text for piece in pieces), pieces[-1].stop, timings


def test_until_the_end_token(llm: FakeLLM) -> None:
    text, stop, timings = run(llm, llm.tokenizer.encode("hello"))
    assert (text, stop) == (REPLY, "eog")
    assert timings.prompt_n == 1 and timings.reused_n == 0
    assert timings.generated_n == timings.decoded_n == len(llm.tokenizer.encode(REPLY))


def test_pieces_are_whole_characters(llm: FakeLLM) -> None:
    llm.reply = "😀é"  # one token a byte
    pieces = list(generate(llm.session(), [5], FakeSampler(), llm.tokenizer))
    assert [piece.text for piece in pieces if piece.text] == ["😀", "é"]


def test_a_character_that_the_limit_cuts_short_shows(llm: FakeLLM) -> None:
    llm.reply = "😀"
    assert run(llm, [5], n_predict=2)[:2] == ("\N{REPLACEMENT CHARACTER}", "limit")


@pytest.mark.parametrize("n", [0, 1, 3])
def test_limit(llm: FakeLLM, n: int) -> None:
    session = llm.session()
    text, stop, timings = run(llm, [5, 6], session, n_predict=n)
    assert stop == "limit" and timings.generated_n == n
    assert session.n_past == 2 + max(0, n - 1), "the last token need not go through the model"
    assert text == llm.tokenizer.decode(llm.tokenizer.encode(REPLY)[:n])


@pytest.mark.parametrize("length", [10, 12])
def test_a_full_context(llm: FakeLLM, length: int) -> None:
    llm.n_ctx = 12
    _, stop, timings = run(llm, list(range(5, 5 + length)))
    assert stop == "context" and timings.generated_n == 12 - length + 1


def test_interrupted(llm: FakeLLM) -> None:
    session = llm.session()
    answers = iter([False, True])
    _, stop, timings = run(llm, [5], session, interrupted=lambda: next(answers))
    assert stop == "interrupt" and timings.generated_n == 2 and session.n_past == 2


def test_the_common_beginning_is_kept(llm: FakeLLM) -> None:
    session = llm.session()
    run(llm, [5, 6, 7], session)
    answered = list(session.tokens)
    _, _, timings = run(llm, [*answered, 8, 9], session)
    assert session.prefilled[-1] == [8, 9]
    assert (timings.prompt_n, timings.reused_n) == (2, len(answered))
    run(llm, [5, 6, 8], session)
    assert session.prefilled[-1] == [8] and session.tokens[:3] == [5, 6, 8]
    run(llm, [5, 6], session)
    assert session.prefilled[-1] == [6], "its logits are needed again"


def test_depth_is_what_the_decoded_tokens_read(llm: FakeLLM) -> None:
    _, _, timings = run(llm, [5, 6, 7], n_predict=3)
    assert timings.decoded_n == 2 and timings.depth == (4 + 5) / 2


def test_the_sampler_sees_prompt_and_answer(llm: FakeLLM) -> None:
    sampler = FakeSampler()
    list(generate(llm.session(), [5, 6], sampler, llm.tokenizer, n_predict=2))
    assert sampler.accepted == [5, 6, *llm.tokenizer.encode(REPLY)[:2]]


def test_a_cached_prefix_changes_only_the_counters(llm: FakeLLM) -> None:
    """The sampler sees the same tokens, and the progress ends at the same number."""
    seen = []
    for known in ([], [5, 6]):
        session, sampler, progress, timings = llm.session(), FakeSampler(), Recorded(), Timings()
        session.tokens[:] = known
        list(generate(session, [5, 6, 7], sampler, llm.tokenizer, timings=timings, progress=progress))
        assert (timings.prompt_n, timings.reused_n) == (3 - len(known), len(known))
        seen.append((sampler.accepted, progress.calls[-1]))
    assert seen[0] == seen[1]


def test_what_a_window_forgot_counts_as_computed(llm: FakeLLM) -> None:
    llm.forgets_before = 10
    session = llm.session()
    run(llm, [*range(5, 20)], session)
    _, _, timings = run(llm, [5, 6, 7, 8], session)
    assert (timings.prompt_n, timings.reused_n) == (4, 0) and session.prefilled[-1] == [5, 6, 7, 8]


def test_common_prefix() -> None:
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([1, 2, 3], [1, 4, 3]) == 1
