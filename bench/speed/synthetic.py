"""Models of random weights in the shapes of known ones, for machines whose cache holds a small model.

They talk nonsense at the speed of real ones. The values of a small block are encoded once and repeated.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import gguf
import numpy as np
import numpy.typing as npt

from ...engine.machine.fit import free_memory
from ...engine.machine.units import size
from ...engine.store import ours
from ...kernels.formats.table import FORMATS, Format
from ...models.errors import FitError, PyllmError
from ...models.progress import Progress, silent

VERSION = 1  # of the files, and part of their names; raise it when what is written changes
BLOCK = 1 << 20  # values that are drawn, encoded and repeated
SPARE = 64 << 20  # bytes that must stay free on the disk after the file is written
CONTEXT = 32768


@dataclass(frozen=True)
class Shape:
    """A decoder of the architecture `llama`."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    tied: bool  # the embedding matrix is also the output matrix
    n_expert: int = 0  # feed-forwards of size n_ff, of which each token uses n_expert_used; 0: a single one
    n_expert_used: int = 0

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by name, rows first."""
        q, kv = self.n_embd, self.n_head_kv * self.head_dim
        found: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.n_vocab, self.n_embd)}
        for i in range(self.n_layer):
            layer: dict[str, tuple[int, ...]] = {
                "attn_norm": (self.n_embd,), "attn_q": (q, self.n_embd), "attn_k": (kv, self.n_embd),
                "attn_v": (kv, self.n_embd), "attn_output": (self.n_embd, q), "ffn_norm": (self.n_embd,),
                **self.feed_forward(),
            }  # fmt: skip
            found |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
        found["output_norm.weight"] = (self.n_embd,)
        return found if self.tied else {**found, "output.weight": (self.n_vocab, self.n_embd)}

    def feed_forward(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a layer's feed-forward by name, without `blk` and `weight`."""
        into, back = (self.n_ff, self.n_embd), (self.n_embd, self.n_ff)
        if not self.n_expert:
            return {"ffn_gate": into, "ffn_up": into, "ffn_down": back}
        stacked = {"ffn_gate_exps": into, "ffn_up_exps": into, "ffn_down_exps": back}
        router = {"ffn_gate_inp": (self.n_expert, self.n_embd)}
        return router | {name: (self.n_expert, *dims) for name, dims in stacked.items()}


SHAPES: dict[str, Shape] = {
    "0.5B": Shape(24, 896, 4864, 14, 2, 151936, tied=True),  # Qwen2.5 0.5B, without its biases
    "1.1B": Shape(22, 2048, 5632, 32, 4, 32000, tied=False),  # TinyLlama
    "1.5B": Shape(28, 1536, 8960, 12, 2, 151936, tied=True),  # Qwen2.5 1.5B
    "3B": Shape(28, 3072, 8192, 24, 8, 128256, tied=True),  # Llama 3.2 3B
    "8B": Shape(32, 4096, 14336, 32, 8, 128256, tied=False),  # Llama 3.1 8B
    "1.3B-A0.4B": Shape(24, 1024, 512, 16, 8, 49155, True, 32, 8),  # Granite 3.1 1B A400M: 8 of 32 experts
    "7B-A1B": Shape(16, 2048, 1024, 16, 16, 50304, False, 64, 8),  # OLMoE 1B 7B: 8 of 64 experts
}


def make(folder: Path, name: str, weight_type: str, progress: Progress = silent) -> Path:
    """Return the path of model `name` of SHAPES with matrices of `weight_type`; write it below `folder` if it is new.

    Raises FitError or PyllmError if it would not fit in memory or on the disk.
    """
    path = folder / "synthetic" / f"{name}-{weight_type}-v{VERSION}.gguf"
    if path.exists():
        return path
    _check_room(path.parent, name, nbytes(SHAPES[name], FORMATS[weight_type]))
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".part")
        os.close(handle)
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: Path(part).unlink(missing_ok=True))
            write(Path(part), SHAPES[name], weight_type, f"synthetic {name}", progress)
            ours.check(path, b"GGUF")
            os.replace(part, path)
    except OSError as error:
        raise PyllmError(f"--synthetic {name}: {path.parent}: {error.strerror or error}") from None
    return path


