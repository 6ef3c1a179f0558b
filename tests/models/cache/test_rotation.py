"""Which sides are rotated in which blocks, as llama.cpp has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from pyllm.kernels.formats.table import FORMATS
from pyllm.models.arch.registry import read_config
from pyllm.models.cache import rotation
from pyllm.models.config import Config
from pyllm.models.errors import UsageError
from pyllm.models.file.gguf import GGUF


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return read_config(GGUF.open(tiny.write(tmp_path / "tiny.gguf")))  # heads of 32


@pytest.mark.parametrize(
    ("k_dim", "v_dim", "expected"),
    [(64, 64, (64, 64)), (128, 128, (128, 64)), (192, 128, (64, 64)), (96, 64, (0, 64)), (256, 80, (256, 0))],
)
def test_sizes(config: Config, k_dim: int, v_dim: int, expected: tuple[int, int]) -> None:
    layer = replace(config.layers[0], head_dim_k=k_dim, head_dim_v=v_dim)
    q8, f16 = FORMATS["q8_0"], FORMATS["f16"]
    assert rotation.sizes("auto", layer, q8, q8) == rotation.sizes("both", layer, q8, q8) == expected
    assert rotation.sizes("auto", layer, f16, q8) == rotation.sizes("v", layer, q8, q8) == (0, expected[1])
    assert rotation.sizes("k", layer, q8, q8) == (expected[0], 0)
    assert rotation.sizes("none", layer, q8, q8) == (0, 0)


def test_heads_that_cannot_be_rotated(config: Config) -> None:
    rotation.check(config, "auto")
    rotation.check(config, "none")
    for mode in ("k", "v", "both"):
        with pytest.raises(UsageError, match=f"--cache-rotate {mode}: .* 32 values of .*use auto or none"):
            rotation.check(config, mode)
