"""The weights of a model as kernels read them: matrices in tiles, vectors in float32, embeddings as in the file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels.formats import tiles
from ...kernels.formats.table import FORMATS, WEIGHT_TYPES, Format
from ...kernels.lang.buffers import Arena
from ...kernels.lang.jit import Kernel
from ...kernels.plan import Plan, Team
from ..errors import ModelError
from ..file.gguf import GGUF
from ..file.header import Tensor, quote
from . import upcast
from .upcast import READABLE, held_as

_LOG = logging.getLogger(__name__)

F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Matrix:
    """W of y = W x, in tiles of 16 rows. rows: outputs; columns: inputs. Rows are padded to whole tiles."""

    name: str
    format: Format
    rows: int
    columns: int
    data: U8Array
    bias: F32Array | None  # (rows,), padded to whole tiles

    @property
    def tiles(self) -> int:
        return -(-self.rows // tiles.ROWS)

    @property
    def tile_bytes(self) -> int:
        return tiles.tile_bytes(self.format, self.columns)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the blocks without padding, which is what a product must read."""
        return self.rows * self.format.row_bytes(self.columns)


@dataclass(frozen=True, eq=False)
class Embedding:
    """A table whose rows are decoded one by one from blocks, as the file has them."""

    format: Format
    raw: U8Array  # (n_vocab, bytes of a row)


@dataclass(frozen=True, eq=False)
class Stack:
    """The matrices of all experts as one, each expert's rows after those of the one before."""

    role: str  # for example "ffn_up_exps"
    rows: int  # of an expert's matrix
    columns: int
    matrix: Matrix


