"""Bits by layer: the budget is kept, and more loss gets more bits."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.bench.quality.split import allocate
from pyllm.kernels.formats.table import FORMATS
from pyllm.models.arch.registry import read_config
from pyllm.models.cache.layer_map import written
from pyllm.models.cache.sizes import token_bytes
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.config import Config
from pyllm.models.file.gguf import GGUF

TYPES = ("f16", "q8_0", "q4_0")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return read_config(GGUF.open(tiny.write(tmp_path_factory.mktemp("m") / "m.gguf", n_layer=4)))


def nbytes(config: Config, found: dict[str, list[str]]) -> int:
    return token_bytes(config, CacheSpec(written(found["k"]), written(found["v"])))


@settings(deadline=None, max_examples=50)
@given(loss=st.lists(st.floats(0, 1), min_size=8, max_size=8), share=st.floats(0, 1))
def test_the_budget_is_kept(config: Config, loss: list[float], share: float) -> None:
    least, most = (token_bytes(config, CacheSpec(t, t)) for t in ("q4_0", "f16"))
    budget = round(least + share * (most - least))
    found = allocate({(s, i): loss[4 * (s == "v") + i] for s in "kv" for i in range(4)}, TYPES, config, budget)
    assert least <= nbytes(config, found) <= budget


def test_bits_go_where_the_loss_is(config: Config) -> None:
    loss = {(s, i): 0.1 if (s, i) in (("k", 0), ("k", 3)) else 0.001 for s in "kv" for i in range(4)}
    step = (
        FORMATS["q8_0"].nbytes - FORMATS["q4_0"].nbytes
    ) * 2  # bytes per token of one layer's K or V: 2 heads of one block each
    budget = token_bytes(config, CacheSpec("q4_0", "q4_0")) + 2 * step
    found = allocate(loss, TYPES, config, budget)
    assert found == {"k": ["q8_0", "q4_0", "q4_0", "q8_0"], "v": ["q4_0"] * 4}


def test_a_budget_below_the_smallest_types_gives_these(config: Config) -> None:
    found = allocate({(s, i): 1.0 for s in "kv" for i in range(4)}, TYPES, config, 0)
    assert found == {"k": ["q4_0"] * 4, "v": ["q4_0"] * 4}
