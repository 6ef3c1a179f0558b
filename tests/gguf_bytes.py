"""Writes a GGUF by hand, so that each of its numbers can be wrong; `tiny.py` writes whole models."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pyllm.models.errors import ModelError

ALIGNMENT = "general.alignment"
HUGE = (1 << 64) - 1
U8, I8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 1, 4, 6, 7, 8, 9, 10


def u32(n: int) -> bytes:
    return struct.pack("<I", n)


def u64(n: int) -> bytes:
    return struct.pack("<Q", n)


def string(text: str | bytes, length: int | None = None) -> bytes:
    """Return a string as its length, or a wrong one, and its bytes."""
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw) if length is None else length) + raw


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return string(key) + u32(kind) + value


def array(kind: int, n: int, elements: bytes = b"") -> bytes:
    return u32(kind) + u64(n) + elements


def info(name: str | bytes = "a", ne: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    """Return a tensor's description: name, sizes (the contiguous one first), type, offset."""
    return string(name) + u32(len(ne)) + b"".join(map(u64, ne)) + u32(kind) + u64(offset)


LLAMA = pair("general.architecture", STRING, string("llama"))


def file(
    pairs: tuple[bytes, ...] = (LLAMA,),
    infos: tuple[bytes, ...] = (),
    data: bytes = b"",
    *,
    version: bytes = u32(3),
    n_infos: int | None = None,
    n_pairs: int | None = None,
) -> bytes:
    """Return a whole file; `n_infos` and `n_pairs`: the numbers that it states, if they are wrong."""
    head = b"GGUF" + version + u64(len(infos) if n_infos is None else n_infos)
    head += u64(len(pairs) if n_pairs is None else n_pairs) + b"".join(pairs + infos)
    return head + bytes(-len(head) % 32 if data else 0) + data


def put(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def one_line(error: pytest.ExceptionInfo[ModelError], path: Path) -> str:
    """Return the message of a refusal, after checking that it names the file and a cure."""
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert ";" in message, "names no cure"
    assert error.value.exit_code == 3
    return message
