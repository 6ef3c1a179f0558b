"""The blueprint: read from the metadata, every value checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from pyllm.kernels.formats.table import CACHE_TYPES
from pyllm.models.arch.registry import read_config
from pyllm.models.cache.sizes import check_cache_type, side_bytes, token_bytes
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.config import Config, Layer, Rope
from pyllm.models.errors import ModelError, UsageError
from pyllm.models.file.gguf import GGUF

A = "llama.attention."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def config(path: Path, **kwargs: Any) -> Config:
    return read_config(GGUF.open(tiny.write(path, **{"n_layer": 1, "n_embd": 64, "n_head": 2, **kwargs})))


def rope(c: Config) -> Rope:
    assert c.layers[0].rope is not None
    return c.layers[0].rope


def test_all_fields(path: Path) -> None:
    c = config(path, n_layer=3, n_embd=96, n_head=3, n_head_kv=1, n_ff=64, n_ctx=77, n_vocab=300)
    assert c == Config(
        architecture="llama",
        name="tiny",
        n_layer=3,
        n_embd=96,
        n_ff=64,
        n_vocab=300,
        n_ctx_train=77,
        norm_eps=float(np.float32(1e-5)),
        layers=(Layer(3, 1, 32, 32, Rope(dim=32, base=10000.0, neox=False, n_ctx_orig=77), 32**-0.5),) * 3,
    )


def test_defaults_are_llama_cpps(path: Path) -> None:
    absent = ("general.name", "llama.rope.dimension_count", "llama.rope.freq_base", A + "head_count_kv")
    c = config(path, n_head_kv=2, overrides=dict.fromkeys(absent))
    assert (c.name, rope(c).dim, rope(c).base, c.n_head_kv) == ("model", 32, 10000.0, 2)


def test_heads_may_have_a_size_of_their_own(path: Path) -> None:
    c = config(path, n_head=3, n_head_kv=3, head_dim=48, overrides={A + "value_length": 40})
    assert (c.head_dim_k, c.head_dim_v) == (48, 40)


def test_counts_may_be_arrays_of_one_value(path: Path) -> None:
    per_layer = {A + "head_count": [2, 2], A + "head_count_kv": [1, 1], "llama.feed_forward_length": [96, 96]}
    c = config(path, n_layer=2, n_head_kv=1, overrides=per_layer)
    assert (c.n_head, c.n_head_kv, c.n_ff) == (2, 1, 96)


def test_the_vocabulary_without_tokens(path: Path) -> None:
    assert config(path, tokenizer=None).n_vocab == 272
    assert config(path, tokenizer=None, overrides={"llama.vocab_size": None}).n_vocab == 272


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, ("none", 1.0)),
        ({"type": "none", "factor": 4.0}, ("none", 1.0)),
        ({"type": "linear", "factor": 4.0}, ("linear", 4.0)),
        ({"factor": 4.0}, ("linear", 4.0)),
        ({"type": "linear", "factor": 0.0}, ("linear", 1.0)),
    ],
)
def test_rope_scaling(path: Path, metadata: dict[str, Any], expected: tuple[str, float]) -> None:
    c = config(path, overrides={f"llama.rope.scaling.{k}": v for k, v in metadata.items()})
    assert (rope(c).scaling, rope(c).factor) == expected


def test_old_rope_scaling(path: Path) -> None:
    c = config(path, overrides={"llama.rope.scale_linear": 2.0})
    assert (rope(c).scaling, rope(c).factor) == ("linear", 2.0)


COUNTS = (
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    A + "head_count",
    A + "head_count_kv",
    A + "key_length",
    A + "value_length",
    "llama.rope.dimension_count",
)
NUMBERS = (A + "layer_norm_rms_epsilon", "llama.rope.freq_base")
WRONG: list[tuple[str, Any, str]] = [
    *((key, bad, "must be") for key in COUNTS for bad in (0, -1, 1 << 40, 2.5, "two", True)),
    *((key, bad, "must be") for key in NUMBERS for bad in (0.0, -1.0, float("nan"), float("inf"), "two", True, [1.0])),
    *((key, None, "is missing") for key in COUNTS[:5]),
    (NUMBERS[0], None, "is missing"),
    ("general.architecture", None, "is missing"),
    ("general.architecture", 7, "must be a text"),
    ("general.architecture", "", "runs llama"),
    ("general.architecture", "gpt9\n\x1b", "which pyllm does not run; it runs llama"),
    ("general.name", 7, "must be a text"),
    (A + "head_count", 3, "3 heads do not divide the 64 values"),
    (A + "head_count", [2, 2], "has 2 entries for 1 layers"),
    (A + "head_count", ["2"], "a list of 1 texts"),
    (A + "head_count_kv", [0], "number 0 of 1 is 0"),
    (A + "head_count_kv", 4, "must divide the 2 query heads"),
    (A + "key_length", 33, "must be even"),
    ("llama.rope.dimension_count", 34, "must be from 2 to 32"),
    ("llama.rope.dimension_count", 7, "must be even"),
    ("llama.rope.scaling.type", "dynamic", "knows none, linear, yarn, longrope"),
    ("llama.rope.scaling.type", 1, "must be a text"),
    ("llama.rope.scaling.factor", -1.0, "must be"),
    ("llama.rope.scaling.factor", float("nan"), "must be"),
    ("llama.expert_count", "8", "must be"),
    ("tokenizer.ggml.tokens", ["a", "b"], "has 2 tokens, but token_embd.weight has 272 rows"),
    ("tokenizer.ggml.tokens", [1, 2], "must be a list of texts"),
]


@pytest.mark.parametrize(("key", "value", "says"), WRONG, ids=[f"{key}={value!r}" for key, value, _ in WRONG])
def test_refuses(path: Path, key: str, value: Any, says: str) -> None:
    with pytest.raises(ModelError) as error:
        config(path, overrides={key: value})
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert message.isprintable()
    assert ";" in message, "names no cure"
    assert key in message or "_length" in message  # what is wrong with a count of heads may show in their size


def test_heads_that_do_not_share_the_embedding(path: Path) -> None:
    with pytest.raises(ModelError, match="key_length: is missing, and 3 heads do not divide the 64 values"):
        config(path, n_head=3, n_head_kv=3)


def test_layers_that_differ(path: Path) -> None:
    with pytest.raises(ModelError, match="differs from layer to layer"):
        config(path, n_layer=2, overrides={A + "head_count_kv": [1, 2]})


def test_no_vocabulary_at_all(path: Path) -> None:
    with pytest.raises(ModelError, match="vocab_size: is missing"):
        config(path, tokenizer=None, overrides={"llama.vocab_size": None}, tensors={"token_embd.weight": None})


# The KV cache's types


@pytest.fixture
def heads_of(tmp_path: Path) -> Any:
    def make(k: int, v: int) -> Config:
        lengths = {A + "value_length": v}
        return config(tmp_path / "m.gguf", n_layer=5, n_head=4, n_head_kv=2, head_dim=k, overrides=lengths)

    return make


def test_bytes_of_a_token(heads_of: Any) -> None:
    c = heads_of(64, 32)
    assert side_bytes(c, CacheSpec("q8_0"), "k") == 5 * 2 * 2 * 34
    assert side_bytes(c, CacheSpec(v="q8_0"), "v") == 5 * 2 * 34
    assert token_bytes(c, CacheSpec("f16", "q4_0")) == 5 * 2 * (64 * 2 + 18)
    assert token_bytes(c, CacheSpec("f32", "f32")) == 5 * 2 * 96 * 4


def test_every_cache_type_fits_heads_of_32(heads_of: Any) -> None:
    c = heads_of(32, 32)
    for cache_type in CACHE_TYPES:
        assert check_cache_type(c, "k", cache_type).name == cache_type


@pytest.mark.parametrize("side", ["k", "v"])
def test_heads_that_do_not_fill_a_block(heads_of: Any, side: str) -> None:
    c = heads_of(80, 64) if side == "k" else heads_of(64, 80)
    assert check_cache_type(c, "v" if side == "k" else "k", "q8_0").size == 32
    with pytest.raises(UsageError) as error:
        check_cache_type(c, side, "q8_0")
    message = str(error.value)
    assert message.startswith(f"--cache-type-{side} q8_0: ")
    assert "80 values" in message
    assert message.endswith("use one of f32, f16, bf16")


@pytest.mark.parametrize("cache_type", ["", "q9", "Q8_0", "mxfp4", "q4_k"])
def test_unknown_cache_types(heads_of: Any, cache_type: str) -> None:
    with pytest.raises(UsageError, match=f"unknown cache type; use one of {', '.join(CACHE_TYPES)}"):
        check_cache_type(heads_of(32, 32), "k", cache_type)
