"""A llama-bench is asked for the same cases in its own dialect; here it is a fake that records what it was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_bench import IK, LLAMA, OLD, FakeLlamaBench, case

from pyllm.bench.speed.peer import Peer
from pyllm.bench.speed.throughput import Unable
from pyllm.models.errors import UsageError


@pytest.fixture(autouse=True)
def rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_ATTN_ROT_DISABLE", raising=False)


def test_flags_match(tmp_path: Path) -> None:
    fake = FakeLlamaBench(tmp_path, LLAMA)
    peer = Peer.open(str(fake.path), rotation=True, extra="--poll 0")
    one = case(n_prompt=64, n_depth=512, type_k="q8_0", type_v="q4_0", n_threads=3, n_batch=256, n_ubatch=128)
    assert peer.sample(one) == 64_000
    (flags, rotation), = fake.asked  # fmt: skip
    assert rotation is None and (peer.name, peer.rotation) == ("llama.cpp", "on")
    assert flags == {
        "-m": "a.gguf", "-p": "64", "-n": "0", "-d": "512", "-r": "1", "-t": "3", "-b": "256", "-ub": "128",
        "-ctk": "q8_0", "-ctv": "q4_0", "-fa": "on", "-ngl": "0", "-o": "json", "--poll": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"n_gen": 16}, {"-p": "0", "-n": "16"}),
        ({"n_prompt": 8, "n_gen": 4}, {"-p": "0", "-n": "0", "-pg": "8,4"}),
        ({"n_prompt": 8, "n_gen": 4, "n_depth": 32}, {"-p": "0", "-n": "0", "-pg": "8,4", "-d": "32"}),
    ],
)
def test_tests(tmp_path: Path, values: dict[str, Any], wanted: dict[str, str]) -> None:
    fake = FakeLlamaBench(tmp_path, LLAMA)
    Peer.open(str(fake.path), rotation=True).sample(case(**values))
    (flags, _), = fake.asked  # fmt: skip
    assert {name: flags[name] for name in ("-p", "-n", "-pg", "-d") if name in flags} == wanted


def test_rotation_where_pyllm_rotates(tmp_path: Path) -> None:
    fake = FakeLlamaBench(tmp_path, LLAMA)
    peer = Peer.open(str(fake.path), rotation=True)
    for mode, asked, said in (("none", "1", "off"), ("auto", None, "on")):
        peer.sample(case(n_gen=4, cache_rotate=mode))
        assert fake.asked[-1][1] == asked and peer.rotates(case(n_gen=4, cache_rotate=mode)) == said


def test_without_rotation(tmp_path: Path) -> None:
    fake = FakeLlamaBench(tmp_path, LLAMA)
    peer = Peer.open(str(fake.path), rotation=False)
    peer.sample(case(n_gen=1))
    assert fake.asked[0][1] == "1" and peer.rotation == "off" and "off" in peer.description


def test_ik_llama_cpp_names_depth_otherwise(tmp_path: Path) -> None:
    fake = FakeLlamaBench(tmp_path, IK)
    peer = Peer.open(str(fake.path), rotation=False)
    assert (peer.name, peer.rotation) == ("ik_llama.cpp", "none")
    assert peer.sample(case(n_gen=16, n_depth=512)) == 7_000
    assert peer.sample(case(n_prompt=64, n_depth=512)) == 64_000, "the longer prompt less the shorter"
    (first, rotation), (second, _) = fake.asked
    assert rotation is None
    assert (first["-gp"], first["-p"], first["-fa"]) == ("512,16", "0", "1")
    assert second["-p"] == "512,576" and "-d" not in first | second
    with pytest.raises(Unable):
        peer.sample(case(n_prompt=8, n_gen=8, n_depth=8))


def test_a_llama_bench_without_depth(tmp_path: Path) -> None:
    peer = Peer.open(str(FakeLlamaBench(tmp_path, OLD).path), rotation=True)
    assert peer.sample(case(n_prompt=64)) == 64_000
    with pytest.raises(Unable, match="no depth"):
        peer.sample(case(n_prompt=64, n_depth=8))


def test_what_it_cannot_run(tmp_path: Path) -> None:
    peer = Peer.open(str(FakeLlamaBench(tmp_path, LLAMA).path), rotation=True)
    with pytest.raises(Unable, match=r"^error: invalid parameter for argument: -ctk$"):
        peer.sample(case(n_gen=1, type_k="f32"))


def test_no_llama_bench(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, FakeLlamaBench(tmp_path, "usage: something else").path):
        with pytest.raises(UsageError, match=r"--against .*give the path of"):
            Peer.open(str(path), rotation=True)
