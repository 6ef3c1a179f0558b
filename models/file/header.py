"""Reads and checks the header of one GGUF file, as `gguf.py` describes it; knows bytes and bounds, not what they mean.

A file is not trusted: no number in it is used before it is checked against the size of the file, and no kernel checks
again. Reading takes time and memory in proportion to the header, which may have 256 MiB (a vocabulary of 262,144 tokens
takes 16 MiB), so that a sparse file cannot name a terabyte of empty strings.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from . import lookalikes
from .strings import Texts

DOWNLOAD = "the file is damaged or incomplete: download it again"
CONVERT = "convert the model again with a current llama.cpp"

HEADER_LIMIT = 256 << 20  # the most bytes of a header
COUNT_LIMIT = 1 << 16  # the most metadata pairs, and the most tensors, of one file
KEY_LIMIT = (1 << 16) - 1  # bytes of a metadata key, by the specification
NAME_LIMIT = 63  # bytes of a tensor's name: ggml keeps 64 with the final zero

# ggml id -> (name, values in a block, bytes of a block). ggml has dropped the ids that are missing.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 40), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18),
}  # fmt: skip

# Metadata value types of a fixed size: u8 i8 u16 i16 u32 i32 f32 bool u64 i64 f64.
_VALUES: dict[int, np.dtype[Any]] = {
    kind: np.dtype(code)
    for kind, code in zip(
        (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12),
        ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "u1", "<u8", "<i8", "<f8"),
        strict=True,
    )
}
_BOOL, _STRING, _ARRAY, _U32_KIND = 7, 8, 9, 4
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One tensor, as a view of the file and never a copy."""

    name: str
    shape: tuple[int, ...]  # in NumPy's order, rows first: ggml's ne reversed
    type: str  # one of TENSOR_TYPES, by ggml's name in lower case, "q4_k"; pyllm may not be able to multiply it
    data: npt.NDArray[np.uint8] = field(repr=False)  # (bytes,), read-only; starts on a multiple of 8 bytes


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """A file that is mapped, and its state when that was done."""

    path: Path
    buffer: mmap.mmap
    status: os.stat_result

    def check_unchanged(self) -> None:
        """Raise ModelError if the file was cut or written to since; a new file in its place does no harm."""
        changed = self.buffer.size() != self.status.st_size
        try:
            now = os.stat(self.path)
        except OSError:  # deleted or out of reach: what is mapped stays
            now = self.status
        if (now.st_dev, now.st_ino) == (self.status.st_dev, self.status.st_ino):
            changed |= (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns)
        if changed:
            cure = "run again; a file in use may be replaced by renaming a new one, but not written to"
            raise ModelError(self.path, "file", "was cut or changed while it was in use", cure)


def read(path: Path) -> tuple[int, dict[str, Any], dict[str, Tensor], Mapped]:
    """Return a file's version, metadata, tensors and mapping, of which tensors and arrays are views."""
    mapped = _map(path)
    header = _Header(path, mapped.buffer)
    version = header.start()
    n_tensors = header.count("number of tensors", 0)
    metadata = header.metadata(header.count("number of metadata pairs", 14))
    alignment = metadata.get("general.alignment", 32)
    if alignment < 8 or alignment & (alignment - 1):
        header.fail("general.alignment", f"is {alignment}, must be a power of two, 8 or more", CONVERT)
    return version, metadata, header.tensors(n_tensors, alignment), mapped


def short(text: str, limit: int = 60) -> str:
    """Quote a text of the file for a message: on one line, in ASCII, cut to `limit` characters."""
    return ascii(text if len(text) <= limit else text[: limit - 3] + "...")


def quote(kind: str, name: str) -> str:
    return f"{kind} {short(name)}"


def _map(path: Path) -> Mapped:
    """Map the whole file, read-only. Pages are read when they are touched; the file must not be cut while in use."""
    try:
        if path.is_dir():
            raise ModelError(path, "file", "is a folder", "name a .gguf file in it")
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(path, "file", "is a device or a pipe", "give a regular file, which can be mapped")
            if status.st_size == 0:
                raise ModelError(path, "file", "is empty", DOWNLOAD)
            return Mapped(path, mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ), status)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ModelError(path, "file", "does not exist", "check the path") from None
    except (OSError, ValueError, OverflowError) as e:
        problem = f"cannot be opened: {(getattr(e, 'strerror', None) or str(e)).lower()}"
        raise ModelError(path, "file", problem, "check the path and its permissions") from None


