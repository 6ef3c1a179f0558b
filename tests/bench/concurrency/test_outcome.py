"""The outcome of a made-up study: sentences, tables, limits, another machine, and the page with its picture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from pyllm.bench.concurrency import concurrency_page
from pyllm.bench.concurrency.claims import claims
from pyllm.bench.concurrency.outcome import Outcome
from pyllm.bench.concurrency.sessions import Memory
from pyllm.bench.concurrency.step_model import Machine, StepModel
from pyllm.bench.concurrency.trials import Options, Trial, trials
from pyllm.models.arch.registry import read_config
from pyllm.models.file.gguf import GGUF

LOSS = {"f16": 0.0, "q8_0": 0.0004, "q4_0": 0.03}
PACE = {"f16": 4e-6, "q8_0": 2e-6, "q4_0": 1e-6}


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    gguf = GGUF.open(tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf", n_ctx=8192))
    return Memory(gguf, read_config(gguf))


@pytest.fixture
def options(memory: Memory) -> Options:
    least = memory.taken(Options(("f16",), (), "auto", 0, 0, None, 0, 0, 0, 0).cache("f16", "f16"), 512, 1)
    return Options(("f16", "q8_0", "q4_0"), (512, 2048, 8192), "auto", least + (20 << 20), 8, None, 64, 64, 0, 2)


@pytest.fixture
def outcome(options: Options, memory: Memory) -> Outcome:
    results: dict[str, dict[str, Any]] = {}

    def room(cache: object, depth: int) -> int:
        return 8

    for _ in range(2):  # those that arrive at random come with the closed loop's results
        results |= {t.key: made(t) for t in trials(options, room, results)}
    heading = {"model": "tiny", "file": "tiny.gguf", "cpu": "a CPU"}
    return Outcome(heading, results, options, memory, [Machine(16, 60e9, 32 << 30)])


def model(trial: Trial) -> StepModel:
    return StepModel(0.01, 0.001, PACE[trial.cache.k] + PACE[trial.cache.v] / 3)


def made(trial: Trial) -> dict[str, Any]:
    if trial.kind == "loss":
        return {"kld": 0.0001 + 2 * LOSS[trial.cache.k] + LOSS[trial.cache.v], "error": 0.0, "others": 0.0}
    if trial.kind == "steps":
        found = [(n, model(trial).seconds(n, trial.depth)) for n in (1, 2, 4, 8)]
        rest = {"depth": trial.depth, "weights": 1e6, "k": 1e5, "v": 1e5, "bus": 0.9, "unit": 0.2}
        points = [{"sequences": n, "seconds": t, "low": 0.9 * t, "high": 1.2 * t, "p99": t} | rest for n, t in found]
        return {"points": points, "others": 0.5}
    rates = {"answers": 9, "answers_per_s": 1 + trial.load, "tokens_per_s": 64.0, "arrivals_per_s": 2.0, "others": 0.0}
    return {**rates, "itl_p50": 0.02, "itl_p99": 0.05, "ttft_p50": 0.5, "ttft_p99": 1.5}


def test_tables(outcome: Outcome) -> None:
    by = {table.caption.partition(":")[0]: table for table in outcome.tables()}
    assert list(by) == [
        "Sessions, speed and limits", "The most sessions at a loss", "Step by step", "Users in a closed loop",
        "Requests that arrive at random", "The model of a step", "Computed, not measured",
    ]  # fmt: skip
    assert [len(table.rows) for table in by.values()] == [27, 9, 10, 27 * 4, 27 * 3, 9, 27]
    for name, table in by.items():
        assert all(len(row) == len(table.columns) for row in table.rows), name
        assert outcome.note(table.caption)
    for row in by["The model of a step"].rows:
        assert row[4:7] == ["0%, 0%", "0%, 0%", "4"], "points of a model fit it"
    best = [row[2] for row in by["The most sessions at a loss"].rows]
    assert best[:3] == ["f16/q8_0", "q8_0/q8_0", "q8_0/q4_0"]
    assert {row[1] for row in by["Step by step"].rows[::5]} == {"f16/f16"}


def test_sessions_and_limits(outcome: Outcome, options: Options) -> None:
    first, last = options.caches[:2]
    assert outcome.sessions(last, 2048) > 2 * outcome.sessions(first, 2048)
    assert (outcome.loss(first), outcome.loss(last)) == pytest.approx((0.0001, 0.0901))
    outcome.heading = {**outcome.heading, "arithmetic": "fast"}
    assert (outcome.loss(first), outcome.loss(last)) == pytest.approx((0, 0.09)), "above the noise"
    limits = outcome.limits(last, 2048)
    assert limits is not None and limits.binding == "bus" and limits.memory > limits.sequences
    outcome.options = replace(options, latency=0.02)
    hasty = outcome.limits(last, 2048)
    assert hasty is not None and hasty.binding == "latency" and hasty.sequences < limits.sequences
    outcome.options = replace(options, memory=outcome.memory.taken(last, 2048, 1))
    small = outcome.limits(last, 2048)
    assert small is not None and (small.binding, small.sequences) == ("memory", 1)


def test_the_report(outcome: Outcome, tmp_path: Path) -> None:
    out = io.StringIO()
    concurrency_page.report(outcome).show(out)
    said = " ".join(out.getvalue().split())
    assert "V first: f16/q8_0 in place of f16/f16 gives 1." in said and "points that it did not see" in said
    assert "Common claims" in said
    assert "Other programs took up to 50%" in "".join(outcome.warnings())
    page = concurrency_page.write(outcome, tmp_path).read_text()
    assert page.count("<table>") == 7 and page.count("<svg") == 1 and "Computed, not measured: 16 cores" in page


def test_claims(outcome: Outcome) -> None:
    by = {claim.said.partition(",")[0]: claim for claim in claims(outcome)}
    assert [claim.verdict for claim in by.values()] == [
        "half: K buys more speed, but V no more sessions", "holds for the bus", "holds", "more here", "holds",
    ]  # fmt: skip
    assert "q4_0 takes 56% off in K and 19% in V" in by["V's gain in compute is small"].found
    assert all(claim.found.endswith(".") and "nan" not in claim.found for claim in by.values())


def test_claims_about_speed_follow_the_steps(outcome: Outcome) -> None:
    for result in outcome.results.values():
        for point in result.get("points", ()):
            del point["bus"]
            point.update(seconds=1.0, low=1.0, high=1.0)
    found = [claim.verdict for claim in claims(outcome)]
    assert found[0] == "does not hold: both buy the same" and found[-2:] == ["less here", "holds"]


def partly(outcome: Outcome) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {}
    for key, result in outcome.results.items():
        found[key] = result
        yield dict(found)


def test_any_part_of_a_study_has_a_report(outcome: Outcome) -> None:
    for results in list(partly(outcome))[:60:7]:
        part = Outcome(outcome.heading, results, outcome.options, outcome.memory, outcome.machines)
        for table in part.tables():
            assert table.rows
        assert any("hold" in sentence for sentence in part.sentences())
        assert len(list(claims(part))) <= 5
    assert not list(Outcome({}, {}, outcome.options, outcome.memory).tables())
