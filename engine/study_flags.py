"""The flags of the commands that measure quality: perplexity, study, advise. Reads no file."""

from __future__ import annotations

import argparse

from .flags import MODEL, add_layers, add_offline, add_rotate, whole

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
    from ..kernels.formats import CACHE_TYPES

    known = ", ".join(CACHE_TYPES)
    for side in "kv":
        types = f"types of the {side.upper()} cache, a list (default: f16): {known}"
        parser.add_argument(f"-ct{side}", f"--cache-type-{side}", metavar="TYPES", action="append", help=types)
        add_layers(parser, side)
    add_rotate(parser)
