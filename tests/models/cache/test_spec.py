"""CacheSpec: one value, however it is said; flags give it, and it prints as flags."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.kernels.formats.table import CACHE_TYPES
from pyllm.models.cache.layer_map import parse, resolve
from pyllm.models.cache.rotation import MODES
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.errors import UsageError

N_LAYER = 30

TYPE = st.sampled_from(CACHE_TYPES)
LAYERS = st.one_of(
    st.builds("{}".format, st.integers(0, N_LAYER - 1)),
    st.builds(lambda a, n: f"{a}-{a + n}", st.integers(0, 20), st.integers(1, 9)),
    st.builds("-{}".format, st.integers(1, N_LAYER)),
    st.just("*"),
)
MAP = st.lists(st.builds("{}:{}".format, LAYERS, TYPE), min_size=1, max_size=6).map(",".join)
SIDE = st.one_of(TYPE, MAP)
SPEC = st.builds(CacheSpec, SIDE, SIDE, st.sampled_from(list(MODES)))


@given(SPEC)
def test_prints_as_flags(spec: CacheSpec) -> None:
    assert CacheSpec.parse(str(spec)) == spec
    assert "auto" not in str(spec)


@given(SPEC)
def test_a_spec_is_what_its_parts_say(spec: CacheSpec) -> None:
    same = CacheSpec(spec.k, spec.v, spec.rotate)
    assert same == spec and hash(same) == hash(spec)
    assert spec.key == same.key == f"{spec.k}/{spec.v} {spec.rotate}" == f"{spec.pair} {spec.rotate}"


@given(st.lists(st.builds("{}:{}".format, LAYERS, TYPE), min_size=1, max_size=5).flatmap(st.permutations))
def test_layers_mean_the_same_after_sorting(entries: list[str]) -> None:
    """A map in its one form gives each layer the type that the map as written does, or is refused as that is."""
    written = [*entries, *([] if any(e.startswith("*") for e in entries) else ["*:f16"])]
    try:
        expected = resolve("-ctk", parse(",".join(written)), N_LAYER)
    except UsageError:
        with pytest.raises(UsageError):
            CacheSpec(",".join(written)).side("k", N_LAYER)
    else:
        assert CacheSpec(",".join(written)).side("k", N_LAYER) == expected


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (CacheSpec(), CacheSpec("f16", "f16", "auto", "")),
        (CacheSpec("*:q8_0"), CacheSpec("q8_0")),
        (CacheSpec("2:q4_0, 0-1:f16,*:q8_0"), CacheSpec("*:q8_0,0-1:f16,2:q4_0")),
        (CacheSpec("-2:f16,0:f16,*:q4_0"), CacheSpec("0:f16,*:q4_0,-2:f16")),
        (CacheSpec.of_flags("q8_0", "0:f16", None, None), CacheSpec("0:f16,*:q8_0")),
        (CacheSpec.of_flags(None, None, None, "0-1:f16"), CacheSpec("f16", "0-1:f16")),
        (CacheSpec.parse("-ctk q8_0 --cache-type-v=q4_0"), CacheSpec("q8_0", "q4_0")),
        (CacheSpec.parse(""), CacheSpec()),
    ],
    ids=str,
)
def test_the_same_said_in_two_ways(a: CacheSpec, b: CacheSpec) -> None:
    assert a == b and hash(a) == hash(b) and len({a, b}) == 1
    assert str(a) == str(b) and a.key == b.key


@pytest.mark.parametrize(
    ("spec", "key", "flags"),
    [
        (CacheSpec(), "f16/f16 auto", "-ctk f16 -ctv f16"),
        (CacheSpec("q8_0", "q4_0", "none"), "q8_0/q4_0 none", "-ctk q8_0 -ctv q4_0 --cache-rotate none"),
        (
            CacheSpec("0-1:f16,*:q4_0", "f32"),
            "0-1:f16,*:q4_0/f32 auto",
            "--cache-type-k-layers=0-1:f16,*:q4_0 -ctv f32",
        ),
        (CacheSpec("-2:f16,*:q4_0"), "-2:f16,*:q4_0/f16 auto", "--cache-type-k-layers=-2:f16,*:q4_0 -ctv f16"),
    ],
    ids=str,
)
def test_key_and_flags(spec: CacheSpec, key: str, flags: str) -> None:
    """Studies on disk are read by the key: it must not change."""
    assert (spec.key, str(spec)) == (key, flags)


@given(SPEC, SPEC)
def test_keys_differ_as_specs_do(a: CacheSpec, b: CacheSpec) -> None:
    assert (a == b) == (a.key == b.key) == (str(a) == str(b))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-ctk q9", "--cache-type-k: 'q9' must be layers and a type"),
        ("-ctv 0:q9", "--cache-type-v: '0:q9': q9 is no cache type; use one of f32, f16"),
        ("--cache-type-v-layers 1-0:f16", "--cache-type-v: '1-0:f16' names no layer"),
        ("--cache-rotate some", "--cache-rotate some: unknown; use one of auto, k, v, both, none"),
        ("-ctk", "--cache-type-k: has no value"),
        ("-ctk f16 --cache-type-k f16", "'--cache-type-k': not a flag of a cache; use --cache-type-k, "),
        ("-ctk 'f16", '"-ctk \'f16": No closing quotation; '),
        ("--temp 0", "'--temp': not a flag of a cache; use --cache-type-k, "),
    ],
)
def test_flags_that_say_no_cache(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        CacheSpec.parse(text)
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_policies_that_nobody_knows() -> None:
    with pytest.raises(UsageError, match="--cache-policy snap: unknown policy; use streaming, chance, h2o"):
        CacheSpec(policy="snap")


@pytest.mark.parametrize("make", [CacheSpec.parse, CacheSpec, lambda said: CacheSpec(rotate=said)])
@given(text=st.text(max_size=30))
def test_any_text_is_a_spec_or_refused(make: Callable[[str], CacheSpec], text: str) -> None:
    try:
        spec = make(text)
    except UsageError:
        return
    assert CacheSpec.parse(str(spec)) == spec


def test_a_map_and_the_model() -> None:
    spec = CacheSpec("0:q8_0,*:f16", "q4_0")
    assert spec.layers(3) == [("q8_0", "q4_0"), ("f16", "q4_0"), ("f16", "q4_0")]
    assert spec.side("v", 2) == ("q4_0", "q4_0")
    with pytest.raises(UsageError, match="--cache-type-k-layers 0-3:q8_0: this model has 3 layers, 0 to 2"):
        CacheSpec("0-3:q8_0").layers(3)
