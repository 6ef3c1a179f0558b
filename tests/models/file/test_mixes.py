"""The format of each tensor is the one that llama.cpp's quantize gives the same name and shape."""

from __future__ import annotations

from collections import Counter

import pytest

from pyllm.models.file.mixes import MIXES, Shape, choose, quantizes

DENSE = Shape(n_layer=32, n_expert=0, group=1, tied=False)
ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def chosen(type: str, model: Shape, role: str) -> list[str]:
    return [choose(MIXES[type], model, f"blk.{i}.{role}.weight", 4096).name for i in range(model.n_layer)]


def test_q4_k_m_gives_more_bits_to_half_of_the_layers() -> None:
    more = [i for i, name in enumerate(chosen("Q4_K_M", DENSE, "ffn_down")) if name == "q6_k"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert chosen("Q4_K_M", DENSE, "attn_v") == chosen("Q4_K_M", DENSE, "ffn_down")
    assert set(chosen("Q4_K_M", DENSE, "attn_q") + chosen("Q4_K_M", DENSE, "ffn_up")) == {"q4_k"}


@pytest.mark.parametrize(
    ("type", "counts"),
    [
        ("Q8_0", {"q8_0": 224}),
        ("Q4_0", {"q4_0": 224}),
        ("Q5_K_M", {"q5_k": 192, "q6_k": 32}),
        ("Q4_K_S", {"q4_k": 216, "q5_k": 8}),
        ("Q3_K_M", {"q3_k": 128, "q4_k": 92, "q5_k": 4}),
        ("Q3_K_L", {"q3_k": 128, "q5_k": 96}),
        ("Q2_K", {"q2_k": 128, "q3_k": 96}),
        ("IQ4_XS", {"iq4_xs": 220, "q5_k": 4}),
    ],
)
def test_counts_in_a_model_of_32_layers(type: str, counts: dict[str, int]) -> None:
    assert Counter(name for role in ROLES for name in chosen(type, DENSE, role)) == counts


def test_output_and_embedding() -> None:
    tied = Shape(32, 0, 1, tied=True)
    for model, name, type, expected in (
        (DENSE, "output.weight", "Q4_K_M", "q6_k"),
        (DENSE, "output.weight", "Q4_0", "q6_k"),
        (DENSE, "output.weight", "Q8_0", "q8_0"),
        (DENSE, "output.weight", "F16", "f16"),
        (DENSE, "token_embd.weight", "Q4_K_M", "q4_k"),
        (tied, "token_embd.weight", "Q4_K_M", "q6_k"),
    ):
        assert choose(MIXES[type], model, name, 4096).name == expected
    assert choose(MIXES["Q4_K_M"], DENSE, "output.weight", 2880 + 32).name == "q8_0"


def test_shared_heads_and_experts() -> None:
    assert set(chosen("Q2_K", Shape(32, 0, 4, False), "attn_v")) == {"q4_k"}
    assert set(chosen("IQ4_XS", Shape(32, 0, 4, False), "attn_v")) == {"q5_k"}
    assert set(chosen("Q4_K_M", Shape(32, 8, 1, False), "attn_k")) == {"q8_0"}
    assert chosen("Q4_K_M", Shape(32, 8, 1, False), "ffn_down_exps") == chosen("Q4_K_M", DENSE, "ffn_down")


@pytest.mark.parametrize(
    ("type", "expected"),
    [("Q4_K_S", "q5_0"), ("Q5_K_S", "q5_1"), ("Q6_K", "q8_0"), ("Q2_K", "q4_0"), ("IQ4_XS", "iq4_nl")],
)
def test_rows_that_fit_no_super_block(type: str, expected: str) -> None:
    assert choose(MIXES[type], DENSE, "blk.9.ffn_up.weight", 2880).name == expected


def test_what_stays() -> None:
    assert quantizes("blk.0.ffn_down_exps.weight", (8, 64, 64))
    for name, shape in (
        ("blk.0.attn_norm.weight", (64,)),
        ("blk.0.attn_q.bias", (64,)),
        ("blk.0.attn_q_norm.weight", (4, 64)),
        ("blk.0.ffn_gate_inp.weight", (8, 64)),
        ("rope_freqs.weight", (32,)),
    ):
        assert not quantizes(name, shape), name
