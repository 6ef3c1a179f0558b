"""A model that fits is let through; one that does not is refused, with numbers and a context that would fit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import tiny

from pyllm.engine.machine import fit
from pyllm.models.arch.registry import read_config
from pyllm.models.cache.sizes import token_bytes
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.config import Config
from pyllm.models.errors import FitError, UsageError
from pyllm.models.file.gguf import GGUF


@pytest.fixture
def model(tmp_path: Path) -> tuple[GGUF, Config]:
    gguf = GGUF.open(tiny.write(tmp_path / "tiny.gguf"))
    return gguf, read_config(gguf)


def leave(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "free_memory", lambda mapped: (free, "a test"))


def test_needs(model: tuple[GGUF, Config]) -> None:
    gguf, config = model
    need = fit.needs(gguf, config, 1000, CacheSpec("q8_0", "q4_0"))
    assert need.weights == sum(tensor.data.nbytes for tensor in gguf.tensors.values())
    rope = 4 * config.layers[0].rope.dim + 4  # type: ignore[union-attr]
    assert need.kv == 1024 * token_bytes(config, CacheSpec("q8_0", "q4_0")), "whole pages"
    assert need.positions == 1024 * rope
    assert need.total > need.weights + need.kv + need.positions


def test_heads_are_padded(tmp_path: Path) -> None:
    gguf = GGUF.open(tiny.write(tmp_path / "odd.gguf", head_dim=40))
    config = read_config(gguf)
    assert token_bytes(config, CacheSpec("f16", "f32")) == config.n_layer * config.n_head_kv * 64 * (2 + 4)
    with pytest.raises(UsageError, match="use one of f32, f16, bf16"):
        fit.needs(gguf, config, 64, CacheSpec("q8_0", "f16"))


MEASURE = """
import re, sys
from pyllm.engine.llm import LLM
from pyllm.engine.machine.fit import needs
from pyllm.engine.sampler import SamplingParams
from pyllm.models.arch.registry import read_config
from pyllm.models.file.gguf import GGUF
gguf = GGUF.open(sys.argv[1])
config = read_config(gguf)
llm = LLM(gguf, n_ctx=1024, cache_type_k="f32", cache_type_v="f32")
llm.sampler(SamplingParams(seed=1))(llm.session().prefill(range(1024)))
status = open("/proc/self/status").read()
anonymous, file = (int(re.search(rf"{name}:\\s+(\\d+)", status)[1]) << 10 for name in ("RssAnon", "RssFile"))
print(needs(gguf, config, 1024, llm.cache).total, anonymous + file - gguf.nbytes)
"""


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_taken(smollm2: Path) -> None:
    command = [sys.executable, "-c", MEASURE, str(smollm2)]
    path = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    done = subprocess.run(command, env=path, capture_output=True, text=True, check=True)
    said, taken = map(int, done.stdout.split())
    assert 0.6 * said < taken < said, "less where nothing is compiled"


def test_what_fits(model: tuple[GGUF, Config]) -> None:
    fit.check_fit(*model, 512, CacheSpec())


def test_the_proposed_context_fits(model: tuple[GGUF, Config], monkeypatch: pytest.MonkeyPatch) -> None:
    leave(fit.needs(*model, 20_000, CacheSpec()).total, monkeypatch)
    with pytest.raises(FitError) as error:
        fit.check_fit(*model, 1_000_000, CacheSpec())
    assert error.value.exit_code == 4
    message = str(error.value)
    for part in ("weights", "KV cache", "-c 1000000 at f16/f16", "a test leaves"):
        assert part in message
    match = re.search(r"-c (\d+) would fit", message)
    assert match is not None and int(match[1]) == 20_032, "20,000 in whole pages"
    fit.check_fit(*model, int(match[1]), CacheSpec())


def test_weights_alone_do_not_fit(model: tuple[GGUF, Config], monkeypatch: pytest.MonkeyPatch) -> None:
    leave(1000, monkeypatch)
    with pytest.raises(FitError, match="no context fits beside the weights"):
        fit.check_fit(*model, 512, CacheSpec())


def test_the_tightest_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(fit, "cgroup_left", lambda: 500)
    monkeypatch.setattr(fit, "_addresses_left", lambda: None)
    assert fit.free_memory() == (500, "the container's limit (cgroup)")
    monkeypatch.setattr(fit, "cgroup_left", lambda: None)
    assert fit.free_memory() == (1000, "this machine's memory")
    monkeypatch.setattr(fit, "_addresses_left", lambda: fit.ADDRESSES + 300)
    assert fit.free_memory(mapped=100)[0] == 200


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(folder: Path, limit: str, usage: int, inactive: int) -> None:
    write(folder / "memory.max", limit)
    write(folder / "memory.current", str(usage))
    write(folder / "memory.stat", f"anon 5\ninactive_file {inactive}\n")


def test_no_cgroup(tmp_path: Path) -> None:
    assert fit.cgroup_left(tmp_path) is None


def test_cgroup_2_inherits_limits(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/outer/inner\n")
    mount = tmp_path / "sys/fs/cgroup"
    group(mount / "outer/inner", "max\n", 10, 0)
    assert fit.cgroup_left(tmp_path) is None
    group(mount / "outer", "1000\n", 400, 50)
    assert fit.cgroup_left(tmp_path) == 650
    group(mount / "outer/inner", "500\n", 10, 0)
    assert fit.cgroup_left(tmp_path) == 490


def test_cgroup_1_in_a_container(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "7:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n")
    mount = tmp_path / "sys/fs/cgroup/memory"  # the host's path does not exist: the mount is the container's own
    write(mount / "memory.limit_in_bytes", "2000")
    write(mount / "memory.usage_in_bytes", "700")
    write(mount / "memory.stat", "inactive_file 1\ntotal_inactive_file 100\n")
    assert fit.cgroup_left(tmp_path) == 1400
