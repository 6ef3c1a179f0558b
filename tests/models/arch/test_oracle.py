"""The logits of each architecture are those of its own `forward` in float64: no llama.cpp is needed, nor recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import architectures
import naive
import naive_recorder
import numpy as np
import pytest
import tiny

from pyllm.models.arch.blocks import Attention, Decoder
from pyllm.models.arch.registry import ARCHITECTURES, read_config
from pyllm.models.config import Config
from pyllm.models.file.gguf import GGUF
from pyllm.models.forward.recorder import Recorder
from pyllm.models.forward.weights import Weights
from pyllm.models.hyper import Hyper


def oracle(path: Path) -> np.ndarray:
    return naive_recorder.logits(GGUF.open(path), architectures.TOKENS, architectures.N_CTX)


@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("name", architectures.MODELS)
def test_oracle(name: str, kind: str, tmp_path: Path) -> None:
    path = architectures.write(tmp_path, name, kind)
    expected = oracle(path)
    for way, found in architectures.logits(path).items():
        assert naive.nmse(found, expected) < 1e-10, way


@pytest.mark.parametrize("kind", ["f32", "mixed"])
@pytest.mark.parametrize("name", architectures.MODELS)
def test_exact_logits(name: str, kind: str, tmp_path: Path) -> None:
    """Activations stay float32 whatever the weights are; decode and prefill take the same sums."""
    path = architectures.write(tmp_path, name, kind)
    expected, found = oracle(path), architectures.logits(path, exact=True)
    for way, logits in found.items():
        assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max(), way
    np.testing.assert_array_equal(found["at once"], found["one by one"])


@pytest.mark.parametrize("name", architectures.MODELS)
def test_the_oracle_is_llama_cpps(name: str, tmp_path: Path) -> None:
    """Closer than the engine has to be: recorded logits are float16."""
    recording = architectures.recording(name, "f32")
    if not recording.exists():
        pytest.skip(f"no logits of {name}: see test_logits.py")
    found = oracle(architectures.write(tmp_path, name, "f32"))[:, :: architectures.STEP]
    assert naive.nmse(found, np.load(recording)["logits"].astype(np.float32)) < 1e-7


@pytest.mark.parametrize("name", architectures.MODELS)
def test_all_that_is_read_counts(name: str, tmp_path: Path) -> None:
    """What `forward` forgets, a tensor or a scale, both engine and oracle forget."""
    g = GGUF.open(architectures.write(tmp_path, name, "f32"))
    config, weights, rng = read_config(g), naive_recorder.Weights(g), np.random.default_rng(0)

    def found(n_ctx: int, config: Config = config) -> np.ndarray:
        return naive_recorder.played(config, weights, architectures.TOKENS[:4], n_ctx)

    plain = {n_ctx: found(n_ctx) for n_ctx in (1, 1 << 20)}  # some tensors are for short contexts, some for long ones
    for tensor, values in list(weights.tensors.items()):
        if not tensor.startswith("blk.") or tensor.startswith("blk.0."):
            weights.tensors[tensor] = values * rng.uniform(0.5, 1.5, values.shape)
            n_ctx = 1 if "_short" in tensor else 1 << 20
            assert (found(n_ctx) != plain[n_ctx]).any(), tensor
            weights.tensors[tensor] = values
    for scale in ("embedding_scale", "residual_scale", "logit_scale", "final_softcap"):
        if (value := getattr(config, scale)) not in (0.0, 1.0):
            assert (found(1, replace(config, **{scale: value / 2})) != plain[1]).any(), scale


class Block(Attention):
    """A layer with LayerNorms and without a gate."""

    def __init__(self, w: Weights, c: Config, i: int) -> None:
        Attention.__init__(self, w, c, i)
        self.attn_norm = w.vector(f"blk.{i}.attn_norm.weight", c.n_embd)
        self.attn_norm_bias = w.vector(f"blk.{i}.attn_norm.bias", c.n_embd)
        self.ffn_norm = w.vector(f"blk.{i}.ffn_norm.weight", c.n_embd)
        self.ffn_up = w.matrix(f"blk.{i}.ffn_up.weight", c.n_ff, c.n_embd)
        self.ffn_down = w.matrix(f"blk.{i}.ffn_down.weight", c.n_embd, c.n_ff)


class MadeUp(Decoder[Block]):
    """The verbs that no architecture here uses yet."""

    block = Block

    @staticmethod
    def config(h: Hyper) -> Config:
        return h.config(h.layers([h.rope(neox=True)] * h.n_layer), norm_eps=h.layer_norm_eps())

    def forward(self, r: Recorder) -> None:
        x = r.embedding(self.token_embd)
        for i, blk in r.layers(self.blk):
            h = r.layer_norm(x, blk.attn_norm, blk.attn_norm_bias)
            q, k, v = r.linear(h, blk.attn_q, blk.attn_k, blk.attn_v)
            r.add_linear(x, r.attention(i, q, k, v), blk.attn_output)

            (up,) = r.linear(r.layer_norm(x, blk.ffn_norm), blk.ffn_up)
            r.add_linear(x, r.relu2(up) if i % 2 else r.gelu(up), blk.ffn_down)

        r.logits(r.layer_norm(x, self.output_norm, logits_rows=True), self.output)


@pytest.mark.parametrize("types", ["f32", {"": "q8_0"}], ids=str)
def test_verbs_of_no_architecture(types: str | dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "made-up", MadeUp)
    eps = {"made-up.attention.layer_norm_rms_epsilon": None, "made-up.attention.layer_norm_epsilon": 0.1}
    tensors = {f"blk.{i}.attn_norm.bias": np.linspace(-1, i, 192) for i in range(2)}
    gates = {f"blk.{i}.ffn_gate.weight": None for i in range(2)}
    path = tiny.write(tmp_path / "m.gguf", arch="made-up", n_embd=192, n_head=6, types=types, overrides=eps,
                      tensors=tensors | gates)  # fmt: skip
    assert read_config(GGUF.open(path)).norm_eps == np.float32(0.1)
    expected = oracle(path)
    for way, found in architectures.logits(path).items():
        assert naive.nmse(found, expected) < (1e-10 if types == "f32" else 1e-3), way
