"""The flags of `pyllm study policies`; reads no file."""

from __future__ import annotations

import argparse

from ...engine.commands.flags import MODEL, add_offline, real, whole
from .study_flags import duration

POLICIES = """\
Compares ways to keep K and V at equal bytes: pairs of cache types, the first and the last tokens in f16 over them,
streaming, and formats of papers (--cache-policy kivi and its like), with tokens chosen at random as a control. For
each: bytes at this depth by those of f16/f16, KL divergence on prose from an f32 cache, passkeys and entries of a
dictionary that are still found, and tokens/s where there are kernels. Activations are float32, so that all but tokens/s
is the same on every CPU.

Each measurement is saved at once: the same command goes on where it stopped. With --budget 0 it prints what is known.

  pyllm study policies model.gguf --bytes 0.5,0.25 --budget 10m --report report/
  pyllm study policies model.gguf -c 4096 --data texts/ --budget 2h -o policies.json"""


def add_policies(parser: argparse.ArgumentParser) -> None:
    parser.description = POLICIES
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help=MODEL)
    text = "shares of f16's bytes at which policies are compared, a list (default: 0.5,0.25,0.125)"
    add("--bytes", metavar="SHARES", type=shares, default=(0.5, 0.25, 0.125), help=text)
    add("--budget", metavar="TIME", type=duration, default=600.0, help="time to spend: 90s, 10m, 2h (default: 10m)")
    text = "tokens of a text, half of which are scored, and the depth of bytes and tokens/s (default: 1024)"
    add("-c", "--ctx-size", metavar="N", type=whole(64), help=text)
    add("-f", "--file", metavar="FILE", help="prose to continue, UTF-8 (default: Python's documentation)")
    add("--data", metavar="FOLDER", help="texts: *.raw or *.txt, the first of which is the prose")
    add("-s", "--seed", metavar="N", type=whole(0, 2**32 - 1), default=0, help="seed of the tasks (default: 0)")
    add("-t", "--threads", metavar="N", type=whole(1, 1024), help="threads (default: one for each core)")
    output = "the study's file (default: in the cache folder, by the model's name). Or how to print the tables: table "
    output += "(aligned, for people; the default), md (Markdown), json; both may be given (a file named md: ./md)"
    add("-o", "--output", metavar="FILE", action="append", default=[], help=output)
    add("--report", metavar="FOLDER", help="write report.html there, with a picture")
    json = "the same as -o json: all results as one JSON object"
    add("--json", action="append_const", const="json", dest="output", help=json)
    add_offline(parser)


def shares(text: str) -> tuple[float, ...]:
    """Return the value of --bytes: numbers above 0 and up to 1, from large to small, each once."""
    return tuple(sorted({real(0.001, 1)(part) for part in text.split(",")}, reverse=True))
