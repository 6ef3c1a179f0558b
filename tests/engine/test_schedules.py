"""Random schedules on tiny models: with and without windows, with experts, and with quantized K and V."""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import architectures
import psutil
import pytest
from schedules import RUNS, World, request

from pyllm.engine.llm import LLM
from pyllm.engine.parking import Parking
from pyllm.engine.request import Request
from pyllm.engine.sampler import SamplingParams
from pyllm.kernels.lang import cpu
from pyllm.kernels.shapes import PAGE

WORDS = range(3, 259)
CTX = 4 * PAGE
LONGEST = 150
PARAMS = [SamplingParams(temperature=0), SamplingParams(temperature=1.0, top_k=0, repeat_penalty=1.3, seed=5)]
RIGS = {
    "llama f16": ("llama", "f16", "f16", 1),
    "llama q8_0/q4_0": ("llama", "q8_0", "q4_0", 2),
    "gemma3 q4_0/f16": ("gemma3", "q4_0", "f16", 1),
    "gpt-oss q8_0/q5_1": ("gpt-oss", "q8_0", "q5_1", 2),
    "mixtral f32/q4_0": ("mixtral", "f32", "q4_0", 1),
}


class Rig:
    """A model, some families of prompts, and the answers to the longest requests alone."""

    def __init__(self, folder: Path, arch: str, k: str, v: str, threads: int) -> None:
        path = architectures.write(folder, arch, "mixed")
        self.number = next(i for i, (name, *_) in enumerate(RIGS.values()) if name == arch)
        self.folder, self.counts = folder, Counter[str]()
        cache = {"cache_type_k": k, "cache_type_v": v}
        self.lone = LLM(path, n_ctx=CTX, n_threads=1, **cache)  # type: ignore[arg-type]
        self.llms = [
            self.lone.beside(self.lone.cache, n_ctx=pages * PAGE, n_threads=threads, n_batch=batch, sequences=n,
                             sequence_ctx=CTX)
            for pages, batch, n in ((4, 300, 3), (5, 64, 5), (9, 128, 4), (5, 2, 3))
        ]  # fmt: skip
        for llm in self.llms:
            for layer in llm.model.kv.layers:  # what a page held before does not matter, not even NaN
                layer.k_pool[:], layer.v_pool[:] = 255, 255
        draw = random.Random(0)
        self.families = [draw.choices(WORDS, k=CTX) for _ in range(2)]
        self.prompts = [request(draw, self.families, 150, WORDS).prompt for _ in range(40)]
        self.short = [prompt[:20] for prompt in self.prompts]
        self._answers: dict[tuple[SamplingParams, tuple[int, ...]], tuple[list[int], str | None]] = {}

    def alone(self, request: Request) -> tuple[list[int], str | None]:
        """Return the answer, from that of the longest request with this prompt."""
        limit, params = request.params.max_tokens, replace(request.params, max_tokens=LONGEST, stop=())
        key = params, tuple(request.prompt)
        if key not in self._answers:
            found = self.lone._complete(list(request.prompt), params)
            self._answers[key] = list(found.tokens), found.stop
        tokens, stop = self._answers[key]
        return (tokens, stop) if len(tokens) < limit else (tokens[:limit], "limit")

    def request(self, draw: random.Random, grows: bool) -> Request:
        """Return a request; grows: its answer is longer than its prompt, so that overcommitted pools overflow."""
        limit = draw.choice([100, LONGEST] if grows else [0, 1, 5, 20, 20, 70, 100])
        params = replace(draw.choice(PARAMS), max_tokens=limit, stop=draw.choice([(), (), ("e",), ("the", "ö", "in ")]))
        prompt = draw.choice(self.short if grows else self.prompts)
        return Request(prompt, params, draw.choice([0, 0, 1, -1]), draw.choice([0, 0, 7]))

    def parking(self, draw: random.Random) -> Parking:
        """Return a place for pages: the disk or memory, small or not, in a smaller type or not."""
        folder, limit = draw.choice([self.folder, None]), draw.choice([60_000, None])
        return Parking(folder, limit, cache_type=draw.choice([None, None, "q8_0", "q3_1"]), warn=lambda _: None)

    def run(self, seed: int) -> World:
        """Run a random schedule."""
        draw = random.Random(seed)
        grows = draw.random() < 0.5
        parking = self.parking(draw) if draw.random() < 0.6 else None
        llm, overcommit = draw.choice(self.llms), draw.random() < 0.6
        world = World(llm, self.alone, overcommit=overcommit, parking=parking, seed=seed)
        for _ in range(draw.randint(1, 8)):
            match draw.choice("aaacss"):
                case "a":
                    for _ in range(draw.randint(1, 3)):
                        world.add(self.request(draw, grows))
                case "c" if world.asked:
                    world.cancel(draw.randrange(len(world.asked)))
                case _:
                    world.step(draw.choice([1, 3, 10, 40]))
        if draw.random() < 0.1:
            world.close()
        else:
            world.finish()
        self.counts += world.counts
        return world


@pytest.fixture(scope="module", params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("models"), *RIGS[request.param])
    yield made
    for llm in (*made.llms, made.lone):
        llm.close()


@pytest.mark.skipif(cpu.AMX, reason="prompts take other sums than decode: a prefix that was generated changes bits")
def test_each_answer_is_the_one_alone(rig: Rig) -> None:
    n = RUNS // len(RIGS) or 12
    for seed in range(n):
        rig.run(rig.number * n + seed)
    print(dict(rig.counts))


@pytest.mark.soak
@pytest.mark.skipif(cpu.AMX, reason="prompts take other sums than decode: a prefix that was generated changes bits")
def test_memory_does_not_grow(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Random schedules for --seconds; memory is compared after a tenth of them and at the end."""
    seconds, first = pytestconfig.getoption("seconds"), pytestconfig.getoption("seed")
    folders = [tmp_path / str(i) for i in range(len(RIGS))]
    for folder in folders:
        folder.mkdir()
    rigs = [Rig(folder, *given) for folder, given in zip(folders, RIGS.values(), strict=True)]
    begin, held, counts = time.monotonic(), list[int](), Counter[str]()
    for seed in count(first):
        rigs[seed % len(rigs)].run(seed)
        spent = time.monotonic() - begin
        if len(held) <= spent / seconds * 10:
            held.append(resident())
            counts = sum((rig.counts for rig in rigs), Counter[str]())
            print(f"{spent:.0f} s: {held[-1] >> 10} KiB, {dict(counts)}", flush=True)
        if spent > seconds:
            break
    for rig in rigs:
        for llm in (*rig.llms, rig.lone):
            llm.close()
    if seconds > 600:
        assert counts["parked"] and counts["requantized"]
        assert held[-1] - held[1] < 8 << 20, [size >> 10 for size in held]


def resident() -> int:
    """Return the bytes of this process in memory, after garbage was collected."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)
