"""`pyllm quantize`: writes a model in other formats; reads tensors, encodes them on all cores, writes a GGUF."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...kernels.formats.table import Format
from ...kernels.lang import bus
from ...models.errors import ModelError, PyllmError, UsageError
from ...models.file import mixes, rewrite
from ...models.file.gguf import GGUF
from ...models.file.header import TENSOR_TYPES, Tensor
from ...models.file.lookalikes import check_model
from ...models.file.rewrite import whole
from ...models.forward import upcast
from ...models.progress import Progress, silent
from ..machine.bars import Bars
from ..machine.host import usable_cores
from ..machine.plain import plain
from ..machine.units import size
from ..store import ours
from .screen import say

CHUNK = 1 << 20
"""Values that a thread encodes at once."""

MAGIC = b"GGUF"
"""The first bytes of a file that --force may replace."""

SPARE = 1 << 20
"""Bytes allowed for the header when free space is checked."""

_NUMBERS = {name: number for number, (name, *_) in TENSOR_TYPES.items()}
U8Array = npt.NDArray[np.uint8]


def run(args: argparse.Namespace) -> None:
    bus.guard()
    with Bars() as progress:
        before, after = convert(
            GGUF.open(args.model),
            Path(args.out),
            args.type,
            threads=args.threads or usable_cores(),
            force=args.force,
            requantize=args.allow_requantize,
            progress=progress,
        )
    say(f"{plain(args.out)}: {size(after)}, from {size(before)}")


def convert(g: GGUF, out: Path, type: str, *, threads: int, force: bool = False, requantize: bool = False,
            progress: Progress = silent) -> tuple[int, int]:  # fmt: skip
    """Write the model `g` as a type of `mixes.MIXES`; return the bytes of its tensors before and after."""
    if said := ours.problem(out, MAGIC if force else b""):
        raise UsageError(f"{out}: {said}; only a GGUF file is replaced: name another file")
    if os.path.lexists(out) and not force:
        raise UsageError(f"{out}: is there already; name another file, or overwrite it with --force")
    if any(out.exists() and path.samefile(out) for path in g.paths):
        raise UsageError(f"{out}: is the model that is read; name another file")
    check_model(g)
    formats = _formats(g, type, requantize)
    before = sum(tensor.data.nbytes for tensor in g.tensors.values())
    after = sum(_nbytes(tensor, formats[name]) for name, tensor in g.tensors.items())
    _check_room(out, after)
    part = ours.new_name(out)
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: part.unlink(missing_ok=True))
            _write(part, g, formats, mixes.MIXES[type].file_type, threads, progress)
            g.check_unchanged()
            ours.check(out, MAGIC)
            os.replace(part, out)
    except OSError as error:
        raise PyllmError(f"{out}: cannot be written: {error.strerror or error}; name another file") from None
    return before, after


def _check_room(out: Path, need: int) -> None:
    if not out.parent.is_dir():
        raise UsageError(f"{out}: the folder {out.parent} does not exist; make it first")
    free = shutil.disk_usage(out.parent).free
    if need + SPARE > free:
        raise PyllmError(f"{out}: needs {size(need)} of disk, {size(free)} are free; make room or name another disk")


def _formats(g: GGUF, type: str, requantize: bool) -> dict[str, Format | None]:
    """Return the new format of each tensor; None: it stays as it is."""
    architecture = g.architecture
    heads = _largest(g, f"{architecture}.attention.head_count", 1)
    model = mixes.Shape(
        n_layer=_largest(g, f"{architecture}.block_count", 1),
        n_expert=_largest(g, f"{architecture}.expert_count", 0),
        group=heads // max(1, _largest(g, f"{architecture}.attention.head_count_kv", heads)),
        tied="output.weight" not in g.tensors,
    )
    found: dict[str, Format | None] = {}
    for name, tensor in g.tensors.items():
        chosen = None
        if mixes.quantizes(name, tensor.shape):
            chosen = mixes.choose(mixes.MIXES[type], model, name, tensor.shape[-1])
        found[name] = None if chosen is None or chosen.name == tensor.type else _readable(g, tensor, chosen, requantize)
    return found


def _largest(g: GGUF, key: str, default: int) -> int:
    """Return a number of the metadata, or the largest if it is given for each layer."""
    value = g.metadata.get(key, default)
    return int(np.max(value)) if isinstance(value, (int, np.ndarray)) and np.size(value) else default


def _readable(g: GGUF, tensor: Tensor, chosen: Format, requantize: bool) -> Format:
    if tensor.type not in upcast.READABLE:
        cure = "take a model of another type"
        raise ModelError(g.path, tensor.name, f"has type {tensor.type}, which pyllm does not decode", cure)
    if tensor.type not in ("f32", "f16", "bf16") and not requantize:
        cure = "start from f32, f16 or bf16, or accept the loss with --allow-requantize"
        raise ModelError(g.path, tensor.name, f"is quantized already ({tensor.type})", cure)
    if tensor.shape[-1] % chosen.size:
        problem = f"has rows of {tensor.shape[-1]} values, {chosen.name} needs a multiple of {chosen.size}"
        raise ModelError(g.path, tensor.name, problem, "take F16")
    return chosen


def _nbytes(tensor: Tensor, fmt: Format | None) -> int:
    if fmt is None:
        return tensor.data.nbytes
    return math.prod(tensor.shape[:-1]) * fmt.row_bytes(tensor.shape[-1])


def _write(path: Path, g: GGUF, formats: dict[str, Format | None], file_type: int, threads: int,
           progress: Progress) -> None:  # fmt: skip
    metadata = {key: value for key, value in rewrite.pairs(g.path) if not key.startswith("split.")}
    metadata |= {"general.file_type": whole(file_type), "general.quantization_version": whole(2)}
    alignment = g.integer("general.alignment", 8, 1 << 30, default=32)
    infos = [(n, t.shape, _kind(t, formats[n]), _nbytes(t, formats[n])) for n, t in g.tensors.items()]
    total, done = sum(tensor.data.nbytes for tensor in g.tensors.values()), 0
    with path.open("xb") as out, ThreadPoolExecutor(threads) as pool:
        rewrite.write_header(out, metadata, infos, alignment)
        for name, tensor in g.tensors.items():
            fmt = formats[name]
            for read, raw in (
                [(tensor.data.nbytes, tensor.data)] if fmt is None else _encoded(g.path, tensor, fmt, pool, threads)
            ):
                out.write(raw.data)
                done += read
                progress("quantizing", done, total, name)
            out.write(bytes(rewrite.padding(_nbytes(tensor, fmt), alignment)))


def _kind(tensor: Tensor, fmt: Format | None) -> int:
    """Return GGUF's number of a tensor's type after the conversion."""
    number = _NUMBERS[tensor.type] if fmt is None else fmt.ggml_id
    assert number is not None
    return number


def _encoded(
    path: Path, tensor: Tensor, fmt: Format, pool: ThreadPoolExecutor, threads: int
) -> Iterator[tuple[int, U8Array]]:
    """Yield the tensor in order, in pieces encoded by all threads: (bytes read, encoded bytes).

    Raises ModelError where a value cannot be represented. path: of the model, for messages.
    """
    columns = tensor.shape[-1]
    rows = tensor.data.reshape(math.prod(tensor.shape[:-1]), -1)
    step = max(1, CHUNK // columns)
    under_way: deque[Future[tuple[int, U8Array]]] = deque()

    def encode(first: int) -> tuple[int, U8Array]:
        raw = rows[first : first + step]
        x = upcast.decode(tensor.type, raw)
        encoded = fmt.encode(x)
        if (at := _lost(x, encoded, fmt)) is not None:
            index = ", ".join(map(str, np.unravel_index(first * columns + at, tensor.shape)))
            problem = f"has {x.flat[at]:g} at [{index}], which {fmt.name} cannot represent"
            raise ModelError(path, tensor.name, problem, "take another copy of the model, or F32")
        return raw.nbytes, encoded

    for first in range(0, len(rows), step):
        under_way.append(pool.submit(encode, first))
        if len(under_way) > 2 * threads:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _lost(x: npt.NDArray[np.float32], encoded: U8Array, fmt: Format) -> int | None:
    """Return the index of the first value of x that is NaN or infinite, or becomes that; None if there is none.

    Where a block's scale became too large, it is the largest value of the block.
    """
    lost = ~np.isfinite(fmt.decode(encoded))
    if not lost.any() and np.isfinite(x).all():
        return None
    bad = (lost | ~np.isfinite(x)).reshape(-1, fmt.size)
    block = int(bad.any(axis=1).argmax())
    values = np.abs(x.reshape(-1, fmt.size)[block])
    at = np.where(np.isfinite(values), values, np.inf).argmax()
    return block * fmt.size + int(at)
