"""How many prompt tokens a step may take in."""

from __future__ import annotations

import random

import pytest

from pyllm.engine.budget import FIRST, LEAST, Budget


class Machine:
    """Steps that take a time for the weights, and one for each row and each prompt token."""

    def __init__(self, weights: float, row: float, token: float, noise: float = 0.0) -> None:
        self.weights, self.row, self.token, self.noise = weights, row, token, noise
        self._random = random.Random(0)

    def seconds(self, rows: int, tokens: int) -> float:
        exact = self.weights + rows * self.row + tokens * self.token
        return exact * (1 + self._random.uniform(-self.noise, self.noise))


@pytest.mark.parametrize("most", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("token", [1e-5, 1e-4, 4e-4])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_step_with_prompts_stays_within_the_limit(most: float, token: float, noise: float) -> None:
    machine, budget = Machine(0.02, 0.0005, token, noise), Budget(most)
    worst, used, wanted = 0.0, 0, 0.0
    for i in range(300):
        rows = 8 + i % 3
        tokens = budget.tokens(rows, 512 - rows) if i % 4 else 0
        budget.measured(rows, tokens, machine.seconds(rows, tokens))
        if i > 100 and tokens:
            pure = Machine.seconds(Machine(0.02, 0.0005, token), rows, 0)
            worst = max(worst, (pure + tokens * token) / pure)
            used, wanted = used + tokens, wanted + min(512 - rows, (most - 1) * pure / token)
    assert worst <= most * (1.02 + 2 * noise)
    assert used >= wanted * (0.9 - 2 * noise)  # and what is allowed is used


def test_prompts_alone_have_all_the_room_there_is() -> None:
    budget = Budget(2.0)
    budget.measured(4, 0, 0.01)
    budget.measured(4, 32, 1.0)
    assert budget.tokens(0, 512) == 512
    assert Budget(None).tokens(30, 482) == 482


def test_a_prompt_always_goes_on() -> None:
    budget = Budget(2.0)
    assert budget.tokens(4, 508) == FIRST
    assert budget.tokens(4, 5) == 5
    budget.measured(4, 0, 0.01)
    budget.measured(4, 32, 10.0)
    assert budget.tokens(4, 508) == LEAST
    assert budget.tokens(4, 1) == 1


def test_prompt_tokens_that_cost_nothing_do_not_stop_it_from_learning() -> None:
    budget = Budget(2.0)
    budget.measured(4, 0, 0.01)
    budget.measured(4, 32, 0.009)
    assert budget.tokens(4, 508) == 508
