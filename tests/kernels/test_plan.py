"""Plans and teams: every item once, barriers that hold, replays, stamps, an end."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.kernels.lang.jit import kernel, record
from pyllm.kernels.lang.memory import peek_i64, poke_i64
from pyllm.kernels.lang.sync import fetch_add, give_way, load_acquire
from pyllm.kernels.plan import Cost, Plan, Team, compile_kernels, now

THREADS = pytest.mark.parametrize("threads", [1, 2, 3, 4])


@kernel(record(counts="ptr", who="ptr"))
def count(a, begin, end, thread):  # type: ignore[no-untyped-def]
    for item in range(begin, end):
        fetch_add(a.counts + 8 * item, 1)
        poke_i64(a.who + 8 * item, thread)


@kernel(record(x="ptr", y="ptr", n="int"))
def mix(a, begin, end, thread):  # type: ignore[no-untyped-def]
    """y[i] = x[i] + x[elsewhere]: wrong as soon as one item of the operation before is missing."""
    for item in range(begin, end):
        other = (item * 7 + 3) % a.n
        poke_i64(a.y + 8 * item, (peek_i64(a.x + 8 * item) + peek_i64(a.x + 8 * other)) % 1000003)


@kernel(record(flag="ptr", seen="ptr"))
def wait(a, begin, end, thread):  # type: ignore[no-untyped-def]
    """Wait for the flag, but not for ever."""
    tries = 0
    while load_acquire(a.flag) == 0 and tries < 3_000_000:
        give_way()
        tries += 1
    poke_i64(a.seen, load_acquire(a.flag))


@kernel(record(flag="ptr"))
def raise_flag(a, begin, end, thread):  # type: ignore[no-untyped-def]
    fetch_add(a.flag, 1)


def mixed(x: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        x = (x + x[(np.arange(len(x)) * 7 + 3) % len(x)]) % 1000003
    return x


@THREADS
@settings(deadline=None, max_examples=20)
@given(ops=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3), st.integers(1, 60), st.booleans()), min_size=1))
def test_every_item_once(threads: int, ops: list[tuple[int, int, int, bool]]) -> None:
    plan, results = Plan(), []
    for items, times, grain, barrier in ops:
        counts, who = np.zeros(150, np.int64), np.zeros(150, np.int64)
        plan.add("count", count, items=items, times=np.array([times]), grain=grain, barrier=barrier, counts=counts,
                 who=who)  # fmt: skip
        results.append((items * times, counts, who))
    team = Team(threads)
    for replay in (1, 2, 3):
        team.run(plan)
        for items, counts, who in results:
            np.testing.assert_array_equal(counts, replay * (np.arange(150) < items))
            assert who.max() < threads
    team.close()


@THREADS
def test_a_closed_team_refuses_to_run(threads: int) -> None:
    """It would wait for ever for threads that have ended."""
    plan, counts = Plan(), np.zeros(150, np.int64)
    plan.add("count", count, items=3, counts=counts, who=np.zeros(150, np.int64))
    team = Team(threads)
    team.run(plan)
    team.close()
    with pytest.raises(RuntimeError, match="closed"):
        team.run(plan)
    assert counts[:3].tolist() == [1, 1, 1]


@THREADS
def test_barriers_hold(threads: int) -> None:
    n, ops = 37, 1100
    first = np.arange(n, dtype=np.int64)
    buffers = [first, *(np.zeros(n, np.int64) for _ in range(ops))]
    plan = Plan()
    for i in range(ops):
        plan.add("mix", mix, items=n, grain=1 + i % 5, solo=i % 7 in (3, 5, 6), x=buffers[i], y=buffers[i + 1], n=n)
    team = Team(threads)
    for replay in range(5):
        first[:] = np.arange(n) + replay
        team.run(plan)
        np.testing.assert_array_equal(buffers[-1], mixed(first, ops))
    team.close()


@THREADS
def test_a_barrier_waits_for_all_before_it(threads: int) -> None:
    """Two halves without a barrier between, then an operation that reads both; often, so that it would be seen."""
    n = 16
    x, y, z = np.arange(2 * n), np.zeros(2 * n, np.int64), np.zeros(2 * n, np.int64)
    plan = Plan()
    for _ in range(100):
        plan.add("half", mix, items=n, barrier=False, x=x[:n], y=y[:n], n=n)
        plan.add("half", mix, items=n, barrier=True, x=x[n:], y=y[n:], n=n)
        plan.add("both", mix, items=2 * n, x=y, y=z, n=2 * n)
        plan.add("back", mix, items=2 * n, x=z, y=x, n=2 * n)
    team = Team(threads)
    team.run(plan)
    team.close()
    expected = np.arange(2 * n)
    for _ in range(100):
        expected = np.concatenate([mixed(expected[:n], 1), mixed(expected[n:], 1)])
        expected = mixed(expected, 2)
    np.testing.assert_array_equal(x, expected)


def test_without_a_barrier_the_next_starts_early() -> None:
    flag, seen = np.zeros(1, np.int64), np.zeros(1, np.int64)
    plan = Plan()
    plan.add("wait", wait, items=1, barrier=False, flag=flag, seen=seen)
    plan.add("raise", raise_flag, items=1, flag=flag)
    team = Team(2)
    team.run(plan)
    team.close()
    assert seen[0] == 1


@THREADS
def test_what_a_step_sets_counts_at_the_replay(threads: int) -> None:
    counts, who, times = np.zeros(64, np.int64), np.zeros(64, np.int64), np.zeros(1, np.int64)
    plan = Plan()
    plan.add("count", count, items=16, times=times, counts=counts, who=who)
    team = Team(threads)
    for times[0], items in ((2, 32), (0, 0), (4, 64)):
        counts[:] = 0
        team.run(plan)
        assert counts.sum() == items
    team.close()


@THREADS
def test_stamps_and_plans_that_take_turns(threads: int) -> None:
    plans, results = [Plan(), Plan()], [np.zeros(8, np.int64), np.zeros(8, np.int64)]
    for plan, counts in zip(plans, results, strict=True):
        for _ in range(3):
            plan.add("count", count, items=8, counts=counts, who=np.zeros(8, np.int64))
    team = Team(threads)
    for i in range(300):
        stamps = np.zeros((1 + threads, 4), np.int64) if i % 3 == 0 else None
        team.run(plans[i % 2], stamps)
        if stamps is not None:
            team.rest()
            clock, waits = stamps[0], stamps[1:]
            assert clock[0] > 0 and (np.diff(clock) >= 0).all()
            assert (waits[:, 0] == 0).all() and (waits[:, 1:] > 0).all(), "each thread tells of each barrier"
            assert (waits[:, 1:] <= clock[-1] - clock[0] + now()).all()
        if i % 100 == 0:
            time.sleep(0.02)  # the others fall asleep
    team.close()
    assert [set(counts) for counts in results] == [{450}, {450}]


def test_the_one_who_waits_says_how_long() -> None:
    """Two halves, of which one takes its time: the other thread waits for it, and stamps tell the whole."""
    flag, seen = np.zeros(1, np.int64), np.zeros(1, np.int64)
    plan = Plan()
    plan.add("wait", wait, items=1, flag=flag, seen=seen)  # in vain
    plan.add("raise", raise_flag, items=1, solo=True, flag=flag)
    team, stamps = Team(2), np.zeros((3, 3), np.int64)
    team.run(plan, stamps)
    team.rest()
    team.close()
    assert (stamps[1:, 1] == 0).all(), "the barrier comes after what is solo"
    assert stamps[1:, 2].max() > 0.9 * (stamps[0, 2] - stamps[0, 0]) > 10 * stamps[1:, 2].min() > 0


def test_closing_ends_the_threads() -> None:
    before = set(threading.enumerate())
    for used in (True, False):
        team, plan = Team(3), Plan()
        plan.add("count", count, items=1, counts=np.zeros(1, np.int64), who=np.zeros(1, np.int64))
        if used:
            team.run(plan)
            assert len(set(threading.enumerate()) - before) == 2
        team.close()
        assert set(threading.enumerate()) == before


def test_a_plan_knows_its_kernels_and_costs() -> None:
    plan, x = Plan(), np.zeros(8, np.int64)
    plan.add("a", count, items=1, cost=lambda rows, context: Cost(k=rows * context, macs_i8=5), counts=x, who=x)
    plan.add("b", count, items=1, cost=lambda rows, context: Cost(weights=7, macs_i8=rows), counts=x, who=x)
    plan.add("c", mix, items=1, x=x, y=x, n=1)
    assert plan.kernels == [count, mix]
    assert plan.cost(3, 10) == Cost(weights=7, k=30, macs_i8=8)
    seen: list[tuple[int, int, str]] = []
    compile_kernels(plan.kernels, lambda *step: seen.append(step))
    assert seen == [(0, 2, "count"), (1, 2, "mix"), (2, 2, "")]
    assert count.compiled


@THREADS
def test_solo_operations_are_done_by_one_thread(threads: int) -> None:
    found = [np.full(40, -1) for _ in range(20)]
    plan, counts = Plan(), np.zeros(40, np.int64)
    for who in found:
        plan.add("count", count, items=40, counts=counts, who=np.zeros(40, np.int64))
        plan.add("solo", count, items=40, solo=True, counts=counts, who=who)
    team = Team(threads)
    team.run(plan)
    team.close()
    assert set(counts) == {40}
    assert all(len(set(who)) == 1 and 0 <= who[0] < threads for who in found)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no threads")
def test_threads_are_pinned() -> None:
    before, counts = os.sched_getaffinity(0), np.zeros(64, np.int64)
    cpus = sorted(before)[:2]
    team, plan = Team(len(cpus)), Plan()
    plan.add("count", count, items=64, counts=counts, who=np.zeros(64, np.int64))
    try:
        team.pin(cpus)
        where = [os.sched_getaffinity(t) for t in (0, *(worker.native_id or 0 for worker in team._workers))]
        team.run(plan)
    finally:
        team.close()
        os.sched_setaffinity(0, before)
    assert where == [{cpu} for cpu in cpus] and (counts == 1).all()


def test_operands_must_be_those_of_the_kernel() -> None:
    with pytest.raises(AssertionError, match="who"):
        Plan().add("count", count, items=1, counts=np.zeros(1, np.int64))
