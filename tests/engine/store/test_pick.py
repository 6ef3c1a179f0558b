"""The choice of a model among a repository's files."""

from __future__ import annotations

import pytest

from pyllm.engine.store.pick import choose, models_of, quant_of

MODELS = ["m-IQ2_XS.gguf", "m-Q4_0.gguf", "m-Q8_0.gguf", "m-q4_k_m.gguf"]
FILES = ["README.md", "mmproj-m-Q8_0.gguf", "imatrix.gguf", *MODELS]
SPLIT = [f"BF16/m-BF16-0000{i}-of-00003.gguf" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("names", "quant", "chosen"),
    [
        (FILES, "", ["m-q4_k_m.gguf"]),
        (FILES[:-1], "", ["m-Q8_0.gguf"]),
        (FILES[:-2], "", ["m-IQ2_XS.gguf"]),
        (FILES[:3], "", []),
        (FILES, "q4_0", ["m-Q4_0.gguf"]),
        (FILES, "Q5_K_M", []),
        (["m-IQ4_0.gguf", "m.Q4_0.gguf"], "Q4_0", ["m.Q4_0.gguf"]),
        (["m-UD-Q4_K_XL.gguf", "m-UD-Q4_K_M.gguf"], "", ["m-UD-Q4_K_M.gguf"]),
        ([*reversed(SPLIT)], "", SPLIT),
        (SPLIT, "bf16", SPLIT),
        (SPLIT[1:], "", []),
        ([*SPLIT[:2], "m-F16.gguf"], "", ["m-F16.gguf"]),
        (["Q4_0/m.gguf", "mtp-m-Q4_K_M.gguf"], "", ["Q4_0/m.gguf"]),
        ([], "", []),
    ],
)
def test_choice(names: list[str], quant: str, chosen: list[str]) -> None:
    assert choose(names, quant) == chosen


def test_models() -> None:
    assert models_of([*FILES[:5], *SPLIT]) == [["m-IQ2_XS.gguf"], ["m-Q4_0.gguf"], SPLIT]


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("a/gemma-3-270m-q4_k_m.gguf", "Q4_K_M"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("m-UD-IQ3_XXS-00001-of-00002.gguf", "IQ3_XXS"),
        ("m-bf16.gguf", "BF16"),
        ("Q4-model.gguf", "Q4"),
        ("model.gguf", ""),
    ],
)
def test_a_names_quantization(name: str, quant: str) -> None:
    assert quant_of(name) == quant
