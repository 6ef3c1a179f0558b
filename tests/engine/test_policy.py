"""Policies of the user's own, from a file or a caller, and how the commands take and show a policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from pyllm import LLM, CacheSpec, SamplingParams
from pyllm.__main__ import main
from pyllm.engine.policy.load import choose, load
from pyllm.models.cache.papers import kivi
from pyllm.models.cache.sizes import held_bytes
from pyllm.models.errors import UsageError

TOKENS: list[int] = np.random.default_rng(1).integers(3, 259, 250).tolist()
LESS = "def policy(k, v, layer, position):\n    return k / 2, v / 2\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "m.gguf")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such file"),
        ("x = 1", "has no function named policy; write def policy(k, v, layer, position): return k, v"),
        ("policy = 3", "has no function named policy"),
        ("import nothing_of_that_name", "raised ModuleNotFoundError: No module named"),
        ("def policy(:", "raised SyntaxError"),
    ],
)
def test_files_that_are_no_policy(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "p.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"--cache-policy {path}: {says}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "def policy(k, v, layer, position): return k, v",
            "has no function named score; write def score(seen): return",
        ),
        ("def score(seen): return seen.mass\nROWS = 'some'", "ROWS is 'some', must be 'all', 'page' or ''"),
        ("def score(seen): raise KeyError('x')", "raised KeyError in layer 0: 'x'"),
        ("def score(seen): return seen.mass[0]", "returned scores of shape (128,), not (2, 128)"),
        ("def score(seen): return 'abc'", "raised ValueError in layer 0: could not convert string"),
        (
            "def score(seen): return seen.mass * float('nan')",
            "returned scores that are not numbers, in layer 0 at token",
        ),
        ("import sys\ndef score(seen): sys.exit(3)", "raised SystemExit in layer 0: 3"),
        (
            "def score(seen): seen.mass[:] = 0; return seen.mass",
            "raised ValueError in layer 0: assignment destination is",
        ),
    ],
)
def test_files_that_choose_no_tokens(file: Path, tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "p.py"
    path.write_text(content)
    policy = f"{path},keep=64,tail=0"
    with pytest.raises(UsageError) as caught, LLM(file, n_ctx=256, cache_policy=policy, n_threads=1) as llm:
        llm.logits(TOKENS)
    assert str(caught.value).startswith(f"--cache-policy {path}") and says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_chooses_as_h2o_does(file: Path, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("def score(seen): return seen.mass")
    found = []
    for name in ("h2o", tmp_path / "p.py"):
        with LLM(file, n_ctx=256, cache_policy=f"{name},keep=64,tail=0", n_threads=1) as llm:
            found.append(llm.logits(TOKENS))
    np.testing.assert_array_equal(*found)


def less(k: np.ndarray, v: np.ndarray, layer: int, position: int) -> tuple[np.ndarray, np.ndarray]:
    return k / 2, v / 2


def test_arguments_that_say_it_twice() -> None:
    with pytest.raises(UsageError, match="leave one out"):
        choose(None, "f16", "f16", "auto", "streaming", less)
    with pytest.raises(UsageError, match="leave out cache_type_k"):
        choose(CacheSpec(), "f16", "f16", "auto", "streaming", None)
    assert choose(None, "f16", "f16", "auto", "tail=64:f16", less)[0].policy == "less.py,tail=64:f16"
    assert (
        choose(CacheSpec("q8_0", policy="tail=64"), "f16", "f16", "auto", "", less)[0].policy == "less.py,tail=64:f16"
    )
    assert choose(None, "f16", "f16", "auto", "", None) == (CacheSpec(), None)


def test_a_file_and_a_function_do_the_same(file: Path, tmp_path: Path) -> None:
    (tmp_path / "less.py").write_text(LESS)
    found = []
    for settings in ({}, {"what_if": less}, {"cache_policy": str(tmp_path / "less.py")}):
        with LLM(
            file, n_ctx=256, cache_type_k="f32", cache_type_v="f32", n_threads=1, max_logits=64, **settings
        ) as llm:
            found.append(llm.logits(TOKENS))
            if settings:
                assert len(llm.kv(0)[0]) == len(TOKENS)
                np.testing.assert_allclose(llm.attention(0).sum(-1), 1, atol=1e-4)
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_array_equal(found[0][:128], found[1][:128])  # nothing has left the tail
    assert np.abs(found[0][128:] - found[1][128:]).max() > 1e-3


def test_a_policy_that_drops_tokens_has_no_attention(file: Path) -> None:
    with LLM(file, n_ctx=256, cache_policy="streaming,window=64", n_threads=1) as llm:
        assert llm.generate("hello" * 30, SamplingParams(temperature=0, max_tokens=40)).text
        with pytest.raises(UsageError, match="attention: streaming,sink=4,window=64 drops tokens"):
            llm.attention(0)


def test_kivi_in_numpy() -> None:
    """A group has as many values as its bits allow, the least and the largest are kept, and K has groups of tokens."""
    k, v = np.random.default_rng(2).normal(size=(2, 64, 2, 64)).astype(np.float32)
    new_k, new_v = kivi.policy(k, v, 0, 0)
    for old, new in (
        (k[:32, 1, 5], new_k[:32, 1, 5]),
        (k[32:, 0, 63], new_k[32:, 0, 63]),
        (v[7, 1, 32:], new_v[7, 1, 32:]),
    ):
        assert len(np.unique(new.round(4))) <= 4
        assert new.min() == pytest.approx(old.min()) and new.max() == pytest.approx(old.max())
        assert np.abs(new - old).max() <= (old.max() - old.min()) / 6 + 1e-5


def test_without_a_policy(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The flag's default is checked as a value is."""
    assert main(["run", str(file), "-p", "hello", "--raw", "-n", "2", "-t", "1", "-c", "64"]) == 0
    assert "K f16, V f16\n" in capsys.readouterr().err
    assert main(["inspect", str(file), "--json"]) == 0
    assert "policy" not in json.loads(capsys.readouterr().out)


