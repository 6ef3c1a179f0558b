"""Each architecture with a file that is not as it must be: one line names what is wrong, and never another error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import tiny

from pyllm.models.arch.registry import load_weights, read_config
from pyllm.models.errors import ModelError
from pyllm.models.file.gguf import GGUF

OPTIONAL = ("rope_freqs.weight", "output.weight")


@pytest.fixture(scope="module", params=architectures.MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GGUF:
    return GGUF.open(architectures.write(tmp_path_factory.mktemp("tiny"), request.param, "f32"))


def load(g: GGUF) -> None:
    load_weights(g, read_config(g))


def refusal(g: GGUF) -> str:
    with pytest.raises(ModelError) as error:
        load(g)
    message = str(error.value)
    assert message.startswith(f"{g.path}: ")
    assert message.isprintable()
    return message


def of_first_layer(g: GGUF) -> list[str]:
    return [name for name in g.tensors if not name.startswith("blk.") or name.startswith("blk.0.")]


def is_optional(g: GGUF, name: str) -> bool:
    """A bias comes with its matrix, if it comes; those of Q, K and V come together."""
    stem, _, kind = name.rpartition(".")
    of_matrix = kind == "bias" and len(g.tensors[f"{stem}.weight"].shape) > 1
    return name in OPTIONAL or (of_matrix and not stem.endswith(("attn_q", "attn_k", "attn_v")))


def changed(g: GGUF, key: str, value: Any) -> GGUF:
    return replace(g, metadata=g.metadata | {key: value})


def test_it_loads(model: GGUF) -> None:
    load(model)


def test_a_tensor_less(model: GGUF) -> None:
    for name in of_first_layer(model):
        less = replace(model, tensors={n: t for n, t in model.tensors.items() if n != name})
        if is_optional(model, name):
            load(less)
        else:
            assert name.replace("attn_qkv", "attn_q") in refusal(less).replace("attn_qkv", "attn_q")


def test_a_tensor_more(model: GGUF) -> None:
    tensor = model.tensors["output_norm.weight"]
    for name in {"blk.0.attn_q.scale", f"blk.{2000}.attn_norm.weight", "output_norm.bias", "x\n"} - set(model.tensors):
        more = replace(model, tensors=model.tensors | {name: tensor})
        assert "is not a tensor that this architecture uses" in refusal(more)


def test_a_wrong_shape(model: GGUF) -> None:
    for name in of_first_layer(model):
        tensor = model.tensors[name]
        for shape in (tensor.shape[::-1] + (1,), (tensor.shape[0] + 1, *tensor.shape[1:]), (tensor.shape[0] // 2,)):
            wrong = replace(model, tensors=model.tensors | {name: replace(tensor, shape=shape)})
            assert "token" in refusal(wrong) if name == "token_embd.weight" else name in refusal(wrong)


WRONG: dict[str, Callable[[Any], Any]] = {
    "NaN": lambda value: float("nan"),
    "infinite": lambda value: float("inf"),
    "negative": lambda value: -1,
    "a text": lambda value: "many",
    "huge": lambda value: 1 << 60,
    "a list of another length": lambda value: np.array([value] * 77),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_number(model: GGUF, wrong: str) -> None:
    """Every hyperparameter that the file has, but for the few that its architecture has no use for."""
    arch = model.architecture
    unused = {f"{arch}.vocab_size"}
    if all(layer.rope is None for layer in read_config(model).layers):
        unused |= {f"{arch}.rope.freq_base", f"{arch}.rope.dimension_count"}
    for key, value in model.metadata.items():
        if key.startswith(f"{arch}.") and isinstance(value, (int, float)) and not isinstance(value, bool):
            message = refusal(changed(model, key, WRONG[wrong](value))) if key not in unused else key
            assert key in message, key


def test_windows_of_a_wrong_number_of_layers(model: GGUF) -> None:
    if read_config(model).window:
        key = f"{model.architecture}.attention.sliding_window_pattern"
        assert f"{key}: has 99 entries" in refusal(changed(model, key, np.ones(99, np.bool_)))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_that_nothing_can_be_divided_by(bad: float, tmp_path: Path) -> None:
    factors = np.ones(16, np.float32)
    factors[3] = bad
    path = tiny.write(tmp_path / "m.gguf", n_layer=1, tensors={"rope_freqs.weight": factors})
    assert "rope_freqs.weight: has values that are not above 0" in refusal(GGUF.open(path))


@pytest.mark.parametrize("bad", [np.array([0.5, np.nan]), ["yes", "no"], "yes"])
def test_windows_that_are_neither_here_nor_there(model: GGUF, bad: Any) -> None:
    if read_config(model).window:
        key = f"{model.architecture}.attention.sliding_window_pattern"
        assert f"{key}: is" in refusal(changed(model, key, bad))


def test_yarn_needs_a_base(tmp_path: Path) -> None:
    overrides = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0, "llama.rope.freq_base": 1.0}
    assert "llama.rope.freq_base: is 1, must be" in refusal(
        GGUF.open(tiny.write(tmp_path / "m.gguf", overrides=overrides))
    )
