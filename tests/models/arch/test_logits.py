"""The logits of each architecture are llama.cpp's, which are recorded: no llama.cpp is needed here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import architectures
import naive
import numpy as np
import pytest

from pyllm.engine.llm import LLM
from pyllm.kernels import plan
from pyllm.models.arch.registry import load_weights, read_config
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.model import Model
from pyllm.models.forward.step import PlanKind


@pytest.mark.parametrize(("name", "kind"), architectures.CASES)
def test_logits(name: str, kind: str, tmp_path: Path) -> None:
    """At once and token by token, so that decode is held to the same."""
    path = architectures.write(tmp_path, name, kind)
    recorded = np.load(architectures.recording(name, kind))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == str(recorded["model"]), "tests/tiny.py writes another model: run record_logits.py again"
    expected = recorded["logits"].astype(np.float32)
    tokens = architectures.TOKENS
    llm = LLM(path, n_ctx=128, cache_type_k="f32", cache_type_v="f32", n_threads=1, max_logits=len(tokens))
    session = llm.session()
    ((_, at_once),) = session.score(tokens)
    assert naive.nmse(at_once[:, :: architectures.STEP], expected) < 1e-4
    session.rewind(0)
    single = np.stack([session.decode(token)[:: architectures.STEP].copy() for token in tokens])
    assert naive.nmse(single, expected) < 1e-4
    llm.close()


@pytest.mark.parametrize(("name", "most"), [("llama", 7), ("qwen3", 7), ("gemma2", 7), ("gemma3", 7), ("olmo2", 7)])
def test_barriers(name: str, most: int, tmp_path: Path) -> None:
    """How often the threads wait for each other in a layer of a decode step; what is small does not make them."""
    g = GGUF.open(architectures.write(tmp_path, name, "f32"))
    loaded = load_weights(g, read_config(g))
    model = Model(loaded, CacheSpec("f32", "f32"), n_ctx=64, threads=1)
    ops = [op for op in model.plans[PlanKind.DECODE].ops if op.part == "blk.0"]
    assert sum(op.kind == plan._BARRIER for op in ops) == most
    model.close()
