"""The file types of llama.cpp's quantize: the format of each tensor of a model. Knows names and shapes, no values.

A mix has one format for most matrices, and better ones for those that lose more with few bits: output, attn_v and
ffn_down. The better format is used in all layers, in the first, or in the first, the last and every third.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ...kernels.formats.table import FORMATS, Format

Where = Callable[[int, int], bool]
"""A function of (i, n): whether layer i of n gets the other format."""


def _always(i: int, n: int) -> bool:
    return True


def _more(i: int, n: int) -> bool:
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _first_eighth(i: int, n: int) -> bool:
    return i < n // 8


def _first_sixteenth(i: int, n: int) -> bool:
    return i < n // 16


def _first(count: int) -> Where:
    return lambda i, n: i < count


Rules = tuple[tuple[str, Where], ...]
"""Formats and the layers that get them; the first that applies counts."""


@dataclass(frozen=True)
class Mix:
    file_type: int  # general.file_type of the GGUF
    format: str
    roles: Mapping[str, Rules] = field(default_factory=dict)
    shared_v: str = ""  # the format of attn_v if 4 or more query heads share a head of V, which makes it small


_MORE: dict[str, Rules] = {"attn_v": (("q6_k", _more),), "ffn_down": (("q6_k", _more),)}
_EARLY_DOWN: dict[str, Rules] = {"ffn_down": (("q5_k", _first_eighth),)}

MIXES: dict[str, Mix] = {
    "F32": Mix(0, "f32"),
    "F16": Mix(1, "f16"),
    "BF16": Mix(32, "bf16"),
    "Q8_0": Mix(7, "q8_0"),
    "Q5_1": Mix(9, "q5_1"),
    "Q5_0": Mix(8, "q5_0"),
    "Q4_1": Mix(3, "q4_1"),
    "Q4_0": Mix(2, "q4_0"),
    "Q6_K": Mix(18, "q6_k"),
    "Q5_K_M": Mix(17, "q5_k", _MORE),
    "Q5_K_S": Mix(16, "q5_k"),
    "Q4_K_M": Mix(15, "q4_k", _MORE),
    "Q4_K_S": Mix(14, "q4_k", {"attn_v": (("q5_k", _first(4)),), **_EARLY_DOWN}),
    "Q3_K_L": Mix(13, "q3_k", {role: (("q5_k", _always),) for role in ("attn_v", "attn_output", "ffn_down")}),
    "Q3_K_M": Mix(12, "q3_k", {"attn_v": (("q5_k", _first(2)), ("q4_k", _always)),
                               "attn_output": (("q4_k", _always),),
                               "ffn_down": (("q5_k", _first_sixteenth), ("q4_k", _always))}),
    "Q3_K_S": Mix(11, "q3_k"),
    "Q2_K": Mix(10, "q2_k", {role: (("q3_k", _always),) for role in ("attn_v", "attn_output", "ffn_down")}, "q4_k"),
    "IQ4_NL": Mix(25, "iq4_nl", _EARLY_DOWN, "q5_k"),
    "IQ4_XS": Mix(30, "iq4_xs", _EARLY_DOWN, "q5_k"),
}  # fmt: skip

_LAYER = re.compile(r"blk\.(\d+)\.(\w+?)(?:_exps|_shexp)?\.weight")
_KEPT = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", "shortconv.conv.weight")


@dataclass(frozen=True)
class Shape:
    """What the rules need to know of a model."""

    n_layer: int
    n_expert: int
    group: int  # query heads per K/V head
    tied: bool  # the embedding is also the output matrix


def quantizes(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is a matrix that a mix may quantize; all others stay as they are."""
    return len(shape) > 1 and name.endswith("weight") and not any(part in name for part in _KEPT)


def choose(mix: Mix, model: Shape, name: str, columns: int) -> Format:
    """Return the format of a tensor for which `quantizes` is true; columns: values in a row."""
    base = FORMATS[mix.format]
    if not base.bits:
        return base
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        return FORMATS["q8_0" if mix.format == "q8_0" or columns % base.size or columns % 256 else "q6_k"]
    match = _LAYER.fullmatch(name)
    return FORMATS[_of_layer(mix, model, match[2], int(match[1])) if match else mix.format].fitting(columns)


def _of_layer(mix: Mix, model: Shape, role: str, layer: int) -> str:
    role = "attn_v" if role == "attn_qkv" else role
    if model.n_expert == 8 and role in ("attn_v", "attn_k"):
        return "q8_0"  # small beside the experts
    if model.group >= 4 and role == "attn_v" and mix.shared_v:
        return mix.shared_v
    return next((name for name, where in mix.roles.get(role, ()) if where(layer, model.n_layer)), mix.format)
