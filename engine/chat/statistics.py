"""The statistics of an answer, as a table for people and as JSON for programs; measures only this process's memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from ..generate import Timings
from ..machine.units import seconds, size

if TYPE_CHECKING:
    from ..llm import LLM


@dataclass(frozen=True)
class Bytes:
    """What memory an answer took and moved. Per decoded token, at the depth that its tokens had on average."""

    weights: int
    k: int
    v: int
    kv_cache: int
    gb_per_s: float
    peak: int

    @classmethod
    def of(cls, llm: LLM, timings: Timings) -> Bytes:
        read = llm.read_at(round(timings.depth))
        moved = read.weights + read.k + read.v
        return cls(read.weights, read.k, read.v, llm.kv_bytes, moved * timings.decode_rate / 1e9, peak_memory())


def rows(llm: LLM, timings: Timings, k_type: str, v_type: str) -> list[tuple[str, str]]:
    """The table that a person reads: (what, how much)."""
    moved = Bytes.of(llm, timings)
    prompt = f"{_count(timings.prompt_n, 'token')} in {seconds(timings.prompt)}, {timings.prompt_rate:.1f} tokens/s"
    if timings.reused_n:
        prompt += f" ({_count(timings.reused_n, 'more')} already in the cache)"
    table = [("load", seconds(timings.load)), ("prompt", prompt)]
    if timings.generated_n:
        table.append(("first token", f"after {seconds(timings.first)}"))
    if timings.decoded_n:
        read = f"weights {size(moved.weights)} + K {size(moved.k)} + V {size(moved.v)} at depth {timings.depth:.0f}"
        table += [
            ("answer", f"{_count(timings.generated_n, 'token')}, {timings.decode_rate:.1f} tokens/s"),
            ("read per token", f"{read}: {moved.gb_per_s:.1f} GB/s on {_count(llm.n_threads, 'thread')}"),
        ]
    return [
        *table,
        ("KV cache", f"{size(moved.kv_cache)} for {llm.n_ctx} tokens, K {k_type}, V {v_type}"),
        ("peak memory", size(moved.peak)),
    ]


def show(table: list[tuple[str, str]], file: TextIO | None = None) -> None:
    """Prints a table to stderr, dim on a terminal."""
    file = sys.stderr if file is None else file
    if not file.isatty():
        for name, value in table:
            print(f"{name + ':':<16}{value}", file=file)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, value in table:
        grid.add_row(Text(name), Text(value), style="dim")
    console = Console(file=file, highlight=False)
    console.print()
    console.print(grid)


def as_json(llm: LLM, timings: Timings) -> dict[str, Any]:
    """The same for programs: seconds, tokens, bytes, each under a name that says so."""
    moved = Bytes.of(llm, timings)
    return {
        "tokens": {
            "prompt": timings.prompt_n + timings.reused_n,
            "reused": timings.reused_n,
            "generated": timings.generated_n,
            "decoded": timings.decoded_n,
        },
        "timings": {
            "load_s": timings.load,
            "prompt_s": timings.prompt,
            "first_token_s": timings.first,
            "decode_s": timings.decode,
            "prompt_tokens_per_s": timings.prompt_rate,
            "decode_tokens_per_s": timings.decode_rate,
        },
        "bytes": {
            "weights_per_token": moved.weights,
            "k_per_token": moved.k,
            "v_per_token": moved.v,
            "mean_depth": timings.depth,
            "gb_per_s": moved.gb_per_s,
            "kv_cache": moved.kv_cache,
            "peak_memory": moved.peak,
        },
    }


def peak_memory() -> int:
    """The most bytes of RAM that this process held at once."""
    try:
        import resource
    except ImportError:
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 or noun == "more" else f"{n} {noun}s"
