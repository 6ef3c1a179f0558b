"""Many requests at once, on a fake model that fails where a page is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from fake_pages import N_VOCAB, POISON, FakeLLM
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from schedules import RUNS, Inexact, World, request

from pyllm.engine.budget import Budget
from pyllm.engine.page_table import PoolFull
from pyllm.engine.parking import Parking
from pyllm.engine.request import Request
from pyllm.engine.sampler import SamplingParams
from pyllm.engine.scheduler import QueueFull, Scheduler
from pyllm.kernels.shapes import PAGE
from pyllm.models.errors import UsageError

WORDS = range(3, N_VOCAB)
PARKING: list[Callable[[], Parking | None]] = [
    lambda: None, Parking, Inexact, lambda: Parking(limit=5000, warn=lambda _: None),
]  # fmt: skip


class Schedules(RuleBasedStateMachine):
    """Requests arrive, are cancelled, and steps fail; every answer is the one that it has alone."""

    @initialize(
        seed=st.integers(0, 1 << 30),
        n_pages=st.integers(1, 14),
        sequences=st.integers(1, 5),
        n_batch=st.sampled_from([1, 3, 40, 64, 96, 300]),
        windows=st.sampled_from([(), (), (24,), (100, 7)]),
        overcommit=st.booleans(),
        grows=st.booleans(),
        checked=st.booleans(),
        apart=st.booleans(),
        ctx=st.integers(1, 300),
        parking=st.sampled_from(PARKING),
    )
    def start(
        self,
        seed: int,
        n_pages: int,
        sequences: int,
        n_batch: int,
        windows: tuple[int, ...],
        overcommit: bool,
        grows: bool,
        checked: bool,
        apart: bool,
        ctx: int,
        parking: Callable[[], Parking | None],
    ) -> None:
        self.llm = FakeLLM(
            n_pages, n_batch=n_batch, sequences=sequences, windows=windows, checked=checked, sequence_ctx=ctx
        )
        self.world = World(self.llm, self.alone, overcommit=overcommit, seed=seed, parking=parking())
        self.world.scheduler.apart = apart
        self.grows = grows
        self.random = random.Random(seed)
        self.families = [self.random.choices(WORDS, k=300) for _ in range(2)]

    def alone(self, request: Request) -> tuple[list[int], str | None]:
        return self.llm.alone(request.prompt, request.params.max_tokens)

    def _request(self, draw: random.Random) -> Request:
        return request(draw, self.families, self.llm.sequence_ctx, WORDS, grows=self.grows)

    @rule(n=st.integers(1, 5), seed=st.integers(0, 1 << 30))
    def add(self, n: int, seed: int) -> None:
        for i in range(n):
            self.world.add(self._request(random.Random(seed + i)))

    @rule()
    def add_broken(self) -> None:
        made = self._request(self.random)
        if made.params.max_tokens:
            made.prompt[-1] = POISON  # type: ignore[index]
            self.world.add(made)

    @rule(n=st.integers(0, 50))
    def cancel(self, n: int) -> None:
        if self.world.asked:
            self.world.cancel(n % len(self.world.asked))
            self.world.check()

    @rule(n=st.sampled_from([1, 2, 5, 40]))
    def step(self, n: int) -> None:
        self.world.step(n)

    @rule()
    def fail(self) -> None:
        def before() -> None:
            raise OSError("the disk is gone")

        self.llm.before = before
        with suppress(OSError):
            self.world.step()
        self.llm.before = lambda: None
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=RUNS or 150,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=list(HealthCheck),
)


# One thing at a time ------------------------------------------------------------------------------------------------

TEXT = [3 + (7 * i + i // 5) % 29 for i in range(20 * PAGE)]
GREEDY = SamplingParams(temperature=0, max_tokens=4)


def ask(
    n: int, max_tokens: int = 4, *, start: int = 0, priority: int = 0, salt: int = 0, end: Sequence[int] = ()
) -> Request:
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    return Request([*TEXT[start : start + n - len(end)], *end], params, priority, salt)


def world(llm: FakeLLM, *, overcommit: bool = False) -> World:
    made = World(llm, lambda r: llm.alone(r.prompt, r.params.max_tokens), overcommit=overcommit)
    made.scheduler.budget = Budget(None)
    llm.model.ends = False
    return made


@pytest.mark.parametrize("n", [1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE - 1, 4 * PAGE])
@pytest.mark.parametrize("max_tokens", [0, 1, 2, -1])
def test_prompts_up_to_the_context(n: int, max_tokens: int) -> None:
    w = world(FakeLLM(4, sequence_ctx=4 * PAGE))
    w.add(ask(n, max_tokens))
    w.finish()


def test_a_prompt_in_the_cache_is_computed_from_its_last_token() -> None:
    w = world(FakeLLM(8))
    for _ in range(2):
        id = w.add(ask(2 * PAGE + 1))
        w.step(10)
    assert (w.asked[id].timings.prompt_n, w.asked[id].timings.reused_n) == (1, 2 * PAGE)
    id = w.add(ask(2 * PAGE))  # all of it is there, but the last token is always taken in
    w.step(10)
    assert (w.asked[id].timings.prompt_n, w.asked[id].timings.reused_n) == (PAGE, PAGE)
    w.finish()


def test_salts_keep_requests_apart() -> None:
    w = world(FakeLLM(12))
    for salt in (0, 1):
        id = w.add(ask(3 * PAGE, salt=salt))
        w.step(10)
    assert w.asked[id].timings.reused_n == 0
    w.finish()


@pytest.mark.parametrize("n_batch", [16, 64, 100])
def test_a_beginning_that_requests_share_is_computed_once(n_batch: int) -> None:
    """They arrive at once, and with different ends."""
    w = world(FakeLLM(20, n_batch=n_batch, sequences=4))
    for i in range(4):
        w.add(ask(3 * PAGE + 5, end=[3 + i] * 3))
    w.finish()
    assert w.counts["computed"] == 3 * PAGE + 4 * 5


def test_prompts_are_taken_in_in_turn() -> None:
    w = world(FakeLLM(20, n_batch=10, sequences=3))
    for i in range(3):
        w.add(ask(100, start=i))
    w.step(6)
    assert [r.own.n_past for r in w.scheduler.running] == [20, 20, 20]
    w.finish()


def test_more_sequences_than_a_step_has_rows() -> None:
    w = world(FakeLLM(20, n_batch=2, sequences=5))
    for i in range(5):
        w.add(ask(5, 20, start=i))
    w.step(5)
    assert len(w.scheduler.running) == 2
    w.finish()


def test_requests_of_a_smaller_priority_number_go_first() -> None:
    w = world(FakeLLM(20, sequences=1))
    ids = [w.add(ask(5, start=i, priority=p)) for i, p in enumerate((1, 0, -1, 0))]
    ended = []
    while not w.scheduler.idle:
        w.step()
        ended += [id for id in ids if w.asked[id].ended and id not in ended]
    assert ended == [2, 1, 3, 0]


def test_what_is_admitted_can_finish() -> None:
    w = world(FakeLLM(8, sequences=5))
    for i in range(5):
        w.add(ask(10, 3 * PAGE, start=i))
    w.step()
    assert len(w.scheduler.running) == 2  # four pages each
    w.finish()
    assert w.counts["parked"] == 0


def test_a_large_request_is_not_overtaken() -> None:
    w = world(FakeLLM(8, sequences=5))
    small = w.add(ask(10, 50))
    large = w.add(ask(8 * PAGE, 1, start=1))
    later = [w.add(ask(10, 50, start=2 + i)) for i in range(3)]
    while not w.asked[large].ended:
        w.step()
        assert not any(w.asked[id].tokens for id in later)
    assert w.asked[small].ended
    w.finish()


def test_overcommitted_requests_wait_and_come_back() -> None:
    w = world(FakeLLM(5, sequences=3, sequence_ctx=5 * PAGE), overcommit=True)
    ids = [w.add(ask(10, 4 * PAGE, start=i)) for i in range(3)]
    w.finish()
    assert 0 < w.counts["parked"] <= 6  # not thrown out again as soon as it is back
    first, *rest = (w.asked[id].timings for id in ids)
    assert (first.prompt_n, first.reused_n, first.decoded_n) == (10, 0, 4 * PAGE - 1)
    for times in rest:
        assert times.generated_n == 4 * PAGE
        assert times.prompt_n + times.reused_n + times.decoded_n >= 10 + 4 * PAGE - 1


@pytest.mark.parametrize("overcommit", [False, True])
def test_pages_that_others_hold(overcommit: bool) -> None:
    """A session beside the scheduler has taken them: a clear refusal, and later requests are served."""
    llm = FakeLLM(4, ends=False)
    other = llm.sequence()
    other.reserve(3 * PAGE)
    scheduler = Scheduler(llm, overcommit=overcommit)
    scheduler.add(ask(3 * PAGE, 1))
    (update,) = scheduler.step()
    assert isinstance(update.error, PoolFull)
    assert f"{3 * PAGE} tokens is needed, but 64 of 256 are free" in str(update.error)
    scheduler.add(ask(30, 100))  # with overcommit: as long as there is room
    while not scheduler.idle:
        updates = scheduler.step()
    assert isinstance(updates[-1].error, PoolFull)
    other.rewind(0)
    scheduler.add(ask(30, 100))
    while not scheduler.idle:
        updates = scheduler.step()
    assert updates[-1].piece.stop == "limit"
    scheduler.close()
    assert llm.pools[0].free == 4


@pytest.mark.parametrize("checked", [False, True])
def test_broken_numbers_end_one_request(checked: bool) -> None:
    w = world(FakeLLM(20, checked=checked))
    ids = [w.add(ask(20, 30, start=i, end=[POISON] if i == 1 else [])) for i in range(4)]
    w.finish()
    assert [w.asked[id].failed for id in ids] == [False, True, False, False]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, MemoryError])
def test_a_step_that_fails_can_be_tried_again(error: type[BaseException]) -> None:
    w = world(FakeLLM(20))
    ids = [w.add(ask(70, 30, start=i)) for i in range(3)]
    w.step(3)
    w.cancel(ids[2])

    def before() -> None:
        raise error

    for _ in range(2):
        w.llm.before = before
        with pytest.raises(error):
            w.scheduler.step()
        w.check()
        w.llm.before = lambda: None
    w.step()
    assert w.asked[ids[2]].ended  # its end was not lost
    w.finish()


@pytest.mark.parametrize("n", [PAGE - 1, PAGE, 2 * PAGE + 5])
def test_a_step_that_ends_before_its_tokens_are_chosen(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(FakeLLM(20))
    for i in range(3):
        w.add(ask(n + i, 5, start=i))

    def choose(*_: object) -> list[int]:
        raise KeyboardInterrupt

    for steps in (0, 1, 2):
        w.step(steps)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(w.llm, "choose", choose)
            while True:
                w.step()
    w.finish()


def test_cancelled_while_it_waits_runs_or_has_ended() -> None:
    w = world(FakeLLM(4, n_batch=16, sequences=2))
    ids = [w.add(ask(PAGE + 10, PAGE, start=i)) for i in range(3)]
    w.step(2)
    for id in ids:
        w.cancel(id)
        w.cancel(id)
    w.step()
    assert all(w.asked[id].ended for id in ids)
    w.cancel(ids[0])
    w.scheduler.cancel(99)
    assert w.scheduler.idle
    w.close()


def test_a_queue_has_a_limit() -> None:
    scheduler = Scheduler(FakeLLM(20, sequences=2), max_queue=1)
    for i in range(3):
        scheduler.add(ask(10, start=i))
    with pytest.raises(QueueFull, match=r"3 requests are under way: 2 can run at once and 1 may wait; .* max_queue"):
        scheduler.add(ask(10))
    while not scheduler.idle:
        scheduler.step()
    scheduler.add(ask(10))


def test_samplers_are_made_when_requests_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    llm, made = FakeLLM(20, sequences=2), []
    make = llm.sampler
    monkeypatch.setattr(llm, "sampler", lambda params: made.append(params.seed) or make(params))
    scheduler = Scheduler(llm)
    for i in range(5):
        scheduler.add(Request([3 + i], SamplingParams(temperature=0, max_tokens=3, seed=-1)))
    seeds = [r.params.seed for r in scheduler.waiting]
    assert len(set(seeds)) == 5 and not made, "seeds are known before"
    scheduler.step()
    assert made == seeds[:2]
    while not scheduler.idle:
        scheduler.step()
    assert made == seeds


def test_what_can_never_run_is_refused() -> None:
    llm = FakeLLM(20, sequence_ctx=100)
    scheduler = Scheduler(llm)
    for prompt, problem in (
        ([], "empty"),
        ([3] * 101, "101 tokens, a sequence at most 100"),
        ([N_VOCAB], "not from 0 to 31"),
        ([-1], "not from 0"),
    ):
        with pytest.raises(UsageError, match=problem):
            scheduler.add(Request(prompt, GREEDY))
    for options in ({"max_step": 1.0}, {"max_step": float("nan")}, {"max_queue": -1}):
        with pytest.raises(UsageError, match=next(iter(options))):
            Scheduler(llm, **options)  # type: ignore[arg-type]
    assert scheduler.idle
    assert scheduler.step() == []


def test_a_window_pool_full_of_kept_pages_gives_them_up() -> None:
    w = world(FakeLLM(16, windows=(24,), sequences=1, n_batch=64))
    for i in range(6):
        w.add(ask(5 * PAGE, 10, start=i))
    w.finish()


def test_times_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second: two for the prompt, then one for each further token."""
    clock = [0.0]
    for module in ("scheduler", "request"):
        monkeypatch.setattr(f"pyllm.engine.{module}.perf_counter", lambda: clock[0])
    llm = FakeLLM(20, n_batch=50)
    w = world(llm)

    def before() -> None:
        clock[0] += 1

    llm.before = before
    id = w.add(ask(100, 4))
    w.step(2)
    w.finish()
    times = w.asked[id].timings
    assert (times.prompt, times.first, times.decode) == (2, 2, 3)
    assert (times.prompt_n, times.decoded_n, times.attended_n) == (100, 3, 101 + 102 + 103)
