"""The statistics of an answer, as rows of a table for people and as JSON for programs; prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..machine.units import seconds, size
from ..results import Timings

if TYPE_CHECKING:
    from ..llm import LLM


def rows(llm: LLM, timings: Timings) -> list[tuple[str, str]]:
    """Return the rows of the table for people: (name, value)."""
    moved = llm.bytes(timings)
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
        ("KV cache", f"{size(moved.kv_cache)} for {llm.n_ctx} tokens, {llm.cache.words}"),
        ("peak memory", size(moved.peak)),
    ]


def as_json(llm: LLM, timings: Timings) -> dict[str, Any]:
    """Return the same for programs: seconds, tokens and bytes, each under a name with its unit."""
    moved = llm.bytes(timings)
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


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 or noun == "more" else f"{n} {noun}s"