def _check_room(folder: Path, name: str, need: int) -> None:
    """Make the folder; raise if the model would not fit in memory or on the disk."""
    free, limit = free_memory()
    if need > free:
        problem = f"its weights take {size(need)} of memory, but {limit} leaves {size(max(free, 0))}"
        raise FitError(f"--synthetic {name}: {problem}; choose a smaller size or --synthetic-type")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free - SPARE
    except OSError as error:
        raise PyllmError(f"--synthetic {name}: {folder}: {error.strerror or error}") from None
    if need > free:
        problem = f"needs {size(need)} of disk, {size(max(free, 0))} are free"
        cure = "make room or set PYLLM_CACHE to a folder on another disk"
        raise PyllmError(f"--synthetic {name}: {folder}: {problem}; {cure}")


def layout(shape: Shape, fmt: Format) -> Iterator[tuple[str, tuple[int, ...], Format, int]]:
    """Yield name, shape, format and bytes of each tensor.

    Matrices are in `fmt` or, if their rows are no whole blocks, in its substitute; vectors and routers in float32.
    """
    for name, dims in shape.tensors().items():
        own = FORMATS["f32"] if len(dims) == 1 or "ffn_gate_inp" in name else fmt.fitting(dims[-1])
        yield name, dims, own, own.row_bytes(dims[-1]) * math.prod(dims[:-1])


def nbytes(shape: Shape, fmt: Format) -> int:
    """Return the bytes of all tensors."""
    return sum(stored for *_, stored in layout(shape, fmt))


def write(path: Path, shape: Shape, weight_type: str, title: str, progress: Progress = silent) -> None:
    """Write a GGUF that pyllm and llama.cpp load: weights that keep activations near 1, and a vocabulary of bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, shape, title)
    fmt = FORMATS[weight_type]
    total, done = nbytes(shape, fmt), 0
    for name, dims, own, stored in layout(shape, fmt):
        kind = gguf.GGMLQuantizationType(own.ggml_id)
        writer.add_tensor_info(name, dims, np.dtype(np.float32), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    out = writer.fout[0]
    writer.write_padding(out, out.tell())
    blocks: dict[tuple[float, str], npt.NDArray[np.uint8]] = {}
    for name, dims, own, stored in layout(shape, fmt):
        if len(dims) == 1:
            out.write(own.encode(np.ones(dims, np.float32)).tobytes())
        else:
            scale = 1.0 if name == "token_embd.weight" else dims[-1] ** -0.5
            key = scale, own.name
            if key not in blocks:
                values = np.random.default_rng(len(blocks)).standard_normal(BLOCK, dtype=np.float32)
                blocks[key] = own.encode(values * np.float32(scale))
            _repeat(out, blocks[key], stored)
        writer.write_padding(out, stored)
        done += stored
        progress(f"writing {title}", done, total)
    writer.close()


def _repeat(out: IO[bytes], block: npt.NDArray[np.uint8], total: int) -> None:
    data = memoryview(block.tobytes())
    for start in range(0, total, len(data)):
        out.write(data[: total - start])


def _describe(writer: gguf.GGUFWriter, shape: Shape, title: str) -> None:
    writer.add_name(title)
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(shape.n_vocab)
    if shape.n_expert:
        writer.add_expert_count(shape.n_expert)
        writer.add_expert_used_count(shape.n_expert_used)
    tokens = list(_vocabulary(shape.n_vocab))
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.CONTROL] + [kinds.NORMAL] * 257 + [kinds.UNUSED] * (shape.n_vocab - 258))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def _vocabulary(n: int) -> Iterator[str]:
    """Yield an end token, a character for each byte as in GPT-2, a merge, and unused tokens."""
    yield "<|endoftext|>"
    spare = iter(range(256, 512))
    for byte in range(256):
        printable = 33 <= byte <= 126 or (byte >= 161 and byte != 173)
        yield chr(byte if printable else next(spare))
    yield "he"
    yield from (f"<unused{i}>" for i in range(n - 258))
