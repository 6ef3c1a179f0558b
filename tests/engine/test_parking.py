"""Pages of requests that wait, on the disk: read back the same, or computed again."""

from __future__ import annotations

import errno
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from fake_pages import N_VOCAB, FakeLLM
from schedules import World, request

from pyllm.engine.parking import Parking
from pyllm.engine.request import Request
from pyllm.engine.sampler import SamplingParams
from pyllm.kernels.shapes import PAGE


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


@pytest.mark.parametrize("seed", range(25))
def test_random_schedules(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    llm = FakeLLM(draw.randint(4, 6), sequences=4, sequence_ctx=300, windows=draw.choice([(), (24,), (100, 7)]))
    parking = Parking(tmp_path, limit=draw.choice([20_000, 1 << 30]))
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
