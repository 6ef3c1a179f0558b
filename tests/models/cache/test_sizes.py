"""The bytes that sizes.py says are those that the cache takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.kernels.formats.table import CACHE_TYPES, Format
from pyllm.kernels.shapes import MAX_TABLES
from pyllm.models.arch.registry import read_config
from pyllm.models.cache import sizes
from pyllm.models.cache.sizes import cache_bytes, side_bytes, token_bytes
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.cache.store import KVCache
from pyllm.models.config import Config
from pyllm.models.file.gguf import GGUF

TYPES = st.sampled_from(CACHE_TYPES)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tiny.write(tmp_path_factory.mktemp("tiny") / "m.gguf", n_layer=4, n_embd=128, n_head=2, n_head_kv=2)
    return read_config(GGUF.open(path))  # heads of 64


@given(
    k=st.lists(TYPES, min_size=4, max_size=4),
    v=TYPES,
    windows=st.lists(st.sampled_from([0, 1, 70, 700]), min_size=4, max_size=4),
    n_ctx=st.integers(1, 3000),
    n_batch=st.integers(1, 1200),
    sequences=st.integers(1, 4),
)
@settings(deadline=None, max_examples=60)
def test_cache_bytes(
    config: Config, k: list[str], v: str, windows: list[int], n_ctx: int, n_batch: int, sequences: int
) -> None:
    layers = tuple(replace(layer, window=window) for layer, window in zip(config.layers, windows, strict=True))
    config = replace(config, layers=layers)
    spec = CacheSpec(",".join(f"{i}:{name}" for i, name in enumerate(k)), v)
    kv = KVCache(config, spec, n_ctx, n_batch=n_batch, sequences=sequences)
    assert kv.nbytes == cache_bytes(config, spec, n_ctx, n_batch=n_batch, sequences=sequences)
    assert len(kv.tables) == len({0, *windows}) <= MAX_TABLES
    assert token_bytes(config, spec) == side_bytes(config, spec, "k") + side_bytes(config, spec, "v")
    if not any(windows):
        assert kv.nbytes == kv.tokens * token_bytes(config, spec)


def test_a_type_is_checked_once_for_all_layers(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check looks at all layers, so the time must not grow with the square of their number."""
    checked: list[str] = []
    check = sizes.check_cache_type

    def count(config: Config, side: str, name: str) -> Format:
        checked.append(name)
        return check(config, side, name)

    monkeypatch.setattr(sizes, "check_cache_type", count)
    side_bytes(config, CacheSpec("0:f16,1:q8_0,*:q4_0", "f16"), "k")
    assert sorted(checked) == ["f16", "q4_0", "q8_0"]
