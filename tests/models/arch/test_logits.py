"""The logits of each architecture are llama.cpp's, which are recorded: no llama.cpp is needed here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import architectures
import naive
import numpy as np
import pytest

from pyllm.kernels import plan
from pyllm.models.arch.registry import load_weights, read_config
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.model import Model
from pyllm.models.forward.step import PlanKind


@pytest.mark.parametrize(("name", "kind"), architectures.CASES)
def test_logits(name: str, kind: str, tmp_path: Path) -> None:
    """At once and token by token, so that decode is held to the same."""
    recording = architectures.recording(name, kind)
    if not recording.exists():
        command = f"python tests/models/arch/record_logits.py FOLDER {name}"
        pytest.skip(f"no logits of llama.cpp: `{command}` records them with the libllama.so in FOLDER")
    path = architectures.write(tmp_path, name, kind)
    recorded = np.load(recording)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == str(recorded["model"]), "tests/tiny.py writes another model: run record_logits.py again"
    for way, found in architectures.logits(path).items():
        assert naive.nmse(found[:, :: architectures.STEP], recorded["logits"].astype(np.float32)) < 1e-4, way


@pytest.mark.parametrize("name", architectures.MODELS)
def test_barriers(name: str, tmp_path: Path) -> None:
    """How often the threads wait for each other in a layer of a decode step; what is small does not make them."""
    g = GGUF.open(architectures.write(tmp_path, name, "f32"))
    loaded = load_weights(g, read_config(g))
    model = Model(loaded, CacheSpec("f32", "f32"), n_ctx=64, threads=1)
    ops = [op for op in model.plan(PlanKind.DECODE).ops if op.part == "blk.0"]
    expected = architectures.TRAITS[g.architecture].barriers + (loaded.config.expert_count > 0)  # once for the router
    assert sum(op.kind == plan._BARRIER for op in ops) == expected
    model.close()
