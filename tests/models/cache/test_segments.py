"""Segments: what a policy's text means, where tokens lie, and that pages and bytes add up."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.engine.sequence import Sequence, pools
from pyllm.kernels.formats.table import CACHE_TYPES
from pyllm.kernels.shapes import PAGE, pages
from pyllm.models.arch.registry import read_config
from pyllm.models.cache.kinds import step_rows
from pyllm.models.cache.sizes import cache_bytes, check, held_bytes, segment_bytes, token_bytes
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.cache.store import KVCache
from pyllm.models.config import Config
from pyllm.models.errors import UsageError
from pyllm.models.file.gguf import GGUF

FLOATS = st.sampled_from(["f32", "f16", "bf16"])
TYPES = st.sampled_from(CACHE_TYPES)
TOKENS = st.integers(0, 400)
POLICY = st.one_of(
    st.builds("sink={}:{}/{},tail={}:{}".format, TOKENS, TYPES, TYPES, TOKENS, FLOATS),
    st.builds("tail={}:{}/{}".format, TOKENS, FLOATS, FLOATS),
    st.builds("streaming,sink={},window={}".format, TOKENS, TOKENS),
    st.builds("my own.py,sink={},tail={}".format, TOKENS, TOKENS),
    st.builds("h2o,sink={}:{},keep={},tail={}:{}".format, TOKENS, TYPES, st.integers(1, 400), TOKENS, FLOATS),
    st.builds("my own.py,keep={}".format, st.integers(1, 400)),
)
SPEC = st.builds(CacheSpec, TYPES, TYPES, policy=POLICY)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tiny.write(tmp_path_factory.mktemp("tiny") / "m.gguf", n_layer=2, n_embd=128, n_head=2, n_head_kv=2)
    return read_config(GGUF.open(path))


@given(SPEC)
def test_prints_as_flags(spec: CacheSpec) -> None:
    assert CacheSpec.parse(str(spec)) == spec
    assert spec.key.removesuffix(spec.policy).strip() == f"{spec.pair} auto"


@pytest.mark.parametrize(
    ("policy", "body", "normal"),
    [
        ("sink=64:f16,tail=128:f16", "f16", ""),
        ("sink=0,tail=0", "f16", ""),
        ("tail=128, sink=64", "q4_0", "sink=64:f16,tail=128:f16"),
        ("sink=4:f32/f16", "q4_0", "sink=4:f32/f16,tail=0:f32/f16"),
        ("sink=64:f16,tail=128:f32", "f16", "tail=128:f32"),
        ("streaming", "q4_0", "streaming,sink=4,window=1020"),
        ("a.py", "f16", "a.py,tail=0:f32"),
        ("a.py,keep=9", "q4_0", "a.py,keep=9,tail=0:f16"),
        ("h2o", "q4_0", "h2o,keep=512,tail=512:f16"),
        ("snapkv,sink=4", "q4_0", "snapkv,sink=4:f16,keep=960,tail=64:f16"),
    ],
)
def test_normal_form(policy: str, body: str, normal: str) -> None:
    """Segments in the body's types are none, so such a cache is the same as one without a policy."""
    assert CacheSpec(body, body, policy=policy).policy == normal


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("strem", "strem: unknown policy; use streaming, "),
        ("streming", "did you mean streaming"),
        ("sink=4:q9", "sink=4:q9: q9 is no cache type; use one of f32, "),
        ("sink=-1", "sink=-1: must be N or N:TYPE, as in sink=64:f16"),
        ("sink=99999999", "sink=99999999: must be N or N:TYPE"),
        ("sink=1,sink=2", "sink=2: use sink=N and tail=N, each once"),
        ("streaming,tail=2", "tail=2: use sink=N and window=N, each once"),
        ("streaming,sink=4:f16", "sink=4:f16: must be a number of tokens"),
        ("keep=3", "keep=3: use sink=N and tail=N, each once"),
        ("h2o,keep=0", "keep=0: keeps no token; give it 64 or more, or take streaming"),
        ("h2o,keep=64:f16", "keep=64:f16: must be a number of tokens"),
        ("h2o,tail=64:q4_0", "tail=64:q4_0: tokens of q4_0 would be encoded anew; give the tail f32, f16 or bf16"),
        ("h2", "h2: unknown policy; use streaming, "),
        ("h3o", "did you mean h2o"),
        ("tail=3:q8_0", "tail=3:q8_0: K of q8_0 is to be encoded anew as q4_0; give the tail f32, f16 or bf16"),
    ],
)
def test_what_is_no_policy(policy: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        CacheSpec("q4_0", "q4_0", policy=policy)
    assert str(caught.value).startswith("--cache-policy ") and says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_whose_layers_all_have_windows(config: Config) -> None:
    from dataclasses import replace

    windowed = replace(config, layers=tuple(replace(layer, window=9) for layer in config.layers))
    with pytest.raises(UsageError, match="all layers of this model have a window"):
        check(windowed, CacheSpec("q4_0", policy="streaming"))


@settings(deadline=None, max_examples=60)
@given(spec=SPEC, n_ctx=st.integers(1, 3000), sequences=st.integers(1, 3), tokens=st.integers(1, 3000))
def test_bytes_add_up(config: Config, spec: CacheSpec, n_ctx: int, sequences: int, tokens: int) -> None:
    kv = KVCache(config, spec, n_ctx, n_batch=100, sequences=sequences)
    assert kv.nbytes == cache_bytes(config, spec, n_ctx, n_batch=100, sequences=sequences)
    if spec.borders is None:
        return
    held = [range(0, 0)] * len(kv.tables)
    for place in kv.segments(0):
        held[place.kind] = kv.positions(place, tokens, kv.tables[place.kind].first)
    lie = [i for positions in held for i in positions]
    assert len(set(lie)) == len(lie), "no token lies twice"
    if spec.borders.body and spec.borders.most is None:
        assert sorted(lie) == list(range(tokens)), "and each once"
    assert held_bytes(config, spec, tokens) == sum(
        len(positions) * nbytes for positions, nbytes in zip(held, segment_bytes(config, spec), strict=True)
    )
    segments = spec.segments
    assert segments is not None and len(held[-2]) >= min(tokens, segments.tail.tokens)
    if not spec.borders.body:
        most = (spec.borders.sink + spec.borders.tail) * PAGE
        assert held_bytes(config, spec, tokens) <= most * token_bytes(config, spec)
    if spec.borders.most is not None:
        assert (
            len(held[0])
            == min(segments.borders.most or 0, max(0, spec.borders.left(tokens) - spec.borders.sink)) * PAGE
        )


@settings(deadline=None, max_examples=60)
@given(spec=SPEC, n_ctx=st.integers(64, 2000), steps=st.lists(st.tuples(st.booleans(), st.integers(1, 600))))
def test_pages_add_up(config: Config, spec: CacheSpec, n_ctx: int, steps: list[tuple[bool, int]]) -> None:
    """A sequence that grows and is rewound holds what its next row sees, and always has pages to go on."""
    kv = KVCache(config, spec, n_ctx, n_batch=512)
    all_pages = pools(kv)
    sequence, rows = Sequence(all_pages, kv, n_ctx), step_rows(kv.borders, 512)
    for back, n in steps:
        if back:
            kept = sequence.rewind(max(0, sequence.n_past - n))
            assert kept == sequence.n_past and (kept or not sequence.tokens)
        while not back and n and sequence.n_past < n_ctx:
            take = sequence.at_once(min(n, rows, n_ctx - sequence.n_past))
            span = sequence.span([1] * take, prompt=True)
            if kv.borders is not None:
                first = kv.borders.left(span.position)
                tail = sequence.tables[-2]
                assert tail.first <= first and tail.count == pages(span.position + take)
            sequence.extend(span.tokens)
            n -= take
        for pool, table in zip(all_pages, sequence.tables, strict=True):
            held = table.pages[table.first : table.count].tolist()
            assert len(set(held)) == len(held) == pool.size - pool.free
    sequence.rewind(0)
    assert all(pool.free == pool.size for pool in all_pages)