class Weights:
    """Takes tensors from a GGUF by name and checks their shape and type; `pack` fills the matrices."""

    def __init__(self, g: GGUF) -> None:
        self._gguf = g
        self._matrices: list[tuple[Matrix, U8Array, str]] = []  # to be packed, from blocks in the file of a type
        self._tables: list[tuple[Embedding, U8Array, str]] = []  # likewise, embeddings that must be decoded
        self._taken: set[str] = set()
        self._arena = Arena()

    def _tensor(self, name: str, *shape: int) -> Tensor:
        self._taken.add(name)
        tensor = self._gguf.tensors.get(name)
        if tensor is None:
            raise self._missing(name)
        if tensor.shape != shape:
            problem = f"has shape {list(tensor.shape)}, the hyperparameters ask for {list(shape)}"
            raise ModelError(self._gguf.path, name, problem, "convert the model again")
        if tensor.type not in READABLE:
            known = ", ".join(WEIGHT_TYPES)
            raise ModelError(
                self._gguf.path, name, f"has type {tensor.type}, which pyllm does not read", f"use {known}"
            )
        return tensor

    def _missing(self, name: str) -> ModelError:
        return ModelError(self._gguf.path, name, "is missing", "the file is incomplete; convert the model again")

    def has(self, name: str) -> bool:
        return name in self._gguf.tensors

    def has_all(self, *names: str) -> bool:
        """Return whether the file has these tensors; raises ModelError if it has only some of them."""
        missing = [name for name in names if not self.has(name)]
        if 0 < len(missing) < len(names):
            raise self._missing(missing[0])
        return not missing

    def vector(self, name: str, *shape: int) -> F32Array:
        tensor = self._tensor(name, *shape)
        raw = upcast.blocks(tensor.type, tensor.data.reshape(1, -1), 1)
        return held_as(tensor.type).decode(raw).astype(np.float32).reshape(shape)

    def positive(self, name: str, n: int) -> F32Array:
        """Return a vector of n numbers to divide by; raises ModelError unless all are finite and above 0."""
        found = self.vector(name, n)
        if not (np.isfinite(found) & (found > 0)).all():
            raise ModelError(self._gguf.path, name, "has values that are not above 0", "take another copy of the model")
        return found

    def embedding(self, name: str, rows: int, columns: int) -> Embedding:
        tensor = self._tensor(name, rows, columns)
        fmt, raw = held_as(tensor.type), tensor.data.reshape(rows, -1)
        if tensor.type in FORMATS:
            return Embedding(fmt, raw)
        table = Embedding(fmt, np.empty((rows, fmt.row_bytes(columns)), np.uint8))
        self._tables.append((table, raw, tensor.type))
        return table

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """Return a matrix of rows x columns, with its bias if the file has one; filled by `pack`."""
        return self.parts(name, {name: rows}, columns)[0]

    def stack(self, name: str, n: int, rows: int, columns: int) -> Stack:
        """Return `n` matrices of rows x columns that the file has as one tensor, with their biases if it has them."""
        tensor, biased = self._tensor(name, n, rows, columns), name.removesuffix("weight") + "bias"
        if rows % tiles.ROWS:
            problem = f"has experts of {rows} rows, pyllm multiplies multiples of {tiles.ROWS}"
            raise ModelError(self._gguf.path, name, problem, "take another model")
        bias = self.vector(biased, n, rows).reshape(-1) if self.has(biased) else None
        matrix = self._space(name, tensor, tensor.data.reshape(n * rows, -1), columns, bias)
        return Stack(name.split(".")[-2], rows, columns, matrix)

    def parts(self, name: str, parts: dict[str, int], columns: int) -> list[Matrix]:
        """Return the matrices, given by name and rows, that the file has as one, with biases; filled by `pack`."""
        rows = sum(parts.values())
        tensor, biased = self._tensor(name, rows, columns), name.removesuffix("weight") + "bias"
        blocks = tensor.data.reshape(rows, -1)
        bias = self.vector(biased, rows) if self.has(biased) else None
        found, first = [], 0
        for part, n in parts.items():
            own = slice(first, first + n)
            found.append(self._space(part, tensor, blocks[own], columns, None if bias is None else bias[own]))
            first += n
        return found

    def _space(self, name: str, tensor: Tensor, blocks: U8Array, columns: int, bias: F32Array | None) -> Matrix:
        """Allocate a matrix for these rows of blocks."""
        rows, fmt = len(blocks), held_as(tensor.type)
        if columns % 32:
            problem = f"has rows of {columns} values, pyllm multiplies multiples of 32"
            raise ModelError(self._gguf.path, tensor.name, problem, "take another model")
        data = self._arena.take(-(-rows // tiles.ROWS) * tiles.tile_bytes(fmt, columns))
        if bias is not None:
            bias = np.pad(bias, (0, -rows % tiles.ROWS))
        matrix = Matrix(name, fmt, rows, columns, data, bias)
        self._matrices.append((matrix, blocks, tensor.type))
        return matrix

    def refuse_others(self) -> None:
        """Raise ModelError if the file has a tensor that nobody took: the architecture is another one."""
        if others := sorted(self._gguf.tensors.keys() - self._taken):
            more = f", nor {len(others) - 1} others" if len(others) > 1 else ""
            problem = f"is not a tensor that this architecture uses{more}"
            raise ModelError(self._gguf.path, quote("tensor", others[0]), problem, "take another model")

    @property
    def kernels(self) -> list[Kernel]:
        """Return the kernels that `pack` runs."""
        return [tiles.packer(matrix.format) for matrix, *_ in self._matrices]

    def pack(self, team: Team, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy the file's blocks into tiles with all threads; progress(bytes done, bytes in all)."""
        total = sum(blocks.nbytes for _, blocks, _ in (*self._matrices, *self._tables))
        done = 0
        if message := upcast.note(self._gguf.tensors.values()):
            _LOG.warning(message)
        for table, blocks, type in self._tables:
            table.raw[:] = upcast.blocks(type, blocks, team.threads)
            done += blocks.nbytes
        for plan, nbytes in self._portions(64 << 20, team.threads):
            if progress is not None:
                progress(done, total)
            team.run(plan)
            done += nbytes
        if progress is not None:
            progress(total, total)
        self._matrices.clear()
        self._tables.clear()

    def _portions(self, size: int, threads: int) -> Iterator[tuple[Plan, int]]:
        """Yield plans that each copy about `size` bytes, and the bytes; progress is reported between them."""
        plan, nbytes = Plan(), 0
        for matrix, blocks, type in self._matrices:
            fmt = matrix.format
            plan.add(
                matrix.name,
                tiles.packer(fmt),
                items=matrix.tiles,
                barrier=False,
                raw=upcast.blocks(type, blocks, threads),
                tiles=matrix.data,
                **tiles.pack_operands(fmt, matrix.rows, matrix.columns),
            )
            nbytes += blocks.nbytes
            if nbytes >= size:
                yield plan, nbytes
                plan, nbytes = Plan(), 0
        if plan.ops:
            yield plan, nbytes
