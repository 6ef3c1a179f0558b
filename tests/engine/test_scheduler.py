"""Many requests at once, on a fake model that fails where a page is wrong: random schedules."""

from __future__ import annotations

import random
from contextlib import suppress

from fake_pages import N_VOCAB, POISON, FakeLLM
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from schedules import RUNS, World, request

from pyllm.engine.request import Request
from pyllm.kernels.shapes import PAGE

WORDS = range(3, N_VOCAB)


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
        ctx=st.integers(1, 300),
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
        ctx: int,
    ) -> None:
        self.llm = FakeLLM(
            n_pages, n_batch=n_batch, sequences=sequences, windows=windows, checked=checked, sequence_ctx=ctx
        )
        self.world = World(self.llm, self.alone, overcommit=overcommit, seed=seed)
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
    max_examples=RUNS or 100,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=list(HealthCheck),
)
assert PAGE == 64  # the lengths above are chosen for it
