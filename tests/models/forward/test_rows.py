"""The buffers of a step: their memory is what sizes.py says at most, and attention's sums fit in theirs."""

from __future__ import annotations

from pathlib import Path

import architectures
import numpy as np
import pytest

from pyllm.kernels.lang import cpu
from pyllm.kernels.lang.buffers import aligned
from pyllm.kernels.shapes import PAGE, PART
from pyllm.models.arch.registry import load_weights, read_config
from pyllm.models.cache.sizes import buffer_bytes, sums_places
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.cache.store import KVCache
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward import mixture, rows
from pyllm.models.forward.loaded import Loaded
from pyllm.models.forward.positions import Positions
from pyllm.models.forward.recorder import Recorder
from pyllm.models.forward.rows import Buffers
from pyllm.models.forward.span import Span
from pyllm.models.forward.step import PlanKind, Step

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
    numbers = Step(n_batch, THREADS, c.n_head_kv, windows=[t.window for t in kv.tables], experts=c.expert_count,
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


def test_sums_that_have_no_room(tmp_path: Path) -> None:
    config = read_config(GGUF.open(architectures.write(tmp_path, "llama", "f32")))
    places = sums_places(5 * PART * PAGE)
    numbers, sums = Step(3, THREADS, config.n_head_kv, places=places), Buffers(config, 3, 1, THREADS, places).sums
    assert len(sums) == places * config.n_head
    table = np.arange(6 * PART)

    def fill(tokens: int) -> None:
        numbers.fill([Span([5], tokens - 1, [table])], [0], group=1)

    fill(5 * PART * PAGE)
    assert numbers.places[0] == places
    with pytest.raises(AssertionError, match="more sums than there is room for"):
        fill(5 * PART * PAGE + 1)
