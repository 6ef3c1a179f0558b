"""llama-bench's lists and ranges, and the grid that they span."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.bench.speed.cases import LIMIT, Case, Grid, label, names, numbers, pairs
from pyllm.models.errors import UsageError

SMALL = st.integers(0, 5000)


def grid(**lists: object) -> list[Case]:
    one: dict[str, object] = {
        "models": [Path("a.gguf")], "n_prompt": [512], "n_gen": [128], "pairs": [], "n_depth": [0], "n_batch": [2048],
        "n_ubatch": [512], "type_k": ["f16"], "type_v": ["f16"], "cache_rotate": ["auto"],
        "n_threads": [2],
    }  # fmt: skip
    return Grid(**{**one, **lists}).cases()  # type: ignore[arg-type]


@given(st.lists(st.lists(SMALL, min_size=1), min_size=1))
def test_lists_and_repeated_flags(lists: list[list[int]]) -> None:
    texts = [",".join(map(str, values)) for values in lists]
    assert numbers("-p", texts, 0) == [value for values in lists for value in values]


@given(SMALL, SMALL, st.integers(1, 5000))
def test_ranges_with_a_step(first: int, more: int, step: int) -> None:
    last = first + more
    assert numbers("-d", [f"{first}-{last}+{step}"], 0) == list(range(first, last + 1, step))
    assert numbers("-d", [f"{first}-{last}"], 0) == list(range(first, last + 1))


@given(st.integers(1, 5000), SMALL, st.integers(2, 50))
def test_ranges_with_a_factor(first: int, more: int, factor: int) -> None:
    values = numbers("-t", [f"{first}-{first + more}*{factor}"], 1)
    assert values[0] == first and values[-1] <= first + more < values[-1] * factor
    assert all(b == a * factor for a, b in pairwise(values))


@given(st.text("0123456789-+*,. x", max_size=12))
def test_any_text_is_numbers_or_a_usage_error(text: str) -> None:
    try:
        values = numbers("-p", [text], 1)
    except UsageError as error:
        assert str(error).startswith("-p: ") and "\n" not in str(error)
    else:
        assert values and all(1 <= value <= LIMIT for value in values)


@pytest.mark.parametrize(
    "text", ["", "x", "-5", "1,,2", "4-2", "0-8*2", "1-8*1", "1-8+0", "1-1000000", "9999999", "9" * 70, "1-2-3", "1.5"]
)
def test_mistakes_name_the_flag(text: str) -> None:
    with pytest.raises(UsageError, match=r"^-d: "):
        numbers("-d", [text], 0)


def test_bounds() -> None:
    assert numbers("-p", ["0"], 0) == [0]
    with pytest.raises(UsageError, match="-t: 0 must rise within 1 to 1024"):
        numbers("-t", ["0"], 1, 1024)


def test_names() -> None:
    assert names("-ctk", ["f16,q8_0", "f32"], ("f32", "f16", "q8_0")) == ["f16", "q8_0", "f32"]
    with pytest.raises(UsageError, match="-ctk: 'q9' is none of f32, f16"):
        names("-ctk", ["f16,q9"], ("f32", "f16"))


def test_pairs() -> None:
    assert pairs("-pg", ["512,128", "64,0"]) == [(512, 128), (64, 0)]
    for text in ("512", "1,2,3", "1-2,3", "a,b"):
        with pytest.raises(UsageError, match=r"^-pg: "):
            pairs("-pg", [text])


def test_the_grid_is_full_and_in_llama_benchs_order() -> None:
    found = grid(n_depth=[0, 64], type_k=["f16", "q8_0"], type_v=["f16", "q4_0"], n_threads=[1, 2], pairs=[(8, 4)])
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 2 * 3
    assert [(c.n_prompt, c.n_gen) for c in found[:3]] == [(512, 0), (0, 128), (8, 4)]
    assert [c.n_depth for c in found] == [0] * 24 + [64] * 24  # outermost
    assert [c.n_threads for c in found[:6]] == [1, 1, 1, 2, 2, 2]  # innermost


def test_zero_tokens_are_no_case() -> None:
    assert [(c.n_prompt, c.n_gen) for c in grid(n_prompt=[0])] == [(0, 128)]
    assert len(grid(n_prompt=[8, 8])) == 2
    with pytest.raises(UsageError, match="nothing to measure"):
        grid(n_prompt=[0], n_gen=[0])


def test_what_an_engine_is_loaded_for() -> None:
    a, b = grid(n_batch=[64, 2048], n_ubatch=[128], n_gen=[0])
    assert (a.setup.n_rows, b.setup.n_rows) == (64, 128)
    assert len({case.setup for case in grid(n_depth=[0, 64])}) == 1


def test_labels() -> None:
    assert label(512, 0, 0) == "pp512"
    assert label(0, 128, 4096) == "tg128 @ d4096"
    assert label(512, 128, 0) == "pp512+tg128"
