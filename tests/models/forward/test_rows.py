"""The buffers of a step: their memory is what sizes.py says at most, and attention's sums fit in theirs."""

from __future__ import annotations

from pathlib import Path

import architectures
import numpy as np
import pytest

from pyllm.kernels.lang import cpu
from pyllm.kernels.lang.buffers import aligned
from pyllm.kernels.shapes import PAGE
from pyllm.models.arch.registry import load_weights, read_config
from pyllm.models.cache.sizes import buffer_bytes
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.cache.store import KVCache
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward import mixture, rows, step
from pyllm.models.forward.loaded import Loaded
from pyllm.models.forward.positions import Positions
from pyllm.models.forward.recorder import Recorder
from pyllm.models.forward.rows import Buffers
from pyllm.models.forward.step import MAX_SPLITS, PlanKind, Span, Step

THREADS = 3


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each buffer that is made."""
    found: list[int] = []

    def counted(nbytes: int) -> np.ndarray:
        found.append(nbytes)
        return aligned(nbytes)

    for module in (rows, mixture):
        monkeypatch.setattr(module, "aligned", counted)
    return found


def record(loaded: Loaded, n_batch: int, logits: int) -> None:
    """Record both plans of a model, without running them."""
    c = loaded.config
    kv = KVCache(c, CacheSpec(), PAGE, n_batch=n_batch)
    numbers = Step(n_batch, THREADS, c.n_head_kv, kinds=len(kv.tables), experts=c.expert_count,
                   experts_used=c.expert_used_count)  # fmt: skip
    buffers, positions = Buffers(c, n_batch, logits, THREADS), Positions(c, loaded.net.rope_factors, kv.tokens)
    for kind in PlanKind:
        loaded.net.forward(Recorder(c, kv, numbers, buffers, positions, kind))


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "phi3", "olmo2", "mixtral", "gpt-oss"])
def test_buffers_take_what_is_said(
    name: str, amx: bool, taken: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upper estimate, of the same size: the matrix unit has buffers of its own, which it counts on any CPU."""
    monkeypatch.setattr(cpu, "AMX", amx)
    g = GGUF.open(architectures.write(tmp_path, name, "mixed"))
    loaded = load_weights(g, read_config(g))
    for n_batch, logits in ((1, 1), (2, 2), (33, 8), (512, 8), (512, 65)):
        taken.clear()
        record(loaded, n_batch, logits)
        said = buffer_bytes(loaded.config, n_batch, logits, THREADS)
        assert (0.5 if n_batch == 512 else 0.25) * said < sum(taken) <= said, (n_batch, logits)


def test_heads_that_are_no_whole_blocks(taken: list[int], tmp_path: Path) -> None:
    """Queries and sums have whole blocks of 32 values, however small a head is."""
    path = architectures.tiny.write(tmp_path / "m.gguf", head_dim=8, n_head=16, n_head_kv=16)
    g = GGUF.open(path)
    loaded = load_weights(g, read_config(g))
    record(loaded, 512, 8)
    assert sum(taken) <= buffer_bytes(loaded.config, 512, 8, THREADS)


@pytest.mark.parametrize("max_rows", [1, 300])
def test_sums_that_have_no_room(max_rows: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = read_config(GGUF.open(architectures.write(tmp_path, "llama", "f32")))
    numbers, sums = Step(max_rows, THREADS, config.n_head_kv), Buffers(config, max_rows, 1, THREADS).sums
    room = len(sums) // config.n_head
    assert room == max(max_rows, MAX_SPLITS)
    table = np.arange(room + 1)

    def fill(splits: int) -> None:
        monkeypatch.setattr(step, "split", lambda *_: splits)
        numbers.fill([Span([5], len(table) * PAGE - 1, [table])], [0], group=1)

    fill(MAX_SPLITS)
    assert numbers.splits[0] <= MAX_SPLITS
    with pytest.raises(AssertionError, match="more sums than there is room for"):
        fill(room + 1)
