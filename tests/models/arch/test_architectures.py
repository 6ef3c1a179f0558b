"""What each architecture reads from its file, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from pyllm.models.arch.registry import ARCHITECTURES, read_config
from pyllm.models.config import Config
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.positions import RopeFactors, speeds


def config(tmp_path: Path, arch: str, *, n_layer: int = 8, **values: Any) -> Config:
    overrides = {f"{arch}.{key.replace('__', '.')}": value for key, value in values.items()}
    if arch == "granite":
        overrides = {"granite.logit_scale": 1.0} | overrides
    return read_config(GGUF.open(tiny.write(tmp_path / "m.gguf", arch=arch, n_layer=n_layer, overrides=overrides)))


def windows(c: Config) -> list[int]:
    return [layer.window for layer in c.layers]


@pytest.mark.parametrize(
    ("arch", "window", "expected"),
    [
        ("gemma2", None, [4096, 0] * 4),
        ("gemma2", 9, [9, 0] * 4),
        ("gemma3", None, [0] * 8),
        ("gemma3", 9, [9] * 5 + [0] + [9] * 2),
        ("olmo2", 9, [9, 9, 9, 0] * 2),
        ("phi3", 9, [9] * 8),
        ("phi3", None, [0] * 8),
        ("llama", 9, [0] * 8),
    ],
)
def test_windows(tmp_path: Path, arch: str, window: int | None, expected: list[int]) -> None:
    assert windows(config(tmp_path, arch, attention__sliding_window=window)) == expected


def test_a_pattern_of_windows(tmp_path: Path) -> None:
    c = config(tmp_path, "gemma3", attention__sliding_window=9, attention__sliding_window_pattern=4)
    assert windows(c) == [9, 9, 9, 0] * 2
    pattern = [True, False, False, True] * 2
    c = config(tmp_path, "gemma3", attention__sliding_window=9, attention__sliding_window_pattern=pattern)
    assert windows(c) == [9, 0, 0, 9] * 2


def test_windows_turn_at_a_base_of_their_own(tmp_path: Path) -> None:
    settings = {"attention__sliding_window": 9, "rope__freq_base": 1e6, "rope__scaling__factor": 8.0}
    for arch, local in (("gemma3", (1e4, 1.0)), ("gemma2", (1e6, 8.0)), ("olmo2", (1e6, 1.0))):
        for layer in config(tmp_path, arch, **settings).layers:
            assert layer.rope is not None
            assert (layer.rope.base, layer.rope.factor) == (local if layer.window else (1e6, 8.0)), arch


def test_layers_that_do_not_turn(tmp_path: Path) -> None:
    assert [layer.rope is None for layer in config(tmp_path, "smollm3").layers] == [False, False, False, True] * 2
    assert all(layer.rope is None for layer in config(tmp_path, "granite", rope__scaling__finetuned=False).layers)


@pytest.mark.parametrize(("arch", "n_layer"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_scale_by_their_width(tmp_path: Path, arch: str, n_layer: int) -> None:
    """128 values of embedding and 4 heads; heads of 64."""
    lengths = {"attention__key_length": 64, "attention__value_length": 64, "rope__dimension_count": 64}
    assert config(tmp_path, arch, n_layer=n_layer, **lengths).layers[0].scale == 32**-0.5
    assert config(tmp_path, arch, n_layer=2, **lengths).layers[0].scale == 64**-0.5


def test_halves_or_neighbours(tmp_path: Path) -> None:
    neighbours = {"llama", "smollm3", "mistral3", "granite"}
    for arch in ARCHITECTURES:
        experts = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
        c = config(tmp_path, arch, n_layer=2, **(experts if arch in ("qwen3moe", "gpt-oss") else {}))
        assert c.layers[0].rope is not None
        assert c.layers[0].rope.neox == (arch not in neighbours), arch


def test_yarn_stretches_what_turns_slowly(tmp_path: Path) -> None:
    settings = {"type": "yarn", "factor": 4.0, "original_context_length": 4096}
    c = config(tmp_path, "qwen3", n_layer=1, **{f"rope__scaling__{key}": value for key, value in settings.items()})
    rope = c.layers[0].rope
    assert rope is not None
    plain = rope.base ** (-np.arange(0, rope.dim, 2) / rope.dim)
    share = speeds(rope, None) / plain
    assert share[0] == 1
    assert share[-1] == pytest.approx(1 / 4)
    assert (np.diff(share) <= 1e-12).all()
    assert rope.magnitude == pytest.approx(1 + 0.1 * np.log(4))


def test_factors_by_the_length_of_the_context(tmp_path: Path) -> None:
    class Tensors:
        """Of a file that has both."""

        def has(self, name: str) -> bool:
            return name != "rope_freqs.weight"

        def has_all(self, *names: str) -> bool:
            return True

        def positive(self, name: str, n: int) -> np.ndarray:
            return np.full(n, 2 if "long" in name else 1, np.float32)

    c = config(tmp_path, "phi3", n_layer=1, rope__scaling__original_context_length=100)
    rope, factors = c.layers[0].rope, RopeFactors(Tensors(), c)  # type: ignore[arg-type]
    assert rope is not None
    for n_ctx, expected in ((100, 1), (101, 2)):
        found = factors.of(rope, n_ctx)
        assert found is not None
        assert (found == expected).all()