class _Header:
    """A position in a file's header. Each method reads on from it and raises ModelError if the file ends early."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path, self.buffer, self.at = path, buffer, 0
        self.end = min(len(buffer), HEADER_LIMIT)

    def fail(self, where: str, problem: str, cure: str = DOWNLOAD) -> NoReturn:
        raise ModelError(self.path, where, problem, cure)

    def need(self, nbytes: int, where: str) -> None:
        """Raise ModelError unless `nbytes` bytes are left."""
        if nbytes > self.end - self.at:
            edge = "the file ends" if self.end == len(self.buffer) else "the largest header that pyllm reads ends"
            self.fail(where, f"needs {nbytes:,} bytes at byte {self.at:,}, but {edge} at byte {self.end:,}")

    def u32(self, where: str) -> int:
        self.need(4, where)
        self.at += 4
        return int(_U32.unpack_from(self.buffer, self.at - 4)[0])

    def u64(self, where: str) -> int:
        self.need(8, where)
        self.at += 8
        return int(_U64.unpack_from(self.buffer, self.at - 8)[0])

    def start(self) -> int:
        """Read the magic and the version; return the version."""
        if (magic := self.buffer[:4]) != b"GGUF":
            what, cure = lookalikes.of_bytes(self.buffer[: lookalikes.HEAD])
            what = f"{what}, and no GGUF" if what else "not a GGUF file"
            self.fail("magic", f"is {magic!r}, not b'GGUF': this is {what}", cure or "give a .gguf file")
        self.at = 4
        version = self.u32("version")
        if version not in (2, 3):
            if version & 0xFFFF == 0 and version:
                self.fail("version", "its bytes are in big-endian order", "convert it with gguf-convert-endian")
            self.fail("version", f"is {version}, pyllm reads 2 and 3", CONVERT)
        return version

    def count(self, where: str, width: int) -> int:
        """Read a count of items of at least `width` bytes each, all of which must fit in the rest of the header."""
        n = self.u64(where)
        if n > COUNT_LIMIT:
            self.fail(where, f"is {n:,}, no model has more than {COUNT_LIMIT:,}")
        self.need(n * width, where)
        return n

    def name(self, where: str, limit: int) -> str:
        """Read a string of 1 to `limit` bytes."""
        nbytes = self.u64(where)
        if not 1 <= nbytes <= limit:
            self.fail(where, f"has a name of {nbytes:,} bytes, must have 1 to {limit:,}")
        return self.string(nbytes, where)

    def string(self, nbytes: int, where: str) -> str:
        self.need(nbytes, where)
        self.at += nbytes
        try:
            return self.buffer[self.at - nbytes : self.at].decode()
        except UnicodeDecodeError:
            self.fail(where, "is not UTF-8")

    def metadata(self, n: int) -> dict[str, Any]:
        """Read n pairs of key and value."""
        found: dict[str, Any] = {}
        for i in range(n):
            key = self.name(f"key {i + 1} of {n}", KEY_LIMIT)
            where = quote("key", key)
            if key in found:
                self.fail(where, "is there twice")
            kind = self.u32(where)
            if key == "general.alignment" and kind != _U32_KIND:
                self.fail(key, "is not a u32", CONVERT)
            found[key] = self.value(kind, where)
        return found

    def value(self, kind: int, where: str) -> Any:
        """Read a metadata value of the type `kind`."""
        if kind == _STRING:
            return self.string(self.u64(where), where)
        if kind == _ARRAY:
            kind, n = self.u32(where), self.u64(where)
            return self.strings(n, where) if kind == _STRING else self.numbers(kind, n, where)
        return self.numbers(kind, 1, where)[0].item()

    def numbers(self, kind: int, n: int, where: str) -> npt.NDArray[Any]:
        """Read n values of a type of fixed size, as a read-only view."""
        if kind not in _VALUES:
            self.fail(where, "is an array of arrays" if kind == _ARRAY else f"has value type {kind}, unknown to GGUF")
        dtype = _VALUES[kind]
        self.need(n * dtype.itemsize, where)
        values = np.frombuffer(self.buffer, dtype, n, self.at) if n else np.zeros(0, dtype)
        self.at += values.nbytes
        if kind != _BOOL:
            return values
        if (values > 1).any():
            self.fail(where, f"is a flag of {values.max()}, must be 0 or 1")
        return values.view(np.bool_)

    def strings(self, n: int, where: str) -> Texts:
        """Read n strings. A large vocabulary has half a million, so this loop is most of the time to open a file."""
        self.need(8 * n, where)
        buffer, at, end, length = self.buffer, self.at, self.end, _U64.unpack_from
        ends: list[int] = []
        append = ends.append
        try:
            for _ in range(n):
                at += 8 + length(buffer, at)[0]
                if at > end:
                    break
                append(at)
        except struct.error:  # no room for a length
            at = end + 1
        if at > end:
            self.fail(where, f"text {len(ends)} of {n:,} reaches past the end of the file or its header")
        lengths = np.diff(np.array(ends, np.int64), prepend=self.at) - 8
        offsets = np.append(0, np.cumsum(lengths))
        is_text = np.ones(at - self.at, np.bool_)
        is_text[(offsets[:-1] + np.arange(0, 8 * n, 8))[:, None] + np.arange(8)] = False
        texts = Texts(np.frombuffer(buffer, np.uint8, len(is_text), self.at)[is_text].tobytes(), offsets)
        if (bad := texts.not_unicode()) is not None:
            self.fail(where, f"text {bad} of {n:,} is not UTF-8")
        self.at = at
        return texts

    def tensors(self, n: int, alignment: int) -> dict[str, Tensor]:
        """Read n tensors; each must lie in the file, apart from the others."""
        self.need(n * 33, "number of tensors")
        found: dict[str, tuple[tuple[int, ...], str, int, int]] = {}  # shape, type, offset, bytes
        for i in range(n):
            name = self.name(f"tensor {i + 1} of {n}", NAME_LIMIT)
            if name in found:
                self.fail(quote("tensor", name), "is there twice")
            found[name] = self.tensor(quote("tensor", name), alignment)
        data = -(-self.at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        for name, (shape, kind, offset, nbytes) in found.items():
            start = data + offset
            if start + nbytes > len(self.buffer):
                problem = f"its {nbytes:,} bytes end at byte {start + nbytes:,}, the file at {len(self.buffer):,}"
                self.fail(quote("tensor", name), problem)
            tensors[name] = Tensor(name, shape, kind, np.frombuffer(self.buffer, np.uint8, nbytes, start))
        self.check_apart({name: (offset, offset + nbytes) for name, (_, _, offset, nbytes) in found.items()})
        return tensors

    def tensor(self, where: str, alignment: int) -> tuple[tuple[int, ...], str, int, int]:
        """Read what follows a tensor's name; return its shape, type, offset in the data section and bytes."""
        n_dims = self.u32(where)
        if not 1 <= n_dims <= 4:
            self.fail(where, f"has {n_dims} dimensions, must have 1 to 4")
        ne = [self.u64(where) for _ in range(n_dims)]
        shape = tuple(reversed(ne))
        if 0 in ne:
            self.fail(where, f"has the shape {shape}, without a value")
        ggml_id, offset = self.u32(where), self.u64(where)
        if ggml_id not in TENSOR_TYPES:
            self.fail(where, f"has type {ggml_id}, which pyllm does not know", "take another quantization of the model")
        kind, size, nbytes = TENSOR_TYPES[ggml_id]
        if ne[0] % size:
            self.fail(where, f"has rows of {ne[0]} values, not a multiple of {kind}'s {size}")
        if offset % alignment:
            self.fail(where, f"lies at offset {offset:,}, not a multiple of the alignment {alignment}")
        return shape, kind, offset, math.prod(ne) // size * nbytes

    def check_apart(self, spans: dict[str, tuple[int, int]]) -> None:
        """Raise ModelError if tensors share bytes."""
        before, end = "", 0
        for name, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
            if start < end:
                self.fail(quote("tensor", name), f"lies over {quote('tensor', before)}")
            before, end = name, stop
