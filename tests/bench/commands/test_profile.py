"""`pyllm profile` on a tiny model: what it counts, how that adds up, and what a user sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_bench
import numpy as np
import pytest
import tiny
from given_roofs import GIVEN

from pyllm.__main__ import main
from pyllm.bench.bus import operations, pictures, profiling, saturation, views
from pyllm.bench.bus.operations import Operation
from pyllm.bench.bus.profiling import Profile
from pyllm.bench.commands import profile
from pyllm.bench.machine import bandwidth, roofs
from pyllm.bench.machine.counters import Counters
from pyllm.bench.speed import engines
from pyllm.bench.speed.cases import Case
from pyllm.bench.speed.engines import Models
from pyllm.engine.llm import LLM
from pyllm.kernels.formats.table import FORMATS
from pyllm.kernels.lang import cpu
from pyllm.kernels.plan import Cost, Team
from pyllm.models.errors import FitError, UsageError
from pyllm.models.file.gguf import GGUF

TYPES = {"": "q8_0", "ffn_down": "q4_1", "attn_v": "f16"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf", types=TYPES)


@pytest.fixture(autouse=True)
def given_roofs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofs, "of_this_machine", lambda *args, **more: GIVEN)
    monkeypatch.setattr(bandwidth, "buffer_bytes", lambda: bandwidth.CHUNK)


def command(capsys: pytest.CaptureFixture[str], flags: str, *argv: str) -> tuple[int, str, str]:
    code = main(["profile", *flags.split(), *argv])
    out, err = capsys.readouterr()
    return code, out, err


def case(model: Path, **changes: Any) -> Case:
    usual = {"n_gen": 1, "n_batch": 64, "n_ubatch": 64, "type_k": "q8_0", "cache_rotate": "none", "n_threads": 2}
    return replace(fake_bench.case(model=model, **usual), **changes)


@pytest.mark.parametrize(("k_type", "v_type"), [("f16", "f16"), ("q8_0", "f16")])
@pytest.mark.parametrize(("rows", "depth"), [(1, 0), (1, 200), (48, 0), (48, 200)])
def test_what_is_counted_is_what_lies_in_the_file_and_in_the_cache(
    model: Path, k_type: str, v_type: str, rows: int, depth: int
) -> None:
    """Compare bytes and multiply-adds, both exactly, with what follows from the file and the architecture's formula."""
    g = GGUF.open(model)
    llm = LLM(g, n_ctx=256, cache_type_k=k_type, cache_type_v=v_type, n_threads=1, n_batch=64)
    try:
        found = llm.model.cost(rows, depth + rows)
    finally:
        llm.close()
    layers, heads, kv_heads, dim, vocabulary = 2, 4, 2, 32, g.tensors["output.weight"].shape[0]
    matrices = {name: t for name, t in g.tensors.items() if len(t.shape) == 2 and name != "token_embd.weight"}
    assert found.weights == sum(t.data.nbytes for t in matrices.values())
    blocks = -(-rows // 48) if rows > 1 else 1  # 96 query vectors in groups of 2 go through the cache together
    for side, name in ((found.k, k_type), (found.v, v_type)):
        assert side == layers * blocks * (depth + rows) * kv_heads * FORMATS[name].row_bytes(dim)
    seen = sum(depth + row + 1 for row in range(rows))
    linear = "bf16" if cpu.AMX and rows > 1 else "i8"
    products = {"i8": 0, "bf16": 0, "f32": 0}
    whole = linear == "bf16" and "f32" not in (k_type, v_type)
    for kind in (linear,) * 2 if whole else ("i8" if FORMATS[k_type].bits else "f32", "f32"):
        products[kind] += layers * seen * heads * dim
    for name, t in matrices.items():
        times = 1 if name == "output.weight" else rows
        kind = "i8" if name == "output.weight" else linear
        products[kind if FORMATS[t.type].bits else "f32"] += times * t.shape[0] * t.shape[1]
    wanted = min(rows, llm.model.max_logits)
    products["i8"] += (wanted - 1) * vocabulary * matrices["output.weight"].shape[1]
    assert {kind: getattr(found, f"macs_{kind}") for kind in products} == products


def test_the_operations_add_up_to_the_step() -> None:
    """Replay a plan of bare reads, long enough that what is around it is negligible.

    On a busy machine one of many tries must succeed; a single thread waits for no other that has lost its core.
    """
    team = Team(1)
    plan, _ = roofs._stream("read", roofs.aligned(1 << 16), 1 << 16, 1)
    plan.ops *= 3
    stamps = np.zeros((2, 1 + len(plan.ops)), np.int64)
    difference = 1.0
    for _ in range(200):
        begin = profiling.clocks()
        team.run(plan, stamps)
        end = profiling.clocks()
        took, waited = operations.timed(plan, stamps)
        assert (waited >= 0).all() and (waited <= took).all()
        difference = min(difference, abs(took.sum() / (end[1] - begin[1]) - 1))
        if difference < 0.03:
            break
    team.close()
    assert difference < 0.03


def test_a_profile(model: Path) -> None:
    cases = [case(model), case(model, n_depth=150), case(model, n_prompt=64, n_gen=0, n_depth=150)]
    found: list[Profile] = []
    profiling.profile(cases, Models(), 2, Counters(), found)
    assert [p.case for p in found] == cases and [p.rows for p in found] == [1, 1, 64]
    for p in found:
        names = [op.name for op in p.operations]
        assert {"embed", "norm", "attn_q", "ffn_down", "logits", *(f"attend {part}" for part in operations.PARTS)} <= {
            *names
        }
        assert p.planned + p.python == pytest.approx(p.whole) and 0 < p.planned <= p.whole * 1.001
        assert all(0 <= op.waiting <= op.seconds for op in p.operations)
        llm_cost = sum((op.cost for op in p.operations), Cost())
        assert llm_cost.k == 2 * (p.context if not p.prefill else 2 * p.context) * 2 * 34
        assert p.part("norm").times == 5 and p.part("attn_q").times == 2 and p.part("nothing").seconds == 0
        assert p.tokens_per_second == p.rows / p.seconds and p.gbps > 0
        assert (p.sampling > 0) == (not p.prefill)
    q, soft, v = (found[1].part(f"attend {part}") for part in operations.PARTS)
    assert (q.cost.k, v.cost.k, q.cost.v) == (151 * 2 * 2 * 34, 0, 0) and v.cost.v == 151 * 2 * 2 * 64
    assert q.cost.macs_i8 == q.macs == v.cost.macs_f32 == v.macs == 2 * 151 * 4 * 32 and not soft.macs
    assert profiling.stamps_cost(found) > -1


def test_a_cache_is_filled_with_copies(model: Path) -> None:
    llm = LLM(model, n_ctx=1024, cache_type_k="q8_0", n_threads=1, n_batch=64)
    session = llm.session()
    tokens = engines.random_tokens(llm.config.n_vocab, 900)
    engines.repeated(session, tokens, lambda *_: None)
    assert session.n_past == 900
    layer = llm.model.kv.layers[1]
    pages = layer.v_pool.reshape(2, llm.model.kv.n_pages, -1)
    table = session.sequence.tables[0].pages
    for i in range(engines.REPEATED // 64, 14):
        assert (pages[:, table[i]] == pages[:, table[i % 8]]).all() and pages[:, table[i]].any()
    assert np.isfinite(session.decode(1)).all()
    llm.close()


def made(
    threads: int = 1, k: str = "f16", v: str = "f16", depth: int = 0, rows: int = 1, rate: float = 10.0
) -> Profile:
    """Make a profile with round figures: one MB each of weights, K and V."""
    ops = [Operation("attn_q", 0.4 / rate, 0.1 / rate, Cost(weights=10**6, macs_i8=10**6), 2)]
    costs = Cost(k=10**6, macs_i8=10**6), Cost(), Cost(v=10**6, macs_f32=10**6)
    ops += [Operation(f"attend {p}", 0.2 / rate, 0, c) for p, c in zip(operations.PARTS, costs, strict=True)]
    prompt = rows if rows > 1 else 0
    c = fake_bench.case(model=Path("m.gguf"), n_prompt=prompt, n_gen=int(rows == 1), n_depth=depth, n_batch=512,
                        type_k=k, type_v=v, cache_rotate="none", n_threads=threads)  # fmt: skip
    return Profile(c, rows, depth + rows, 1 / rate, 1.01 / rate, tuple(ops), 1.02 / rate, 0.001, None)


def test_what_binds() -> None:
    flat = replace(GIVEN, streams={kind: {1: {1 << 30: 10e9}} for kind in roofs.ARRAYS})
    op = Operation("x", 1e-3, cost=Cost(weights=10**6, macs_i8=10**6))
    assert operations.bound(op, flat, 1, 1e9) == operations.Bound("memory", pytest.approx(0.1))
    op = Operation("x", 1e-3, cost=Cost(weights=10, macs_i8=25 * 10**6))
    assert operations.bound(op, flat, 1, 1e9) == operations.Bound(cpu.DOT, pytest.approx(0.5))
    op = Operation("x", 1e-3, cost=Cost(v=10, macs_f32=5 * 10**6))
    assert operations.bound(op, flat, 1, 1e9) == operations.Bound("f32", pytest.approx(0.1))
    assert operations.bound(Operation("norm", 1e-3, cost=Cost(activations=5)), flat, 1, 1e9) is None


@pytest.mark.parametrize(
    ("rates", "share", "knee", "words"),
    [
        ({1: 10, 2: 20, 4: 20.5, 8: 20.4}, 0.9, 2, "2 threads fill the bus"),
        ({1: 10, 2: 20, 4: 20.5, 8: 20.4}, 0.4, 2, "not the bus"),
        ({1: 10, 2: 20}, 0.5, 2, "no more cores to show"),
        ({1: 10, 2: 20}, 0.95, 2, "full with all of them"),
        ({1: 10}, 0.5, 1, "no curve"),
    ],
)
def test_the_knee(rates: dict[int, float], share: float, knee: int, words: str) -> None:
    points = [saturation.Point(n, rate, rate, rate / share * 1e9) for n, rate in rates.items()]
    curve = saturation.Curve("x", 0, tuple(points))
    assert curve.knee == knee and words in curve.words(2)


def test_curves_gains_and_capacity() -> None:
    profiles = [made(t, k, v, 64, rate=rate) for (t, k, v), rate in
                {(1, "f16", "f16"): 10.0, (2, "f16", "f16"): 15.0, (2, "q8_0", "f16"): 18.0, (2, "f16", "q4_0"): 16.5,
                 (2, "q8_0", "q4_0"): 21.0}.items()]  # fmt: skip
    found = list(saturation.curves([*profiles, made(rows=64)], GIVEN))
    assert (found[0].name, found[0].knee) == ("f16/f16 at depth 64", 2) and len(found) == 4
    assert list(views.gains(profiles, ("f16", "f16"))) == [
        "K alone, against f16/f16 at depth 64 with 2 threads: q8_0/f16 +20.0% tokens/s.",
        "V alone, against f16/f16 at depth 64 with 2 threads: f16/q4_0 +10.0% tokens/s.",
        "both, against f16/f16 at depth 64 with 2 threads: q8_0/q4_0 +40.0% tokens/s.",
    ]
    assert [row[-1] for row in views.versus(profiles, ("f16", "f16")).rows] == ["", "", "+20.0%", "+10.0%", "+40.0%"]
    need = views.Needs(weights=1 << 30, kv_per_token=1 << 10, positions_per_token=0, buffers=0, n_ctx=0)
    assert views.capacity(lambda pair: need, [("f16", "f16")], 2 << 30).rows == [
        ["f16/f16", "1,024", "4.0 MiB", "1,048,576", "256"]
    ]


def test_pictures(tmp_path: Path) -> None:
    pairs = [("f16", "f16"), ("q8_0", "q4_0")]
    profiles = [made(t, k, v, d) for t in (1, 2) for k, v in pairs for d in (0, 64)] + [made(2, rows=64)]
    assert sum(pictures.kinds(profiles[0]).values()) == pytest.approx(profiles[0].whole)
    for plot in (
        pictures.roofline([profiles[0], profiles[-1]], GIVEN, 2),
        pictures.by_depth(profiles[:2]),
        pictures.saturation(list(saturation.curves(profiles, GIVEN))),
        pictures.versus(profiles[:4]),
    ):
        assert "<svg" in plot.svg()


def test_for_people_with_report_and_plots(model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = "-d 0,70 -t 1,2 -ctk f16,q8_0 -p 16 -r 1 --memory 1G --open --plots"
    code, out, err = command(capsys, flags, str(tmp_path / "plots"), "--html", str(tmp_path / "r.html"), str(model))
    assert code == 0, err
    for title in ("By operation", "Saturation", "K against V", "What fits", "Hardware counters", "This machine"):
        assert f"\n{title}" in out
    for part in (
        "Q·Kᵀ",
        "softmax",
        "A·V",
        "stamps cost",
        "GMAC/s",
        "sessions of 4096",
        "K alone",
        "of it",
        "not show the",
    ):
        assert part in out, part
    assert len(list((tmp_path / "plots").iterdir())) == 10
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 5 and "attend A·V" in page


def test_for_programs(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, "-d 70 -t 1 -p 0 -r 1 --json", str(model))
    assert code == 0, err
    found = json.loads(out)
    (only,) = found["profiles"]
    assert (only["kind"], only["n_depth"], only["type_k"]) == ("decode", 70, "f16") and only["tokens_per_second"] > 0
    assert sum(op["bytes_k"] for op in only["operations"]) == 2 * 71 * 2 * 64
    assert sum(op["seconds"] for op in only["operations"]) == pytest.approx(only["seconds_of_operations"])
    assert found["machine"]["cpu"] == "a CPU" and isinstance(found["counters"], str)


def test_the_machine_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--machine")
    assert code == 0 and "This machine" in out and "By operation" not in out


@pytest.mark.parametrize(
    ("flags", "part"),
    [("-d x", "-d: "), ("-t 0", "-t: "), ("-ctk q9", "-ctk: "), ("-p 5000", "-p"), ("--memory lots", "512M or 8G"),
     ("--synthetic 7T", "--synthetic: "), ("--plot-format gif", "--plot-format")],
)  # fmt: skip
def test_mistakes(model: Path, flags: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, flags, str(model))
    assert code == UsageError.exit_code and out == ""
    assert err.startswith("pyllm: ") and err.count("\n") == 1 and part in err


def test_what_cannot_be_is_said_at_once(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(profiling, "profile", lambda *args: pytest.fail("it measured"))
    for flags in (("--plots", str(tmp_path / "file")), ("--html", str(tmp_path / "file" / "r.html"))):
        code, _, err = command(capsys, "", *flags, str(model))
        assert code == 1 and "cannot be written" in err and err.count("\n") == 1
    monkeypatch.setattr(profile.plot, "available", lambda: False)
    code, _, err = command(capsys, "--plots", str(tmp_path), str(model))
    assert code == UsageError.exit_code and "pip install 'pyllm[plot]'" in err


def test_no_room_for_the_depth(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "free_memory", lambda: (300 << 20, "the machine"))
    code, _, err = command(capsys, "-d 1000000 -t 1", str(model))
    assert code == FitError.exit_code and "a smaller depth (-d)" in err and err.count("\n") == 1


def test_ctrl_c_prints_what_was_measured(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(profiling.Workbench):
        left = 0

        def round(self) -> None:
            Impatient.left -= 1
            if Impatient.left == 0:
                raise KeyboardInterrupt
            super().round()

    monkeypatch.setattr(profiling, "Workbench", Impatient)
    for left, measured in ((2, [0]), (1, [])):
        Impatient.left = left
        code, out, _ = command(capsys, "-d 0,70 -t 1 -p 0 -r 3 --json", str(model))
        assert code == 130
        assert [p["n_depth"] for p in (json.loads(out)["profiles"] if out else [])] == measured
