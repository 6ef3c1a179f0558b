"""The flags of the commands that measure quality: perplexity, study, advise; reads no file."""

from __future__ import annotations

import argparse

from ...engine.commands.flags import (
    MODEL,
    add_json,
    add_layers,
    add_offline,
    add_output,
    add_rotate,
    amount,
    policy,
    whole,
)

PERPLEXITY = """\
Measures how well a model predicts a text, and how the KV cache's formats change that, with llama-perplexity's method.

The text is cut into windows of -c tokens. Each starts with an empty cache, and only its second half is scored. With
lists of cache types, each pair gets a line. --kl compares each pair with the same model over an f32/f32 cache, run in
the same process: this KL divergence is the cost of the cache alone, without that of quantized weights. Activations are
float32, so that every CPU gives the same figures; with --fast they are rounded as in answers, and f16/f16 is the floor.

  pyllm perplexity model.gguf -f wiki.test.raw
  pyllm perplexity model.gguf -f wiki.test.raw --kl -ctk q8_0,q4_0 -ctv q8_0,q4_0 --chunks 8"""


def add_perplexity(parser: argparse.ArgumentParser) -> None:
    parser.description = PERPLEXITY
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help=MODEL)
    add("-f", "--file", metavar="FILE", required=True, help="the text to score, UTF-8 (-: stdin)")
    add("-c", "--ctx-size", metavar="N", type=whole(8), default=512, help="tokens per window (default: 512)")
    add("--chunks", metavar="N", type=chunks, default=-1, help="number of windows to score (default: -1, all)")
    add("--kl", action="store_true", help="report the KL divergence from an f32/f32 cache")
    add("--decode", action="store_true", help="score token by token, as in generation, not in batches")
    add_arithmetic(parser)
    add_cache(parser)
    add("-t", "--threads", metavar="N", type=whole(1, 1024), help="threads (default: one for each core)")
    add_output(parser, "json")
    add_json(parser)
    add_offline(parser)


def add_arithmetic(parser: argparse.ArgumentParser) -> None:
    """Add --exact, which is the default, and --fast."""
    group = parser.add_mutually_exclusive_group()
    exact = "float32 activations, sums in one order: the same figures on every CPU (default)"
    group.add_argument("--exact", action="store_false", dest="fast", default=False, help=exact)
    fast = "activations rounded as in answers; f16/f16 then shows what that adds on this CPU"
    group.add_argument("--fast", action="store_true", default=False, help=fast)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the types and rotation of the caches to compare."""
    from ...kernels.formats.table import CACHE_TYPES

    known = ", ".join(CACHE_TYPES)
    for side in "kv":
        types = f"types of the {side.upper()} cache, a list (default: f16): {known}"
        parser.add_argument(f"-ct{side}", f"--cache-type-{side}", metavar="TYPES", action="append", help=types)
        add_layers(parser, side)
    add_rotate(parser)
    text = "the same with a policy for the tokens, as for `run`; several are compared, also `none` (default: none)"
    parser.add_argument("--cache-policy", metavar="POLICY", type=policy, action="append", help=text)


STUDY = """\
Measures what quantizing K and V costs on a model: perplexity and KL divergence from an f32 cache for pairs of cache
types, by task and context length, layer by layer, and where bits are best spent.

