"""The grid of many sequences, and the pages that its cases take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_bench import batched_case
from hypothesis import given
from hypothesis import strategies as st

from pyllm.bench.batched.grid import BatchedGrid
from pyllm.bench.batched.steps import room
from pyllm.kernels.shapes import PAGE
from pyllm.models.errors import UsageError


def grid(**values: Any) -> BatchedGrid:
    usual: dict[str, Any] = {
        "models": [Path("a.gguf")], "n_prompt": [8], "n_gen": [4], "n_sequences": [1], "shared": False,
        "n_batch": [2048], "n_ubatch": [512], "type_k": ["f16"], "type_v": ["f16"], "cache_rotate": ["auto"],
        "n_threads": [1],
    }  # fmt: skip
    return BatchedGrid(**{**usual, **values})


def test_in_the_peers_order_within_a_setup() -> None:
    found = grid(n_prompt=[8, 0], n_gen=[4, 0], n_sequences=[1, 2], type_v=["f16", "q4_0"]).cases()
    tests = [(8, 4, 1), (8, 4, 2), (8, 0, 1), (8, 0, 2), (0, 4, 1), (0, 4, 2)]
    assert [(c.n_prompt, c.n_gen, c.n_sequences) for c in found] == tests * 2
    assert [c.cache.v for c in found] == ["f16"] * 6 + ["q4_0"] * 6


def test_each_case_once() -> None:
    assert len(grid(n_sequences=[2, 2]).cases()) == 1


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"n_prompt": [0], "n_gen": [0]}, "nothing to measure"),
        ({"n_sequences": [513]}, "-npl 513: a step has at most 512 rows"),
        ({"n_sequences": [8], "n_batch": [4]}, "-npl 8: a step has at most 4 rows"),
    ],
)
def test_what_no_step_can_do(values: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        grid(**values).cases()


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 40))
def test_a_shared_prompt_takes_fewer_pages(prompt: int, gen: int, rows: int) -> None:
    apart, shared = (
        batched_case(n_prompt=prompt, n_gen=gen, n_sequences=rows, shared=shared) for shared in (False, True)
    )
    assert apart.n_pages - shared.n_pages == (rows - 1) * (prompt // PAGE)
    assert apart.n_pages == rows * -(-(prompt + gen) // PAGE)
    assert (apart.n_kv, shared.n_kv) == (rows * (prompt + gen), prompt + rows * gen)


def test_the_largest_case_decides() -> None:
    cases = [batched_case(n_sequences=4), batched_case(n_prompt=1000), batched_case(n_sequences=64, type_k="q8_0")]
    assert room(cases[0].setup, cases) == (2 * 16 * PAGE, 4)


def test_a_case_says_what_it_is() -> None:
    assert str(batched_case(shared=True, type_v="q4_0")) == "pp8 tg4 B2 shared f16/q4_0 -t 1"
