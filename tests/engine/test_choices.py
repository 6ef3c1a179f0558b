"""Tokens chosen for several sequences at once are those that each sampler chooses alone."""

from __future__ import annotations

import sys
from types import FrameType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.engine.choices import Choices
from pyllm.engine.sampler import Sampler, SamplingParams
from pyllm.kernels.plan import Team
from pyllm.models.errors import NumberError

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 40]),
    top_p=st.sampled_from([0.3, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    repeat_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 9),
    ignore_eos=st.booleans(),
)


@pytest.fixture(scope="module")
def team():  # type: ignore[no-untyped-def]
    made = Team(2)
    yield made
    made.close()


@settings(deadline=None, max_examples=60)
@given(
    params=st.lists(PARAMS, min_size=1, max_size=6),
    n=st.integers(1, 300),
    seed=st.integers(0, 99),
    ties=st.booleans(),
)
def test_as_each_alone(team: Team, params: list[SamplingParams], n: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    choices = Choices(team, len(params))
    ends = {0} if n > 1 else set()
    alone, together = ([Sampler(p, n, ends=ends) for p in params] for _ in range(2))
    for _ in range(4):
        logits = (rng.standard_normal((len(params), n)) * 4).astype(np.float32)
        if ties:
            logits = np.round(logits)
        expected = [sampler(row) for sampler, row in zip(alone, logits, strict=True)]
        assert choices(together, logits) == expected
        for token, one, other in zip(expected, alone, together, strict=True):
            one.accept(token)
            other.accept(token)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_no_number_ends_alone(team: Team, temperature: float, wrong: float) -> None:
    logits = np.zeros((3, 40), np.float32)
    logits[1, 7 if wrong != -np.inf else slice(None)] = wrong
    samplers = [Sampler(SamplingParams(temperature=temperature, seed=1), 40) for _ in range(3)]
    found = Choices(team, 3)(samplers, logits)
    assert isinstance(found[1], NumberError) and not any(isinstance(found[i], NumberError) for i in (0, 2))
    with pytest.raises(NumberError):
        samplers[1](logits[1])


def test_what_a_signal_raises_is_not_lost(team: Team) -> None:
    """Python handles a signal between any two of its instructions: none of them may be where NumPy clears errors."""
    choices, samplers = Choices(team, 2), [Sampler(SamplingParams(seed=i), 40) for i in range(2)]
    logits = np.zeros((2, 40), np.float32)
    choices(samplers, logits)

    ran: list[str] = []  # an error here would be cleared too

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            ran.append(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        choices(samplers, logits)
    finally:
        sys.setprofile(None)
    assert ran and not [name for name in ran if "numpy" in name]
