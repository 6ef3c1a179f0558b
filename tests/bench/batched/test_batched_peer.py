"""A llama-batched-bench is asked for the same cases in its own dialect; here it is a fake."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_bench import BATCHED, BATCHED_IK, BATCHED_OLD, LLAMA, FakeBatchedBench, batched_case

from pyllm.bench.batched.batched_peer import BatchedPeer, times
from pyllm.bench.batched.steps import Sample
from pyllm.bench.speed.throughput import Unable
from pyllm.models.errors import UsageError


@pytest.fixture(autouse=True)
def rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_ATTN_ROT_DISABLE", raising=False)


def test_flags_match(tmp_path: Path) -> None:
    fake = FakeBatchedBench(tmp_path, BATCHED)
    peer = BatchedPeer.open(str(fake.path), rotation=True, extra="--poll 0")
    case = batched_case(n_prompt=300, n_gen=4, n_sequences=3, type_k="q8_0", type_v="q4_0", n_ubatch=128, n_threads=2)
    assert peer.sample(case) == Sample(900_000_000, 4_000_000)
    ((argv, rotation),) = fake.calls
    assert rotation is None and (peer.name, peer.rotation) == ("llama.cpp", "on")
    flags = dict(zip(argv[::2], argv[1::2], strict=True))
    assert flags == {
        "-m": "a.gguf", "-npp": "300", "-ntg": "4", "-npl": "3", "-c": "1536", "-b": "2048", "-ub": "128", "-t": "2",
        "-ctk": "q8_0", "-ctv": "q4_0", "-fa": "on", "-ngl": "0", "--output-format": "jsonl", "--poll": "0",
    }  # fmt: skip


def test_a_shared_prompt(tmp_path: Path) -> None:
    fake = FakeBatchedBench(tmp_path, BATCHED)
    peer = BatchedPeer.open(str(fake.path), rotation=True)
    assert peer.sample(batched_case(shared=True)) == Sample(8_000_000, 4_000_000)
    assert {"-pps", "-kvu"} <= {*fake.calls[0][0]}


@pytest.mark.parametrize(
    ("help", "flash", "name"),
    [
        (BATCHED, ["-fa", "on", "-ngl"], "llama.cpp"),
        (BATCHED_IK, ["-fa", "1", "-ngl"], "ik_llama.cpp"),
        (BATCHED_OLD, ["-fa", "-ngl", "0"], "ik_llama.cpp"),
    ],
)
def test_dialects(tmp_path: Path, help: str, flash: list[str], name: str) -> None:
    fake = FakeBatchedBench(tmp_path, help)
    peer = BatchedPeer.open(str(fake.path), rotation=True)
    assert peer.sample(batched_case()) == Sample(16_000_000, 4_000_000), "from JSON or from a table"
    argv = fake.calls[0][0]
    assert argv[(at := argv.index("-fa")) : at + 3] == flash and peer.name == name
    assert (peer.rotation == "none") == (name == "ik_llama.cpp")


def test_no_steps_and_no_prompt(tmp_path: Path) -> None:
    """A speed over no time is `-nan`, which no JSON allows."""
    peer = BatchedPeer.open(str(FakeBatchedBench(tmp_path, BATCHED).path), rotation=True)
    assert peer.sample(batched_case(n_gen=0)) == Sample(16_000_000, 0)
    assert peer.sample(batched_case(n_prompt=0)) == Sample(0, 4_000_000)


def test_rotation(tmp_path: Path) -> None:
    fake = FakeBatchedBench(tmp_path, BATCHED)
    peer = BatchedPeer.open(str(fake.path), rotation=True)
    peer.sample(batched_case(cache_rotate="none"))
    BatchedPeer.open(str(fake.path), rotation=False).sample(batched_case())
    assert [rotation for _, rotation in fake.calls] == ["1", "1"]


def test_what_it_cannot_run(tmp_path: Path) -> None:
    peer = BatchedPeer.open(str(FakeBatchedBench(tmp_path, BATCHED).path), rotation=True)
    with pytest.raises(Unable, match=r"^error: Unsupported cache type: f32$"):
        peer.sample(batched_case(type_k="f32"))


def test_a_case_that_it_leaves_out() -> None:
    assert times("main: n_kv_max = 256\n|    PP |     TG |\n|-------|--------|\n") is None


def test_no_llama_batched_bench(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, FakeBatchedBench(tmp_path, LLAMA).path):
        with pytest.raises(UsageError, match=r"--against .*give the path of"):
            BatchedPeer.open(str(path), rotation=True)
