"""NaN and infinity, planted in every tensor of each architecture: no answer is finite, and the first place is named."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import architectures
import gguf
import numpy as np
import pytest
import tiny

from pyllm.engine.llm import LLM
from pyllm.kernels.formats.table import CACHE_TYPES, FORMATS, WEIGHT_TYPES

TOKENS = architectures.TOKENS[:17]
VALUES = (np.nan, np.inf, -np.inf)


def plant(path: Path, to: Path, tensor: str, at: int, value: float) -> Path:
    """Copy a model with a value planted in the row that token TOKENS[0] has in an embedding, else in the first: as
    itself in a tensor of floats, as the scale of its block in others. at: the number in the row."""
    shutil.copyfile(path, to)
    found = next(t for t in gguf.GGUFReader(path).tensors if t.name == tensor)
    fmt = FORMATS[found.tensor_type.name.lower()]
    rows = found.data.reshape(-1, found.data.shape[-1]).view(np.uint8)
    raw = np.memmap(to, np.uint8, "r+", int(found.data_offset), rows.shape)
    row = raw[TOKENS[0] if tensor == "token_embd.weight" else 0]
    at = row.size // fmt.nbytes * fmt.size + at if at < 0 else at
    block = row[at // fmt.size * fmt.nbytes :]
    if fmt.layout is None:
        block[: fmt.nbytes] = fmt.encode(np.array([value], np.float32))
    else:
        block[fmt.layout.d : fmt.layout.d + 2] = np.array([value], np.float16).view(np.uint8)
    raw.flush()
    return to


def broken(path: Path, *, exact: bool = False, **cache: str) -> Iterator[tuple[str, np.ndarray, str | None]]:
    """Yield the logits of a token decoded, of a prompt, and of a token after it, each with the operation at fault."""
    types = {"cache_type_k": "f32", "cache_type_v": "f32"} | cache
    llm = LLM(path, n_ctx=64, **types, n_threads=1, n_batch=32, exact=exact)
    try:
        session = llm.session()
        yield "decode", session.decode(TOKENS[0]), llm.model.broken()
        session.rewind(0)
        yield "prefill", session.prefill(TOKENS), llm.model.broken()
        yield "after", session.decode(TOKENS[1]), llm.model.broken()
    finally:
        llm.close()


FUSED = {("phi3", "attn_qkv"): "attn_q", ("phi3", "ffn_up"): "ffn_gate"}
"""What the first rows of a tensor are where it holds several matrices."""


def check(path: Path, tensor: str, arch: str = "llama", *, exact: bool = False) -> None:
    """Check that each step's logits are broken, and that what broke first is the layer and the product planted in."""
    layer = tensor.startswith("blk.") and ".".join(tensor.split(".")[:2]) + "."
    for step, logits, where in broken(path, exact=exact):
        assert not np.isfinite(logits).all(), (path.name, step)
        if step == "after":
            continue  # K and V of the prompt are in the cache
        assert where is not None, (path.name, step)
        if layer:
            assert where.startswith(layer), (path.name, step, where)
        role = tensor.split(".")[-2]
        if "norm" not in role and role not in ("token_embd", "attn_sinks"):
            assert where.split(".")[-1] == FUSED.get((arch, role), role), (path.name, step, where)


@pytest.mark.parametrize(("name", "kind"), architectures.CASES)
def test_every_tensor(name: str, kind: str, tmp_path: Path) -> None:
    """A value of the three, at the beginning or the end of a row, chosen by the tensor's name."""
    model = architectures.MODELS[name]
    overrides = dict(model.get("overrides", {}))
    if "n_expert" in model:  # all are used: a value in another would not be read
        overrides[f"{model.get('arch', 'llama')}.expert_used_count"] = model["n_expert"]
    path = architectures.write(tmp_path, name, kind, overrides=overrides)
    reader = gguf.GGUFReader(path)
    layers = {int(t.name.split(".")[1]) for t in reader.tensors if t.name.startswith("blk.")}
    for t in reader.tensors:
        layout = FORMATS[t.tensor_type.name.lower()].layout
        if t.name.startswith("rope_") or (layout and layout.exponent):
            continue  # the first are refused when a model is loaded, the other's scales are always finite
        if t.name.startswith("blk.") and int(t.name.split(".")[1]) not in (0, max(layers)):
            continue
        seed = zlib.crc32(f"{name} {kind} {t.name}".encode())
        value, at = VALUES[seed % 3], (0, -1)[seed // 3 % 2]
        check(
            plant(path, tmp_path / f"{t.name}-{value}-{at}.gguf", t.name, at, value), t.name, model.get("arch", "llama")
        )
        (tmp_path / f"{t.name}-{value}-{at}.gguf").unlink()


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
@pytest.mark.parametrize("fmt", [name for name in WEIGHT_TYPES if name != "mxfp4"])
def test_every_format(fmt: str, exact: bool, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf", n_embd=256, n_head=6, n_head_kv=2, head_dim=32, n_ff=96, n_layer=1,
                      types={"ffn_up": fmt, "token_embd": fmt})  # fmt: skip
    for value in VALUES:
        for tensor in ("blk.0.ffn_up.weight", "token_embd.weight"):
            check(plant(path, tmp_path / f"{value}.gguf", tensor, 100, value), tensor, exact=exact)


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_every_cache_type(cache_type: str, tmp_path: Path) -> None:
    """K and V that are not numbers, or that their type does not hold."""
    path = tiny.write(tmp_path / "m.gguf", **architectures.MODELS["llama"], n_layer=1)
    for value in (*VALUES, 1e34):
        for tensor in ("blk.0.attn_k.weight", "blk.0.attn_v.weight"):
            if np.isfinite(value) and cache_type in ("f32", "bf16"):
                continue
            changed = plant(path, tmp_path / f"{value}.gguf", tensor, 5, value)
            for cache in ({"cache_type_k": cache_type}, {"cache_type_v": cache_type}):
                held = "cache_type_k" in cache if "attn_k" in tensor else "cache_type_v" in cache
                if np.isfinite(value) and not held:
                    continue
                for step, logits, where in broken(changed, **cache):
                    assert not np.isfinite(logits).all(), (value, tensor, step)
                    assert step == "after" or where in (f"blk.0.{tensor.split('.')[2]}", "blk.0.rope_store")
