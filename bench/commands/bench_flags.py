"""The flags of `bench`, with llama-bench's names and defaults. Reads no file."""

from __future__ import annotations

import argparse
from typing import Any

from ...engine.commands.flags import MODEL, add_layers, add_offline, value, whole

BENCH = """\
Measures how fast a model takes in prompts and generates tokens, with llama-bench's flags and columns.

Lists are 512,1024; ranges are 512-2048+512 or 1-8*2. Cases are measured in turns, not one after the other, and the
median counts. Beside tokens/s stand the bytes of weights, K and V that a token reads, and which share that is of the
read bandwidth, measured by the same threads in the same run. Peak memory is that of the process, with all engines that
the cases need at once.

  pyllm bench -p 512 -n 128 -d 0,4096 -ctk f16,q8_0 -ctv f16,q4_0
  pyllm bench model.gguf -p 0 -n 64 -d 4096 --against ~/llama.cpp/build/bin/llama-bench
  pyllm bench --synthetic 3B --synthetic-type q4_0,q8_0 -p 0 -t 1,2 -o jsonl"""


def add_bench(parser: argparse.ArgumentParser) -> None:
    from ...kernels.formats.table import CACHE_TYPES, WEIGHT_TYPES

    parser.description = BENCH
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    types = f"cache (default: f16): {', '.join(CACHE_TYPES)}"

    tests = parser.add_argument_group("tests: each takes a list and may be repeated; every combination is a case")
    _list(tests, "-m --model", "MODEL", "more models", dest="models")
    _list(tests, "-p --n-prompt", "N", "tokens of a prompt (0: none; default: 512)")
    _list(tests, "-n --n-gen", "N", "tokens to generate (0: none; default: 128)")
    _list(tests, "-pg", "P,G", "a prompt and generated tokens in one case")
    _list(tests, "-d --n-depth", "N", "tokens that are in the cache before (default: 0)")
    _list(tests, "-b --batch-size", "N", "tokens of a prompt taken in at once, ...")
    _list(
        tests, "-ub --ubatch-size", "N", "... and through the layers together: the smaller counts (default: 2048, 512)"
    )
    _list(tests, "-ctk --cache-type-k", "TYPE", f"formats of the K {types}")
    _list(tests, "-ctv --cache-type-v", "TYPE", f"formats of the V {types}")
    add_layers(tests, "k")
    add_layers(tests, "v")
    _list(tests, "--cache-rotate", "MODE", "which quantized sides are rotated: auto, k, v, both, none (default: auto)")
    _list(tests, "-t --threads", "N", "threads (default: one for each core)")
    shapes = "0.5B, 1.1B, 1.5B, 3B, 8B, and with experts 1.3B-A0.4B, 7B-A1B"
    _list(tests, "--synthetic", "SIZE", f"models of random weights in the shape of known ones: {shapes}")
    _list(tests, "--synthetic-type", "TYPE", f"formats of their weights (default: q4_0): {', '.join(WEIGHT_TYPES)}")

    peer = parser.add_argument_group("comparison")
    peer.add_argument("--against", metavar="PATH", help="a llama-bench of llama.cpp or ik_llama.cpp: run it in turns")
    no_rotation = (
        "llama.cpp never rotates K and V of quantized caches (LLAMA_ATTN_ROT_DISABLE=1), else where pyllm does"
    )
    peer.add_argument("--no-peer-rotation", dest="peer_rotation", action="store_false", help=no_rotation)
    peer.add_argument("--peer-args", metavar="FLAGS", default="", help='more flags for it, as one word: "-rtr 1"')

    other = parser.add_argument_group("other")
    value(other, "-r --repetitions", "N", whole(1, 10_000), 5, "times that each case is measured (default: 5)")
    other.add_argument("--no-warmup", dest="warmup", action="store_false", help="no repetition that is not counted")
    formats = ("md", "csv", "json", "jsonl", "sql")
    other.add_argument("-o", "--output", choices=formats, default="md", help="format of the result (default: md)")
    add_offline(other)


def _list(group: argparse._ActionsContainer, names: str, metavar: str, help: str, **more: Any) -> None:
    group.add_argument(*names.split(), metavar=metavar, action="append", help=help, **more)
