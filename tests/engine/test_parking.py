"""Pages of requests that wait, on the disk: read back the same, or computed again."""

from __future__ import annotations

import errno
import random
import tempfile
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
from fake_pages import N_VOCAB, FakeLLM
from schedules import Inexact, World, request

from pyllm.engine.llm import LLM
from pyllm.engine.parking import Parking
from pyllm.engine.request import Request
from pyllm.engine.sampler import SamplingParams
from pyllm.kernels.formats.table import FORMATS
from pyllm.kernels.shapes import PAGE
from pyllm.models.cache.spec import CacheSpec


def overflow(parking: Parking | None, windows: tuple[int, ...] = ()) -> World:
    """Run requests that do not fit all at once; return what came of them."""
    llm = FakeLLM(7, sequences=3, sequence_ctx=6 * PAGE, windows=windows, ends=False)
    world = World(llm, lambda r: llm.alone(r.prompt, r.params.max_tokens), overcommit=True, parking=parking, seed=1)
    for i in range(3):
        world.add(Request([3 + i] * (PAGE + 7), SamplingParams(temperature=0, max_tokens=4 * PAGE)))
    world.finish()
    assert world.counts["parked"]
    return world


@pytest.mark.parametrize("windows", [(), (24,), (100, 7)])
def test_nothing_is_computed_again(tmp_path: Path, windows: tuple[int, ...]) -> None:
    without, world = overflow(None, windows), overflow(Parking(tmp_path), windows)
    assert without.counts["computed"] > 3 * (PAGE + 7)
    assert world.counts["computed"] == 3 * (PAGE + 7)
    assert list(tmp_path.iterdir()) == []


class Full:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, raw: Any) -> int:
        self._room -= memoryview(raw).nbytes
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        n: int = self._file.write(raw)
        return n

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1500])
def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full(real(**options), room))
    with pytest.warns(RuntimeWarning, match="computed again: No space left on device") as seen:
        overflow(Parking(tmp_path))
    assert len(seen) == 1


def test_a_folder_that_is_not_there_and_a_limit_are_warnings(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="No such file"):
        overflow(Parking(tmp_path / "none"))
    with pytest.warns(RuntimeWarning, match="limit of 1,000 bytes"):
        overflow(Parking(tmp_path, limit=1000))


@pytest.mark.parametrize("damage", ["shorter", "changed", "broken"])
def test_a_file_that_was_damaged_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    real, files = tempfile.TemporaryFile, []

    class Damaged(Full):
        def seek(self, at: int) -> int:
            if damage == "broken":
                raise OSError(errno.EIO, "Input/output error")
            if damage == "shorter":
                self._file.truncate(100)
            else:
                self._file.seek(50)
                self._file.write(b"damage")
            n: int = self._file.seek(at)
            files.append(self)
            return n

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Damaged(real(**options), 1 << 40))
    assert overflow(Parking(tmp_path)).counts["computed"] > 3 * (PAGE + 7)
    assert files or damage == "broken"


def test_in_memory() -> None:
    parking = Parking()
    assert overflow(parking).counts["computed"] == 3 * (PAGE + 7)
    assert parking.used == 0
    said: list[str] = []
    overflow(Parking(limit=1000, warn=said.append))
    assert said == ["memory: requests that wait are computed again: more than the limit of 1,000 bytes is needed"]


