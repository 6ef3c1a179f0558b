"""Maps of cache types by layer: read, checked, written."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.kernels.formats.table import CACHE_TYPES
from pyllm.models.cache import layer_map
from pyllm.models.cache.layer_map import merged, parse, resolve, written
from pyllm.models.errors import UsageError

FLAG = "--cache-type-k-layers"


def types(text: str, n_layer: int) -> list[str]:
    return list(resolve(FLAG, parse(text), n_layer))


def test_the_last_layers_count_from_the_end() -> None:
    assert types("0-1:f16,2-27:q4_0,-2:f16", 30) == ["f16"] * 2 + ["q4_0"] * 26 + ["f16"] * 2


def test_others_take_the_type_given_beside_the_map() -> None:
    assert types(merged("q4_0", "1:q8_0"), 3) == types("*:q4_0,1:q8_0", 3) == ["q4_0", "q8_0", "q4_0"]
    assert merged(None, None) == "f16" and merged("q8_0", None) == "q8_0" and merged(None, "0:f16") == "0:f16"


def test_a_type_alone_is_for_all_layers() -> None:
    assert layer_map.types("k", "q8_0", 2) == ("q8_0", "q8_0")
    with pytest.raises(UsageError, match="--cache-type-k: 'q9'"):
        layer_map.types("k", "q9", 2)


@given(st.lists(st.sampled_from(CACHE_TYPES), min_size=1, max_size=40))
def test_what_is_written_reads_the_same(each: list[str]) -> None:
    assert types(written(each), len(each)) == each


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0-1:f16", "no type for layer 2-3; name them, or give the others' type with --cache-type-k"),
        ("0:f16,2-3:f16", "no type for layer 1;"),
        ("0-2:f16,2-3:q4_0", "both 0-2:f16 and 2-3:q4_0 name layer 2"),
        ("0-3:f16,-1:q4_0", "both 0-3:f16 and -1:q4_0 name layer 3"),
        ("0-4:f16", "0-4:f16: this model has 4 layers, 0 to 3"),
        ("*:f16,*:q8_0", "both say the rest's type"),
        ("-5:f16", "-5:f16: this model has 4 layers"),
    ],
)
def test_maps_that_do_not_fit_the_model(text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        types(text, 4)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", ",", "0", "0:", ":f16", "1-0:f16", "-0:f16", "0-1:x", "a:f16", "0:f16,", "0--1:f16"]
)
def test_what_is_no_map(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@given(st.text(max_size=20))
def test_any_text_is_a_map_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert parse(text)
