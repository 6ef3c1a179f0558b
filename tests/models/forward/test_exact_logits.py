"""An exact model's logits: the same bits for any threads, batches and CPU, and f16 is as good as f32."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import architectures
import naive
import numpy as np
import pytest

from pyllm.engine.llm import LLM
from pyllm.models.cache.spec import CacheSpec

N = 300
TOKENS = [int(t) for t in np.random.default_rng(3).integers(3, 60, N)]


def logits(path: Path, k: str, v: str, **options: int) -> np.ndarray:
    with LLM(path, n_ctx=N, cache=CacheSpec(k, v), exact=True, **options) as llm:
        return llm.logits(TOKENS)


@pytest.fixture(scope="module", params=["llama", "gpt-oss"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.write(tmp_path_factory.mktemp("exact"), request.param, "mixed")


def test_threads_batches_and_neighbours_change_no_bit(path: Path) -> None:
    whole = logits(path, "q8_0", "q4_1", n_threads=1)
    for threads, n_batch in ((2, 64), (3, 37), (1, 1)):
        np.testing.assert_array_equal(logits(path, "q8_0", "q4_1", n_threads=threads, n_batch=n_batch), whole)
    with LLM(path, n_ctx=4 * N, cache=CacheSpec("q8_0", "q4_1"), exact=True, n_threads=2, sequences=2) as llm:
        one, other = llm.session(), llm.session()
        other.prefill(TOKENS[5:90])
        np.testing.assert_array_equal(one.prefill(TOKENS[:-1]), whole[-2])
        np.testing.assert_array_equal(one.decode(TOKENS[-1]), whole[-1])


def test_f16_is_as_good_as_f32(path: Path) -> None:
    """What remains is the cache's alone: far below what int8 activations add to each of the two."""
    p, q = (np.log(naive.softmax(logits(path, t, t, n_threads=1).astype(np.float64))) for t in ("f32", "f16"))
    assert (np.exp(p) * (p - q)).sum(axis=-1).mean() < 1e-5


@pytest.mark.parametrize("changes", [{"PYLLM_PORTABLE": "1"}, {"PYLLM_AMX": "0"}], ids=str)
def test_another_cpu_gives_the_same_bits(path: Path, changes: dict[str, str], tmp_path: Path) -> None:
    program = "import sys, numpy, test_exact_logits as t; from pathlib import Path\n"
    program += "numpy.save(sys.argv[2], t.logits(Path(sys.argv[1]), 'q8_0', 'q4_1', n_threads=1))"
    tests = Path(__file__).parents[2]
    paths = os.pathsep.join([str(Path(__file__).parent), str(tests), str(tests.parent / "src")])
    done = [sys.executable, "-c", program, str(path), str(tmp_path / "logits.npy")]
    subprocess.run(done, env={**os.environ, "PYTHONPATH": paths, **changes}, check=True, timeout=600)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), logits(path, "q8_0", "q4_1", n_threads=1))
