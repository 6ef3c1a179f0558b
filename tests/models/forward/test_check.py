"""The operation that first gives NaN or infinity is named: in decode, in a batch, and in any of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from pyllm.engine.llm import LLM
from pyllm.models.errors import NumberError

TOKENS = list(range(3, 23))


def answer(path: Path, cache_type: str = "f32") -> None:
    """Run a prompt of two batches and one token, with checks."""
    llm = LLM(path, n_ctx=128, cache_type_k=cache_type, cache_type_v="f32", n_threads=1, n_batch=16)
    llm.checked = True
    try:
        session = llm.session()
        session.prefill(TOKENS)
        session.decode(1)
    finally:
        llm.close()


SHAPE = {"n_embd": 192, "n_head": 6, "n_head_kv": 2, "n_ff": 96, "n_layer": 3}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("tensor", "shape", "where"),
    [
        ("blk.0.attn_norm", (192,), "blk.0.norm"),
        ("blk.1.attn_v", (64, 192), "blk.1.attn_v"),
        ("blk.1.ffn_down", (192, 96), "blk.1.ffn_down"),
        ("blk.2.ffn_gate", (96, 192), "blk.2.ffn_gate"),
        ("output", (272, 192), "output"),
    ],
)
def test_the_first_operation_that_gives_no_number(
    value: float, tensor: str, shape: tuple[int, ...], where: str, tmp_path: Path
) -> None:
    broken = np.ones(shape, np.float32)
    broken.flat[7] = value
    path = tiny.write(tmp_path / "broken.gguf", **SHAPE, tensors={f"{tensor}.weight": broken})
    with pytest.raises(NumberError) as error:
        answer(path)
    assert str(error.value).startswith(f"{path}: {where}: is the first to give values that are not numbers; ")


def test_a_token_in_the_first_batch_that_breaks_only_its_own_row(tmp_path: Path) -> None:
    """K and V are in the cache before the last token's logits break: the operation is found in its own layer."""
    table = np.random.default_rng(0).standard_normal((272, 192), dtype=np.float32)
    table[TOKENS[2], 5] = np.nan
    path = tiny.write(tmp_path / "broken.gguf", **SHAPE, tensors={"token_embd.weight": table})
    with pytest.raises(NumberError, match=": embed: is the first"):
        answer(path)


def test_k_that_its_type_does_not_hold(tmp_path: Path) -> None:
    large = np.full((64, 192), 1e5, np.float32)
    path = tiny.write(tmp_path / "large.gguf", **SHAPE, tensors={"blk.1.attn_k.weight": large})
    answer(path)
    with pytest.raises(NumberError, match=r"blk\.1\.rope_store: .*-ctk f32"):
        answer(path, "f16")
