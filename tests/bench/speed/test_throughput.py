"""The order of measurements and the statistics of samples, with fakes instead of engines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fake_bench import case

from pyllm.bench.speed.cases import Case
from pyllm.bench.speed.throughput import Results, Samples, Traffic, Unable, average, measure, timed, turns
from pyllm.kernels.plan import Cost

A, B = case(n_prompt=8), case(n_gen=4)


class Runner:
    """A runner that takes a nanosecond more each time and records who was asked."""

    def __init__(self, name: str, log: list[tuple[str, Case]], unable: Case | None = None) -> None:
        self.name, self.log, self.unable = name, log, unable

    def sample(self, case: Case) -> int:
        self.log.append((self.name, case))
        if case == self.unable:
            raise Unable("no such thing")
        return 100 + len(self.log)


def test_cases_and_runners_take_turns() -> None:
    order = list(turns([A, B], ["us", "them"], 2))
    assert order == [
        (0, A, "us"), (0, A, "them"), (0, B, "us"), (0, B, "them"),
        (1, A, "them"), (1, A, "us"), (1, B, "them"), (1, B, "us"),
    ]  # fmt: skip


def test_every_sample_is_kept_in_order() -> None:
    log: list[tuple[str, Case]] = []
    results: Results = {}
    measure([A, B], {"us": Runner("us", log)}, 3, results)
    assert log == [("us", A), ("us", B)] * 3
    assert results[A, "us"].ns == [101, 103, 105]
    assert results[B, "us"].ns == [102, 104, 106]


def test_who_is_unable_is_asked_once() -> None:
    log: list[tuple[str, Case]] = []
    results: Results = {}
    said: list[str] = []
    measure([A, B], {"us": Runner("us", log), "them": Runner("them", log, A)}, 3, results, warn=said.append)
    assert log.count(("them", A)) == 1 and log.count(("them", B)) == 3
    assert said == ["them cannot run pp8 f16/f16 -t 1: no such thing"]
    assert (A, "them") not in results and len(results[A, "us"].ns) == 3


def test_what_was_measured_before_a_break_is_there() -> None:
    class Broken(Runner):
        def sample(self, case: Case) -> int:
            if len(self.log) == 3:
                raise KeyboardInterrupt
            return super().sample(case)

    results: Results = {}
    with pytest.raises(KeyboardInterrupt):
        measure([A, B], {"us": Broken("us", [])}, 5, results)
    assert (len(results[A, "us"].ns), len(results[B, "us"].ns)) == (2, 1)


def test_medians() -> None:
    samples = Samples(10, [1_000_000_000, 5_000_000_000, 2_000_000_000])
    assert samples.ts == [10, 2, 5]
    assert (samples.median_ns, samples.median_ts) == (2_000_000_000, 5)
    assert average([1.0, 3.0]) == (2, pytest.approx(2**0.5))
    assert average([7]) == (7, 0)


def test_prompt_at_once_then_tokens_one_by_one() -> None:
    calls: list[object] = []
    session: Any = SimpleNamespace(prefill=lambda tokens: calls.append(list(tokens)), decode=calls.append)
    assert timed(session, [1, 2, 3], [4, 5]) > 0
    assert calls == [[1, 2, 3], 4, 5]
    calls.clear()
    timed(session, [], [4])
    assert calls == [4]


def test_traffic_is_that_of_all_steps() -> None:
    steps: list[tuple[int, int]] = []

    def cost(rows: int, context: int) -> Cost:
        steps.append((rows, context))
        return Cost(weights=1000, k=10 * context, v=context)

    llm: Any = SimpleNamespace(model=SimpleNamespace(cost=cost, n_batch=8))
    traffic = Traffic.of(llm, case(n_prompt=20, n_ubatch=8, n_depth=100))
    assert steps == [(8, 108), (8, 116), (4, 120)]
    assert (traffic.weights, traffic.k, traffic.v) == (3000, 3440, 344)
    traffic = Traffic.of(llm, case(n_gen=5, n_depth=100))  # contexts 101 to 105
    assert (traffic.weights, traffic.k, traffic.v) == (5000, 5150, 515)
    assert traffic.total == 10665
