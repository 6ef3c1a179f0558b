"""The flags of `pyllm study concurrency`; reads no file."""

from __future__ import annotations

import argparse

from ...engine.commands.flags import MODEL, add_offline, amount, real, whole
from .study_flags import add_arithmetic, duration

CONCURRENCY = """\
Says how many sequences a memory holds, how fast they are at once, and what limits them, for pairs of types of K and V:
sessions that fit; tokens/s, time between tokens and to the first token, by users in a closed loop and by requests that
arrive at random; whether memory, the latency asked for, the cores or the memory bus comes first; what a step from f16
to fewer bits buys, in K first and in V first; and what other machines would do, computed.

The most telling trials come first, and each is saved at once: the same command goes on where it stopped. With
--budget 0 it prints what is known.

  pyllm study concurrency model.gguf --memory 2G --depth 512,2048,8192 --budget 10m --report report/
  pyllm study concurrency model.gguf --memory 8G --latency 100 --machine 16c,60G,32G"""


def add_concurrency(parser: argparse.ArgumentParser) -> None:
    from ...kernels.formats.table import CACHE_TYPES

    parser.description = CONCURRENCY
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help=MODEL)
    memory = "memory for weights, program and caches, such as 2G (default: what is free)"
    add("--memory", metavar="SIZE", type=amount, help=memory)
    depths = "tokens of a sequence, a list (default: 512,2048,8192, those that the model was trained for)"
    add("--depth", metavar="N", action="append", help=depths)
    types = (
        f"types of K and V, a list of which all pairs are studied (default: f16,q8_0,q4_0): {', '.join(CACHE_TYPES)}"
    )
    add("--types", metavar="TYPES", action="append", help=types)
    from ...models.cache.rotation import MODES

    add("--cache-rotate", choices=tuple(MODES), default="auto", help="sides that are rotated (default: auto)")
    add("--latency", metavar="MS", type=real(0.01, 1e7), help="the time between tokens that may pass (default: any)")
    most = "sequences at once, at most (default: 16); more are computed by the model of a step's time"
    add("-np", "--parallel", metavar="N", type=whole(1, 512), default=16, help=most)
    add("--turn", metavar="N", type=whole(1, 1 << 20), default=64,
        help="new tokens of each request, those before them are in the cache (default: 64)")  # fmt: skip
    add("--answer", metavar="N", type=whole(2, 1 << 20), default=64, help="tokens of each answer (default: 64)")
    machine = "compute what another machine would do: cores, GB/s of its memory bus, memory, as in 16c,60G,32G"
    add("--machine", metavar="MACHINE", action="append", default=[], help=machine)
    budget = "time to spend once kernels are compiled: 90s, 10m, 2h (default: 10m)"
    add("--budget", metavar="TIME", type=duration, default=600.0, help=budget)
    add("--minutes", metavar="X", type=real(0, 1e6), help="the same in minutes")
    text = "prose to measure losses with, where `pyllm study kv` has not (default: Python's documentation)"
    add("-f", "--file", metavar="FILE", help=text)
    add(
        "--study",
        metavar="FILE",
        help="the file of `pyllm study kv` (default: in the cache folder, by the model's name)",
    )
    add_arithmetic(parser)
    add("-s", "--seed", metavar="N", type=whole(0, 2**32 - 1), default=0, help="seed of the arrivals (default: 0)")
    add("-t", "--threads", metavar="N", type=whole(1, 1024), help="threads (default: one for each core)")
    output = "the study's file (default: in the cache folder, by the model's name). Or how to print the tables: table "
    output += "(aligned, for people; the default), md (Markdown), json; both may be given (a file named md: ./md)"
    add("-o", "--output", metavar="FILE", action="append", default=[], help=output)
    add("--report", metavar="FOLDER", help="write report.html there, with a picture")
    json = "the same as -o json: all results and findings as one JSON object"
    add("--json", action="append_const", const="json", dest="output", help=json)
    add_offline(parser)