@pytest.mark.parametrize(
    ("k", "v", "smaller"), [("f16", "f16", "q4_0"), ("q8_0", "q4_0", "q4_1"), ("q3_1", "f32", "q8_0")]
)
def test_a_smaller_type(tmp_path: Path, k: str, v: str, smaller: str) -> None:
    """The pages come back as the smaller type has them; sides that are smaller already come back as they were."""
    path = architectures.write(tmp_path, "gemma3", "mixed")
    tokens = np.random.default_rng(0).integers(3, 259, 3 * PAGE + 5).tolist()
    with LLM(path, n_ctx=9 * PAGE, cache_type_k=k, cache_type_v=v, n_threads=1, n_batch=64) as llm:
        exact, sizes = llm.logits(tokens), list[int]()
        for cache_type in (None, smaller):
            parking, session = Parking(tmp_path, cache_type=cache_type), llm._session()
            before = [llm.kv(layer) for layer in range(llm.config.n_layer)]
            parked = parking.park(llm.model, session.sequence)
            assert parked is not None and parked.exact == (cache_type is None)
            sizes.append(parking.used)
            session.rewind(0)
            for layer in llm.model.kv.layers:
                layer.k_pool[:], layer.v_pool[:] = 255, 255
            assert parked.restore(llm.model, session.sequence) and session.tokens == tokens
            for layer, sides in enumerate(before):
                for was, now, held in zip(sides, llm.kv(layer), (k, v), strict=True):
                    to = FORMATS[smaller]
                    if cache_type is None or to.bits_per_value >= FORMATS[held].bits_per_value:
                        np.testing.assert_array_equal(now, was)
                    else:
                        again = FORMATS[held].decode(FORMATS[held].encode(to.decode(to.encode(was))))
                        np.testing.assert_array_equal(now, again)
            parked.close()
            assert parking.used == 0
        assert sizes[1] < sizes[0]
        llm._session().rewind(0)
        np.testing.assert_array_equal(llm.logits(tokens), exact)


@pytest.mark.parametrize(
    "policy", ["sink=64:f16/q8_0,tail=64:f16", "streaming,window=100", "h2o,keep=128,tail=64", "snapkv,keep=128"]
)
@pytest.mark.parametrize("cache_type", [None, "turbo4"])
def test_segments(tmp_path: Path, policy: str, cache_type: str | None) -> None:
    """All segments come back, and the sequence goes on as if nothing had been; with a smaller type nearly so."""
    path, n = architectures.write(tmp_path, "llama", "mixed"), 5 * PAGE + 9
    tokens = np.random.default_rng(0).integers(3, 259, n).tolist()
    cache = CacheSpec("turbo3" if policy[:4] == "sink" else "q8_0", "q8_0", policy=policy)
    with LLM(path, n_ctx=9 * PAGE, cache=cache, n_threads=1) as llm:
        session = llm.session()
        session.prefill(tokens)
        parked = Parking(tmp_path, cache_type=cache_type).park(llm.model, session.sequence)
        expected = session.decode(7).copy()
        assert parked is not None and parked.exact == (cache_type is None)
        session.rewind(0)
        for held in llm.model.kv.every:
            held.k_pool[:], held.v_pool[:] = 255, 255
        for marks in chain.from_iterable(llm.model.kv.marks.values()):
            marks.mass[:], marks.positions[:] = np.nan, -1
        assert parked.restore(llm.model, session.sequence) and session.tokens == tokens
        np.testing.assert_allclose(session.decode(7), expected, atol=0 if cache_type is None else 1)
        if cache_type is None:
            more = session.prefill([5] * 70).copy()
            session.rewind(0)
            session.prefill([*tokens, 7])
            np.testing.assert_array_equal(session.prefill([5] * 70), more)
        parked.close()


@pytest.mark.parametrize("seed", range(25))
def test_random_schedules(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    llm = FakeLLM(draw.randint(4, 6), sequences=4, sequence_ctx=300, windows=draw.choice([(), (24,), (100, 7)]))
    parking = draw.choice([Parking, Inexact])(draw.choice([tmp_path, None]), limit=draw.choice([20_000, 1 << 30]))
    world = World(llm, lambda r: llm.alone(r.prompt, r.params.max_tokens), overcommit=True, parking=parking, seed=seed)
    families = [draw.choices(range(3, N_VOCAB), k=300) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(8):
            for _ in range(draw.randint(0, 3)):
                world.add(request(draw, families, 300, range(3, N_VOCAB), grows=True))
            world.step(draw.choice([1, 20, 90]))
            if draw.random() < 0.3 and world.asked:
                world.cancel(draw.randrange(len(world.asked)))
        if seed % 5 == 0:
            world.close()
        else:
            world.finish()
