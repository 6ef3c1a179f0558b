"""What each architecture reads from its file, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import tiny

from pyllm.models.arch.registry import ARCHITECTURES, read_config
from pyllm.models.config import Config, Layer
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.positions import RopeFactors, speeds

EACH = pytest.mark.parametrize("arch", architectures.TRAITS)


def config(tmp_path: Path, arch: str, says: Mapping[str, Any]) -> Config:
    """What is read from a file that says this, and what its architecture needs."""
    metadata = architectures.TRAITS[arch].needs | says
    overrides = {f"{arch}.{key}": value for key, value in metadata.items()}
    return read_config(GGUF.open(tiny.write(tmp_path / "m.gguf", arch=arch, n_layer=8, overrides=overrides)))


def windows(c: Config) -> list[int]:
    return [layer.window for layer in c.layers]


def test_each_architecture_is_here() -> None:
    """Those of the registry have a tiny model each, their traits, and a word in the README."""
    models = {model.get("arch", "llama") for model in architectures.MODELS.values()}
    assert models == set(architectures.TRAITS) == set(ARCHITECTURES)
    _, _, runs = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8").partition("\nRuns: ")
    assert [arch for arch in ARCHITECTURES if f"`{arch}`" not in runs.partition("\n\n")[0]] == []


@pytest.mark.parametrize(
    ("arch", "says", "means"),
    [(arch, *reads) for arch, traits in architectures.TRAITS.items() for reads in traits.reads],
)
def test_layers(tmp_path: Path, arch: str, says: Mapping[str, Any], means: Mapping[str, Sequence[Any]]) -> None:
    def of(layer: Layer, name: str) -> Any:
        if name == "turned":
            return layer.rope is not None
        return getattr(layer if hasattr(layer, name) else layer.rope, name)

    layers = config(tmp_path, arch, says).layers
    assert {name: [of(layer, name) for layer in layers] for name in means} == means


@EACH
def test_a_pattern_of_windows(tmp_path: Path, arch: str) -> None:
    """Where there are windows, a file can say in which layers: by a period, or one by one."""
    key, pattern = "attention.sliding_window_pattern", [True, False, False, True] * 2
    says = {"attention.sliding_window": 9}
    if config(tmp_path, arch, says).window:
        assert windows(config(tmp_path, arch, says | {key: 4})) == [9, 9, 9, 0] * 2
        assert windows(config(tmp_path, arch, says | {key: pattern})) == [9, 0, 0, 9] * 2


@EACH
def test_halves_or_neighbours(tmp_path: Path, arch: str) -> None:
    ropes = [layer.rope for layer in config(tmp_path, arch, {}).layers]
    assert {rope.neox for rope in ropes if rope} == {architectures.TRAITS[arch].halves} - {None}


def test_yarn_stretches_what_turns_slowly(tmp_path: Path) -> None:
    settings = {"type": "yarn", "factor": 4.0, "original_context_length": 4096}
    c = config(tmp_path, "llama", {f"rope.scaling.{key}": value for key, value in settings.items()})
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

    c = config(tmp_path, "llama", {"rope.scaling.original_context_length": 100})
    rope, factors = c.layers[0].rope, RopeFactors(Tensors(), c)  # type: ignore[arg-type]
    assert rope is not None
    for n_ctx, expected in ((100, 1), (101, 2)):
        found = factors.of(rope, n_ctx)
        assert found is not None
        assert (found == expected).all()
