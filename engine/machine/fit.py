"""Whether a model and its KV cache fit, asked before any of it is taken; knows sizes and limits, runs nothing."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from ...models.cache.sizes import kv_bytes_per_token
from ...models.config import Config
from ...models.errors import FitError
from ...models.file.gguf import GGUF
from ...models.forward.upcast import held
from . import cgroups
from .units import size

LOGITS = 20  # rows of them: those of a step, and the sampler's own
PREFILL_ROWS = 512  # as many tokens of a prompt go through the layers together
PROGRAM = 210 << 20  # Python, NumPy, Numba, LLVM and their code, resident; some 20 less where nothing is compiled
ADDRESSES = 1 << 30  # libraries, stacks and allocator arenas reserve addresses that they never touch
STEP = 64  # a context is held, and proposed, in multiples of it


@dataclass(frozen=True)
class Needs:
    """Bytes that a model will take."""

    weights: int
    kv_per_token: int  # in layers that keep all tokens, with what else a position takes
    buffers: int
    n_ctx: int
    window_per_token: int = 0  # in layers that keep a window
    kept: int = 0  # tokens that these keep, of all sequences

    @property
    def kv(self) -> int:
        tokens = -(-self.n_ctx // STEP) * STEP
        return tokens * self.kv_per_token + min(tokens, self.kept) * self.window_per_token

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.buffers

    def largest_ctx(self, free: int) -> int:
        """The largest context that fits, in multiples of STEP; 0 if none does."""
        left = max(0, free - self.weights - self.buffers)
        whole = left // (self.kv_per_token + self.window_per_token)  # while windows still grow
        if whole > self.kept:
            whole = (left - self.kept * self.window_per_token) // self.kv_per_token
        return whole // STEP * STEP


def needs(gguf: GGUF, config: Config, n_ctx: int, k_type: str, v_type: str, sequences: int = 1) -> Needs:
    """The weights in tiles, the KV cache, and the rest by estimate."""
    c = config
    ropes = {layer.rope for layer in c.layers if layer.rope}
    tables = 4 * sum(rope.dim for rope in ropes) + 4  # float32: cosine and sine of each position, a scale
    queries, values = c.n_head * c.head_dim_k, c.n_head * c.head_dim_v
    n_ff = 0 if c.expert_count else c.n_ff
    outputs = queries + c.n_head_kv * (c.head_dim_k + c.head_dim_v) + 2 * n_ff + 2 * c.n_embd + values + 16 * c.n_head
    inputs = c.n_embd + queries + values + n_ff  # as float32, int8 and their scales
    pair = 5.5 * c.n_embd + 13.5 * c.expert_feed_forward_length  # of a row and one of its experts
    rows = PREFILL_ROWS * (4 * (c.n_embd + outputs) + 5.5 * inputs + c.expert_used_count * pair)
    return Needs(
        weights=held(gguf.tensors),
        kv_per_token=padded(c, k_type, v_type, windows=False) + tables,
        buffers=int(rows) + 4 * LOGITS * c.n_vocab + PROGRAM,
        n_ctx=n_ctx,
        window_per_token=padded(c, k_type, v_type, windows=True),
        kept=(-(-(c.window + PREFILL_ROWS) // STEP) + 1) * STEP * sequences if c.window else 0,
    )


def padded(config: Config, k_type: str, v_type: str, *, windows: bool) -> int:
    """Bytes that a token takes in the cache, whose rows are whole blocks of 32 in every format.

    windows: in layers with a sliding window, else in those without.
    """
    kv_bytes_per_token(config, k_type, v_type)  # refuses what the heads as they are do not allow
    layers = [replace(x, head_dim_k=_blocks(x.head_dim_k), head_dim_v=_blocks(x.head_dim_v)) for x in config.layers]
    return kv_bytes_per_token(replace(config, layers=tuple(layers)), k_type, v_type, windows=windows)


def _blocks(n: int) -> int:
    return -(-n // 32) * 32


def check_fit(gguf: GGUF, config: Config, n_ctx: int, k_type: str, v_type: str) -> None:
    """Raises FitError, with the numbers and a cure, if there is not enough memory for this model and this cache."""
    need = needs(gguf, config, n_ctx, k_type, v_type)
    free, limit = free_memory(mapped=gguf.nbytes)
    if need.total <= free:
        return
    if smaller := need.largest_ctx(free):
        cure = f"-c {smaller} would fit, and smaller cache types take less (-ctk q8_0 -ctv q4_0)"
    else:
        cure = "no context fits beside the weights: free memory or take a smaller model or quantization"
    raise FitError(
        f"{gguf.path}: needs {size(need.total)} of memory (weights {size(need.weights)}, "
        f"KV cache {size(need.kv)} for -c {n_ctx} at {k_type}/{v_type}, buffers {size(need.buffers)}), "
        f"but {limit} leaves {size(max(free, 0))}; {cure}"
    )


def free_memory(mapped: int = 0) -> tuple[int, str]:
    """(bytes, what limits them): the least that machine, container and ulimit leave to this process.

    `mapped` bytes of files will be mapped, which only a limit on addresses counts.
    """
    limits = [(int(psutil.virtual_memory().available), "this machine's memory")]
    if (left := cgroup_left()) is not None:
        limits.append((left, "the container's limit (cgroup)"))
    if (left := _addresses_left()) is not None:
        limits.append((left - mapped - ADDRESSES, "the limit on addresses (ulimit -v)"))
    return min(limits)


def cgroup_left(root: Path = Path("/")) -> int | None:
    """What the control groups of this process, versions 1 and 2, still allow; None where none has a limit."""
    left: list[int] = []
    for folder, version in cgroups.folders("memory", root):
        if version == 2:
            limit, usage, reclaimable = "memory.max", "memory.current", "inactive_file"
        else:
            limit, usage, reclaimable = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        with suppress(OSError, ValueError):  # "max" is no number, and the uppermost group has no such files
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