def test_the_commands_show_it(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = "sink=64:f16,tail=64:f16"
    assert main(["inspect", str(file), "--cache-policy", "tail=64, sink=64", "-c", "200", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    with LLM(file, n_ctx=64, n_threads=1) as llm:
        expected = held_bytes(llm.config, CacheSpec("q8_0", "q4_0", policy=policy), 200)
    assert facts["policy"]["policy"] == policy and facts["policy"]["pairs"]["q8_0/q4_0"] == expected
    flags = [
        "run",
        str(file),
        "-p",
        "hello",
        "--raw",
        "-n",
        "3",
        "-t",
        "1",
        "-c",
        "128",
        "-ctk",
        "q8_0",
        "-ctv",
        "q4_0",
    ]
    assert main([*flags, "--cache-policy", policy]) == 0
    assert f"K q8_0, V q4_0, {policy}" in capsys.readouterr().err
    assert main([*flags, "--cache-policy", "sink=x"]) == 2
    assert "argument --cache-policy: sink=x: must be N or N:TYPE" in capsys.readouterr().err
    (tmp_path / "text").write_text("hello world in the world, her hello then. " * 40)
    flags = ["perplexity", str(file), "-f", str(tmp_path / "text"), "-c", "256", "--chunks", "1", "-t", "1", "--kl"]
    flags += ["-ctk", "q2_1", "-ctv", "q2_1", "--cache-policy", "none", "--cache-policy", policy]
    assert main([*flags, "--json"]) == 0
    without, kept = json.loads(capsys.readouterr().out)["results"]
    assert (without["cache_policy"], kept["cache_policy"]) == ("", policy)
    assert kept["kld_mean"] < without["kld_mean"] and kept["bytes_per_token"] > without["bytes_per_token"]
    assert main(flags) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["K", "V", "policy"]
