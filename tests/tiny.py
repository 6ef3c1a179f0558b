"""Writes small random GGUF models of any format mix, for tests; knows the tensors, not what is done with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import layouts
import numpy as np

from pyllm.kernels.formats.table import FORMATS

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "Ġwor l", "Ġworl d", "Ġ t", "Ġt he", "i n", "e r")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_characters() -> list[str]:
    """Return GPT-2's printable character for each of the 256 bytes."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(256, 512))
    return [chr(b if b in printable else next(spare)) for b in range(256)]


def vocabulary(n_vocab: int | None = None) -> tuple[list[str], list[int]]:
    """Return (tokens, token types): control tokens, 256 bytes, a token for each merge, unused ones up to n_vocab."""
    tokens = [*CONTROL, *byte_characters(), *(m.replace(" ", "") for m in MERGES)]
    n_vocab = len(tokens) if n_vocab is None else n_vocab
    assert n_vocab >= len(tokens), f"the vocabulary needs {len(tokens)} tokens"
    unused = [f"<unused{i}>" for i in range(n_vocab - len(tokens))]
    types = [gguf.TokenType.CONTROL] * len(CONTROL) + [gguf.TokenType.NORMAL] * (len(tokens) - len(CONTROL))
    return tokens + unused, [int(t) for t in types] + [int(gguf.TokenType.UNUSED)] * len(unused)


def shapes(*, n_layer: int, n_embd: int, n_head: int, n_head_kv: int, n_ff: int, n_vocab: int, head_dim: int,
           tied: bool, n_expert: int = 0) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Return the tensors of a `llama` model: name -> shape, rows (outputs) first."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_vocab, n_embd), "output_norm.weight": (n_embd,)}
    if not tied:
        found["output.weight"] = (n_vocab, n_embd)
    for i in range(n_layer):
        found |= {
            f"blk.{i}.attn_norm.weight": (n_embd,),
            f"blk.{i}.attn_q.weight": (n_head * head_dim, n_embd),
            f"blk.{i}.attn_k.weight": (n_head_kv * head_dim, n_embd),
            f"blk.{i}.attn_v.weight": (n_head_kv * head_dim, n_embd),
            f"blk.{i}.attn_output.weight": (n_embd, n_head * head_dim),
            f"blk.{i}.ffn_norm.weight": (n_embd,),
        }
        if n_expert:
            found |= {
                f"blk.{i}.ffn_gate_inp.weight": (n_expert, n_embd),
                f"blk.{i}.ffn_gate_exps.weight": (n_expert, n_ff, n_embd),
                f"blk.{i}.ffn_up_exps.weight": (n_expert, n_ff, n_embd),
                f"blk.{i}.ffn_down_exps.weight": (n_expert, n_embd, n_ff),
            }
        else:
            found |= {
                f"blk.{i}.ffn_gate.weight": (n_ff, n_embd),
                f"blk.{i}.ffn_up.weight": (n_ff, n_embd),
                f"blk.{i}.ffn_down.weight": (n_embd, n_ff),
            }
    return found


def weights(layout: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Return float32 values that keep activations near 1: norms about 1, embeddings N(0, 1), others N(0, 1/columns)."""
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for name, shape in layout.items():
        x = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            x = 1 + x / 10
        elif name != "token_embd.weight":
            x /= np.float32(np.sqrt(shape[-1]))
        if "ffn_gate_inp" in name:
            x *= 8  # a choice of experts that rounding seldom changes
        out[name] = x.astype(np.float32)
    return out


def write(
    path: str | Path,
    *,
    arch: str = "llama",
    n_layer: int = 2,
    n_embd: int = 128,  # a multiple of 32, and with 4 heads of 32, which every cache type can hold
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ff: int = 96,
    n_vocab: int | None = None,
    n_ctx: int = 512,
    head_dim: int | None = None,
    n_expert: int = 0,
    n_expert_used: int = 2,
    types: str | Mapping[str, str] = "f32",
    seed: int = 0,
    tied: bool = False,
    tokenizer: str | None = "gpt2",
    pre: str = "gpt-2",
    chat_template: str | None = CHATML,
    overrides: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
    split_max_tensors: int = 0,
) -> Path:
    """Write a model and return its path (of the first part, if `split_max_tensors` splits it).

    `types` is the format of all matrices, or of those whose name contains the key ("ffn_down", "blk.0.", ""; the last
    match counts; others are f32); norms are always f32. `head_dim` is n_embd / n_head unless given. `overrides`
    replaces, adds or (None) removes metadata: int is written as u32 (i32 where negative), float as f32. `tensors`
    replaces, adds or (None) removes tensors by float32 values, in the same formats. The same arguments give the same
    bytes.
    """
    path = Path(path)
    tokens, token_types = vocabulary(n_vocab)
    head = head_dim or n_embd // n_head
    metadata: dict[str, Any] = {
        "general.name": "tiny",
        f"{arch}.block_count": n_layer,
        f"{arch}.context_length": n_ctx,
        f"{arch}.embedding_length": n_embd,
        f"{arch}.feed_forward_length": n_ff,
        f"{arch}.attention.head_count": n_head,
        f"{arch}.attention.head_count_kv": n_head_kv,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.dimension_count": head,
        f"{arch}.rope.freq_base": 10000.0,
        f"{arch}.vocab_size": len(tokens),
    }
    if n_expert:
        metadata |= {f"{arch}.expert_count": n_expert, f"{arch}.expert_used_count": n_expert_used}
    if head_dim is not None:
        metadata |= {f"{arch}.attention.key_length": head, f"{arch}.attention.value_length": head}
    if tokenizer is not None:
        metadata |= {
            "tokenizer.ggml.model": tokenizer,
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": token_types,
            "tokenizer.ggml.merges": list(MERGES),
            "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
            "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
            "tokenizer.ggml.add_bos_token": False,
        }
        if chat_template is not None:
            metadata["tokenizer.chat_template"] = chat_template
    metadata |= {"general.architecture": arch} | dict(overrides or {})

    layout = shapes(n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_head_kv=n_head_kv, n_ff=n_ff,
                    n_vocab=len(tokens), head_dim=head, tied=tied, n_expert=n_expert)  # fmt: skip
    layout = layouts.adapted(layout, arch, head)
    values: dict[str, np.ndarray | None] = {**weights(layout, seed), **(tensors or {})}

    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split_max_tensors)
    writer.kv_data[0].clear()  # the writer's own general.architecture: overrides may remove it
    for key, value in metadata.items():
        if value is not None:
            _add(writer, key, value)
    for name, x in values.items():
        if x is not None:
            fmt = FORMATS[_format_of(name, x, types)]
            raw = fmt.encode(np.ascontiguousarray(x, np.float32)).reshape(*x.shape[:-1], -1)
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType(fmt.ggml_id))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    parts = writer.format_shard_names(path)
    writer.close()
    return parts[0]


def _format_of(name: str, x: np.ndarray, types: str | Mapping[str, str]) -> str:
    if x.ndim == 1 or "ffn_gate_inp" in name or name.endswith("bias"):  # what llama.cpp never quantizes
        return "f32"
    if isinstance(types, str):
        return types
    return next((t for part, t in reversed(types.items()) if part in name), "f32")


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Write a pair, even an empty text, which the writer's own method leaves out."""
    kind = gguf.GGUFValueType
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_key_value(key, value, kind.INT32 if value < 0 else kind.UINT32 if value < 1 << 32 else kind.UINT64)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_key_value(key, value, kind.STRING)
    else:
        writer.add_array(key, value)