A first look comes first, about a minute on a small model: f16, q8_0 and q4_0 in K and V, alone and together, rotated
and not, a longer text, a number to be found in a text. Then all of it with more texts, and more types and tasks, what
tells most first. Each measurement is saved at once: the same command continues a study that was interrupted or ran out
of budget. The same seed and texts give the same file. Activations are float32, so that the loss is the cache's alone;
the row "f16/f16, fast" shows what the rounding of activations in answers adds.

  pyllm study kv model.gguf --budget 10m --report report/
  pyllm study kv model.gguf --data ../shared/data -c 512,4096 --types q8_0,q4_0 --budget 2h"""


def add_study(parser: argparse.ArgumentParser) -> None:
    from ...kernels.formats.table import CACHE_TYPES

    parser.description = STUDY
    add = parser.add_argument
    subjects = "what to study: the types of K and V (kv); `pyllm study concurrency --help` and `pyllm study "
    subjects += "policies --help` have the flags of the others"
    add("subject", metavar="kv", choices=("kv", "concurrency", "policies"), help=subjects)
    add("model", metavar="MODEL", nargs="?", help=MODEL)
    add(
        "--budget",
        metavar="TIME",
        type=duration,
        default=600.0,
        help="time to spend: 90s, 10m, 2h (default: 10m); compiling kernels for the first look is not counted",
    )
    types = f"cache types to study, a list (default: all quantized ones): {', '.join(CACHE_TYPES)}"
    add("--types", metavar="TYPES", action="append", help=types)
    contexts = "a list of context lengths: all pairs at the first; prose and retrieval at the others too (default: 512)"
    add("-c", "--ctx-size", metavar="N", action="append", help=contexts)
    rotate = "rotations, a list; only the first is studied in full (default: auto,none)"
    add("--cache-rotate", metavar="MODES", action="append", help=rotate)
    add("-f", "--file", metavar="FILE", help="prose to continue, UTF-8 (default: Python's documentation)")
    data = "texts: *.raw or *.txt (prose), gsm8k*.jsonl (worked sums), bbh/*.json and other *.jsonl (questions)"
    add("--data", metavar="FOLDER", help=data)
    add("-s", "--seed", metavar="N", type=whole(0, 2**32 - 1), default=0, help="seed of the tasks (default: 0)")
    add_arithmetic(parser)
    add("-t", "--threads", metavar="N", type=whole(1, 1024), help="threads (default: one for each core)")
    output = "the study's file (default: in the cache folder, by the model's name). Or how to print the tables: table "
    output += "(aligned, for people; the default), md (Markdown), json; both may be given (a file named md: ./md)"
    add("-o", "--output", metavar="FILE", action="append", default=[], help=output)
    add("--report", metavar="FOLDER", help="write report.html and its plots there, as SVG and PNG")
    json = "the same as -o json: all results as one JSON object"
    add("--json", action="append_const", const="json", dest="output", help=json)
    add_offline(parser)


def chunks(text: str) -> int:
    """Return the value of --chunks: 1 or more, or -1 for all."""
    return -1 if text.strip() == "-1" else whole(1)(text)


def duration(text: str) -> float:
    """Return the seconds of a time such as 90s, 10m, 2h, or a plain number of seconds."""
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
Says which types to store K and V in, for a model, a context length and a use: the smallest whose loss is negligible.

The losses come from the model's study (`pyllm study kv`). Without one, its first measurements are made now and kept.

  pyllm advise model.gguf --context 16k --sessions 4 --memory 8G --task long"""


def add_advise(parser: argparse.ArgumentParser) -> None:
    from ...engine.advice.choose import TASKS

    parser.description = ADVISE
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help=MODEL)
    add("--memory", metavar="SIZE", type=amount, help="memory for all of it, such as 8G (default: what is free)")
    add("--context", metavar="N", type=amount, help="tokens per session, such as 16k (default: the model's own)")
    add("--sessions", metavar="N", type=whole(1, 4096), default=1, help="sessions at the same time (default: 1)")
    add("--task", choices=tuple(TASKS), default="chat", help="the intended use (default: chat)")
    add("--study", metavar="FILE", help="the study's file (default: in the cache folder, by the model's name)")
    add("--budget", metavar="TIME", type=duration, default=90.0, help="time for a quick study (default: 90s)")
    add("-t", "--threads", metavar="N", type=whole(1, 1024), help="threads (default: one for each core)")
    add_output(parser, "json")
    add_json(parser)
    add_offline(parser)
