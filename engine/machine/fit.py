"""Whether a model and its KV cache fit in memory, before any of it is taken; knows sizes and limits, runs nothing."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ...kernels.shapes import PAGE, PART, pages
from ...models.cache.kinds import kinds, step_rows, tables
from ...models.cache.sizes import (
    PREFILL_ROWS,
    buffer_bytes,
    check,
    position_bytes,
    segment_bytes,
    sums_bytes,
    token_bytes,
)
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.errors import FitError
from ...models.file.gguf import GGUF
from ...models.forward.upcast import held
from . import cgroups
from .units import size

PROGRAM = 210 << 20  # resident: Python, NumPy, Numba, LLVM; some 20 MiB less if nothing is compiled
ADDRESSES = 1 << 30  # libraries, stacks and allocator arenas reserve addresses that they never touch


@dataclass(frozen=True)
class Needs:
    """The bytes that a model and its cache will take."""

    weights: int
    kv_per_token: int  # in layers that keep all tokens
    positions_per_token: int  # tables over positions
    buffers: int
    n_ctx: int
    window_per_token: int = 0  # in layers with a window
    kept: int = 0  # tokens that these layers keep, of all sequences
    sums_per_token: int = 0  # where decode leaves its sums; sequences that share a prefix touch more
    fixed: int = 0  # with segments: bytes of sink and tail
    spared: int = 0  # and their tokens

    @property
    def kv(self) -> int:
        """Return the bytes of the KV cache, in whole pages."""
        tokens = pages(self.n_ctx) * PAGE
        whole = max(0, tokens - self.spared) * self.kv_per_token
        return whole + self.fixed + min(tokens, self.kept) * self.window_per_token

    @property
    def positions(self) -> int:
        """Return the bytes of the tables over positions."""
        return pages(self.n_ctx) * PAGE * self.positions_per_token

    @property
    def sums(self) -> int:
        """Return the bytes where decode leaves its sums of attention."""
        return pages(self.n_ctx) * PAGE * self.sums_per_token

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.positions + self.sums + self.buffers

    def largest_ctx(self, free: int) -> int:
        """Return the largest context that fits in `free` bytes, in whole pages; 0 if none does."""
        left = max(0, free - self.weights - self.buffers - self.fixed)
        each = self.kv_per_token + self.positions_per_token + self.sums_per_token
        whole = left // (each + self.window_per_token)  # if windows still grow with the context
        if whole > self.kept:
            whole = (left - self.kept * self.window_per_token) // each
        return whole // PAGE * PAGE


def needs(gguf: GGUF, config: Config, n_ctx: int, cache: CacheSpec, sequences: int = 1) -> Needs:
    """Return the bytes of weights in tiles, KV cache and buffers; raises UsageError for a cache that does not suit."""
    whole, *windows = kinds(config)
    check(config, cache)
    b, rows, fixed = cache.borders, 1, 0
    grows = b is None or (b.body and b.most is None)  # whether layers that keep all tokens take more for more of them
    if b is not None:  # rows of prompts leave as many sums as decode rows
        rows = step_rows(b, PREFILL_ROWS)
        body, *_, tail, sink = zip(
            tables(config, b, n_ctx, PREFILL_ROWS, sequences), segment_bytes(config, cache), strict=True
        )
        same = (tail, sink) if grows else (body, tail, sink)
        fixed = sum(table.pool * PAGE * nbytes for table, nbytes in same)
    return Needs(
        weights=held(gguf.tensors),
        kv_per_token=token_bytes(config, cache, whole.layers) if grows else 0,
        positions_per_token=position_bytes(config),
        sums_per_token=-(-rows * sums_bytes(config) // (PART * PAGE)),
        buffers=buffer_bytes(config) + PROGRAM,
        n_ctx=n_ctx,
        window_per_token=token_bytes(config, cache, [i for kind in windows for i in kind.layers]),
        kept=max((kind.kept_pages(PREFILL_ROWS) * PAGE * sequences for kind in windows), default=0),
        fixed=fixed,
        spared=PAGE * (b.sink + b.tail) if b else 0,
    )


def check_fit(gguf: GGUF, config: Config, n_ctx: int, cache: CacheSpec, sequences: int = 1) -> None:
    """Raise FitError, with the numbers and a cure, if there is not enough memory for this model and this cache."""
    need = needs(gguf, config, n_ctx, cache, sequences)
    free, limit = free_memory(mapped=gguf.nbytes)
    if need.total <= free:
        return
    if smaller := need.largest_ctx(free):
        cure = f"-c {smaller} would fit, and smaller cache types take less (-ctk q8_0 -ctv q4_0)"
    else:
        cure = "no context fits beside the weights: free memory or take a smaller model or quantization"
    raise FitError(
        f"{gguf.path}: needs {size(need.total)} of memory (weights {size(need.weights)}, "
        f"KV cache {size(need.kv)} for -c {n_ctx} at {cache.pair}, "
        f"buffers {size(need.positions + need.sums + need.buffers)}), "
        f"but {limit} leaves {size(max(free, 0))}; {cure}"
    )


def free_memory(mapped: int = 0) -> tuple[int, str]:
    """Return (bytes, what limits them): the least that machine, container and ulimit leave to this process.

    mapped: bytes of files that will be mapped, which count only for a limit on addresses.
    """
    limits = [(int(psutil.virtual_memory().available), "this machine's memory")]
    if (left := cgroup_left()) is not None:
        limits.append((left, "the container's limit (cgroup)"))
    if (left := _addresses_left()) is not None:
        limits.append((left - mapped - ADDRESSES, "the limit on addresses (ulimit -v)"))
    return min(limits)


def cgroup_left(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process's control groups (version 1 or 2) still allow; None if none has a limit."""
    left: list[int] = []
    for folder, version in cgroups.folders("memory", root):
        if version == 2:
            limit, usage, reclaimable = "memory.max", "memory.current", "inactive_file"
        else:
            limit, usage, reclaimable = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        with suppress(OSError, ValueError):  # "max" is not a number, and the root group has no such files
            free = int((folder / limit).read_text()) - int((folder / usage).read_text())
            left.append(free + _stat(folder / "memory.stat", reclaimable))
    return min(left, default=None)


def _stat(path: Path, key: str) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0


def _addresses_left() -> int | None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft - int(psutil.Process().memory_info().vms)
