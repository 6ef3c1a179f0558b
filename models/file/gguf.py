"""A GGUF file, or all parts of a split one: typed metadata, and tensors as views; knows no models and no arithmetic.

The format, little-endian, with padding only where it is named (a `string` is a u64 length and that many UTF-8 bytes):

    "GGUF"           magic
    u32              version: 2 or 3, which have the same layout
    u64 u64          number of tensors, number of metadata pairs
    pairs            string key; u32 value type (0 to 12: u8 i8 u16 i16 u32 i32 f32 bool string array u64 i64 f64); the
                     value. An array is the u32 type of its elements, a u64 count and the elements; arrays do not nest
    tensors          string name; u32 number of dimensions; as many u64 sizes, the contiguous one first ("ne"); u32 ggml
                     type; u64 offset of its bytes in the data section, a multiple of the alignment
    padding          up to a multiple of `general.alignment` (default: 32)
    data             the tensors' bytes

A large model may be split into `NAME-00001-of-0000N.gguf` and so on: each part is a GGUF with `split.no`, `split.count`
and `split.tensors.count`; the first part holds the model's metadata, and each part has tensors of its own.

`header.py` checks every number against the file's size before it is used; the methods here check what values mean.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from .header import CONVERT, COUNT_LIMIT, DOWNLOAD, Mapped, Tensor, quote, read, short
from .lookalikes import is_joined
from .strings import Texts

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class GGUF:
    """A model's file, or all its parts.

    Metadata values are int, float, bool, str, a list of str (`Texts`), or a read-only array of numbers. Read them by
    the typed methods below, which raise ModelError if a value has another type or is out of bounds. A key without a
    `default` is required; bounds are inclusive.
    """

    path: Path  # of the part that holds the metadata
    version: int
    metadata: dict[str, Any] = field(repr=False)
    tensors: dict[str, Tensor] = field(repr=False)
    nbytes: int  # of all parts
    paths: tuple[Path, ...]  # of all parts
    mapped: tuple[Mapped, ...] = field(default=(), repr=False)  # likewise

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GGUF:
        """Read the header of a file, and of the other parts if its model is split; raises ModelError."""
        given = _one(Path(path))
        count = given.integer("split.count", 0, 99999, default=0)
        if count <= 1:
            return given
        if is_joined(given):
            problem = f"is {count}, and other parts of the split model follow in this file, as if joined by cat"
            cure = "join parts with llama.cpp's llama-gguf-split --merge, or keep them apart and give the first"
            raise ModelError(given.path, "split.count", problem, cure)
        parts = [given if p == given.path else _one(p) for p in _siblings(given.path, count)]
        tensors: dict[str, Tensor] = {}
        for i, part in enumerate(parts):
            if (part.integer("split.no", 0, 99999), part.integer("split.count", 0, 99999)) != (i, count):
                raise ModelError(part.path, "split.no", f"is not that of part {i + 1} of {count}", DOWNLOAD)
            for key in part.metadata.keys() & parts[0].metadata.keys() - {"split.no"}:
                if not np.array_equal(part.metadata[key], parts[0].metadata[key]):
                    problem = f"differs from that of {parts[0].path.name}: these are parts of different models"
                    raise ModelError(part.path, key, problem, DOWNLOAD)
            if twice := tensors.keys() & part.tensors.keys():
                raise ModelError(part.path, quote("tensor", min(twice)), "is in another part too", DOWNLOAD)
            tensors.update(part.tensors)
        promised = parts[0].integer("split.tensors.count", 0, COUNT_LIMIT * count, default=len(tensors))
        if promised != len(tensors):
            problem = f"is {promised}, but the {count} parts have {len(tensors)} tensors"
            raise ModelError(parts[0].path, "split.tensors.count", problem, DOWNLOAD)
        first, nbytes = parts[0], sum(p.nbytes for p in parts)
        paths, mapped = tuple(p.path for p in parts), tuple(m for p in parts for m in p.mapped)
        return cls(first.path, first.version, first.metadata, tensors, nbytes, paths, mapped)

    def check_unchanged(self) -> None:
        """Raise ModelError if a file was cut or written to since it was opened; takes a few microseconds."""
        for mapped in self.mapped:
            mapped.check_unchanged()

    @property
    def architecture(self) -> str:
        """Return the architecture's name, such as "llama", with which the hyperparameters' keys begin."""
        return self.text("general.architecture")

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(key, value, "a whole number")
        if not low <= value <= high:
            self._refuse(key, f"is {value}, must be from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._wrong(key, value, "a number")
        if not low <= value <= high:  # false for NaN too
            self._refuse(key, f"is {value:g}, must be from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            self._wrong(key, value, "a text")
        return value

    def texts(self, key: str, default: Texts | None = None) -> Texts:
        value = self._get(key, default)
        if not isinstance(value, Texts):
            self._wrong(key, value, "a list of texts")
        return value

    def ints(self, key: str, low: int, high: int, default: list[int] | None = None) -> npt.NDArray[np.int64]:
        """Return an array of whole numbers; `low` and `high` must be int64s."""
        value = self._array(key, default, "a list of whole numbers", "iu")
        wrong = (value < low) | (value > high)
        if wrong.any():
            at = int(wrong.argmax())
            self._refuse(key, f"number {at} of {len(value)} is {value[at]}, must be from {low} to {high}")
        return value.astype(np.int64)

    def floats(self, key: str, default: list[float] | None = None) -> npt.NDArray[np.float32]:
        """Return an array of numbers, none of which is NaN."""
        value = self._array(key, default, "a list of numbers", "iuf")
        if np.isnan(value).any():
            self._refuse(key, f"number {int(np.isnan(value).argmax())} of {len(value)} is not a number")
        return value.astype(np.float32)

    def _get(self, key: str, default: object) -> Any:
        if (value := self.metadata.get(key, default)) is None:
            self._refuse(key, "is missing")
        return value

    def _array(self, key: str, default: object, wanted: str, kinds: str) -> npt.NDArray[Any]:
        value = self._get(key, default)
        if key not in self.metadata:
            return np.asarray(value)
        if isinstance(value, Texts) and not value:  # an empty list may have any type
            return np.zeros(0, np.int64)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
            self._wrong(key, value, wanted)
        return value

    def _wrong(self, key: str, value: object, wanted: str) -> NoReturn:
        if isinstance(value, Texts):
            found = f"a list of {len(value)} texts"
        elif isinstance(value, np.ndarray):
            found = f"a list of {value.size} {'flags' if value.dtype == np.bool_ else 'numbers'}"
        else:
            found = f"the text {short(value)}" if isinstance(value, str) else str(value).lower()
        self._refuse(key, f"is {found}, must be {wanted}")

    def _refuse(self, key: str, problem: str) -> NoReturn:
        raise ModelError(self.path, key, problem, CONVERT)


def part_names(name: str) -> list[str]:
    """Return the names of all parts of a split model, given the name of one; [name] if the model is not split."""
    match = _SHARD.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return [name]
    return [f"{match[1]}-{i:05}-of-{match[3]}.gguf" for i in range(1, int(match[3]) + 1)]


def _siblings(path: Path, count: int) -> list[Path]:
    """Return the paths of all parts of a split model, given the path of one; raises ModelError if one is missing."""
    names = part_names(path.name)
    if len(names) != count:
        problem = f"is {count}" + (f", but the file's name says {len(names)}" if len(names) > 1 else "")
        pattern = f"NAME-00001-of-{count:05}.gguf"
        raise ModelError(path, "split.count", problem, f"name the parts {pattern} and so on, as they were made")
    paths = [path.with_name(name) for name in names]
    for part in paths:
        if not part.exists():
            raise ModelError(part, "file", f"is missing: the model has {count} parts", "put them all in one folder")
    return paths


def _one(path: Path) -> GGUF:
    version, metadata, tensors, mapped = read(path)
    return GGUF(path, version, metadata, tensors, mapped.status.st_size, (path,), (mapped,))
