"""The flags of `bench`, with llama-bench's names and defaults; reads no file."""

from __future__ import annotations

import argparse
from typing import Any

from ...engine.commands.flags import MODEL, add_layers, add_offline, add_output, policy, value, whole

BENCH = """\
Measures how fast a model processes prompts and generates tokens, with llama-bench's flags and columns.

Lists look like 512,1024, ranges like 512-2048+512 or 1-8*2. Cases are measured in turns, and the median counts.
Beside tokens/s you see the bytes of weights, K and V that a token reads, and the share of the read bandwidth that this
takes; the same threads measure it in the same run. Peak memory is that of the whole process, with all engines that are
loaded at once.

With -npp, -ntg, -npl or -pps it measures many sequences at once, with llama-batched-bench's flags and columns: the time
of all prompts, then that of steps of one token for each sequence. The model alone is timed; nothing is sampled. Beside
that you see the time from token to token (p50, p99), what a step reads, and the shares of its time that its bytes and
its multiply-adds take on this machine at the least.

  pyllm bench -p 512 -n 128 -d 0,4096 -ctk f16,q8_0 -ctv f16,q4_0
  pyllm bench model.gguf -p 0 -n 64 -d 4096 --against ~/llama.cpp/build/bin/llama-bench
  pyllm bench --synthetic 3B --synthetic-type q4_0,q8_0 -p 0 -t 1,2 -o jsonl
  pyllm bench -npp 512 -ntg 32 -npl 1,2,4,8,16,32 -ctk f16,q8_0 -ctv f16,q4_0
  pyllm bench -npp 4096 -ntg 32 -npl 1-32*2 -pps --against ~/llama.cpp/build/bin/llama-batched-bench"""


def add_bench(parser: argparse.ArgumentParser) -> None:
    from ...kernels.formats.table import CACHE_TYPES, WEIGHT_TYPES

    parser.description = BENCH
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    types = f"cache (default: f16): {', '.join(CACHE_TYPES)}"

    tests = parser.add_argument_group("tests: each flag takes a list and may be repeated; every combination is a case")
    _list(tests, "-m --model", "MODEL", "more models", dest="models")
    _list(tests, "-p --n-prompt", "N", "tokens of the prompt (0: none; default: 512)")
    _list(tests, "-n --n-gen", "N", "tokens to generate (0: none; default: 128)")
    _list(tests, "-pg", "P,G", "a prompt of P tokens and then G generated ones, timed as one case")
    _list(tests, "-d --n-depth", "N", "tokens already in the cache (default: 0)")
    _list(tests, "-b --batch-size", "N", "tokens of a prompt per batch (default: 2048)")
    ubatch = "tokens per pass through the layers, at most a batch (default: 512)"
    _list(tests, "-ub --ubatch-size", "N", ubatch)
    _list(tests, "-ctk --cache-type-k", "TYPE", f"formats of the K {types}")
    _list(tests, "-ctv --cache-type-v", "TYPE", f"formats of the V {types}")
    add_layers(tests, "k")
    add_layers(tests, "v")
    _list(tests, "--cache-rotate", "MODE", "which quantized sides to rotate: auto, k, v, both, none (default: auto)")
    tests.add_argument(
        "--cache-policy",
        metavar="POLICY",
        type=policy,
        action="append",
        help="which tokens are kept in which types, as for `run`; may be repeated, also `none`",
    )
    _list(tests, "-t --threads", "N", "threads (default: one for each core)")
    shapes = "0.5B, 1.1B, 1.5B, 3B, 8B; with experts: 1.3B-A0.4B, 7B-A1B"
    _list(tests, "--synthetic", "SIZE", f"models with random weights in the shapes of known ones: {shapes}")
    _list(tests, "--synthetic-type", "TYPE", f"formats of their weights (default: q4_0): {', '.join(WEIGHT_TYPES)}")

    many = parser.add_argument_group("many sequences at once: lists like those above, instead of -p, -n, -pg and -d")
    _list(many, "-npp", "N", "tokens of each prompt (0: none; default: 512)")
    _list(many, "-ntg", "N", "tokens to generate in each sequence (0: none; default: 32)")
    _list(many, "-npl", "N", "sequences (default: 1,2,4,8,16,32)")
    pps = "all sequences have the same prompt: it is taken in once, and its pages are shared"
    many.add_argument("-pps", action="store_true", help=pps)

    peer = parser.add_argument_group("comparison")
    against = (
        "a llama-bench of llama.cpp or ik_llama.cpp to measure in turns with pyllm; with -npl a llama-batched-bench"
    )
    peer.add_argument("--against", metavar="PATH", help=against)
    no_rotation = "keep llama.cpp from rotating K and V of quantized caches (default: it does where pyllm does)"
    peer.add_argument("--no-peer-rotation", dest="peer_rotation", action="store_false", help=no_rotation)
    peer.add_argument("--peer-args", metavar="FLAGS", default="", help='more flags for it, quoted: "-rtr 1"')

    other = parser.add_argument_group("other")
    value(other, "-r --repetitions", "N", whole(1, 10_000), 5, "how often to measure each case (default: 5)")
    other.add_argument("--no-warmup", dest="warmup", action="store_false", help="skip the first, uncounted repetition")
    add_output(other, "csv", "json", "jsonl", "sql")
    add_offline(other)


def _list(group: argparse._ActionsContainer, names: str, metavar: str, help: str, **more: Any) -> None:
    group.add_argument(*names.split(), metavar=metavar, action="append", help=help, **more)
