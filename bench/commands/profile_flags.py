"""The flags of `profile`, each value checked on its own; reads no file."""

from __future__ import annotations

import argparse

from ...engine.commands.flags import MODEL, add_json, add_layers, add_offline, add_output, add_rotate, amount, whole

PROFILE = """\
Shows where the time of a step goes: time, bytes and multiply-adds of each operation, and how close they come to the
limits of this machine, which the engine's own threads measure once. Lists and ranges are written as in `pyllm bench`.

Several depths show how attention grows; several numbers of threads show where the memory bus is full; several cache
types show what quantizing K or V gains.

  pyllm profile                                        # the default model
  pyllm profile model.gguf -d 0-16384+4096 -ctk f16,q8_0 -ctv f16,q4_0 --html report.html
  pyllm profile --synthetic 3B -t 1-8*2 --plots plots  # a model that no cache holds
  pyllm profile --machine                              # only the machine, measured again"""


def add_profile(parser: argparse.ArgumentParser) -> None:
    from ...kernels.formats.table import CACHE_TYPES, FORMATS

    parser.description = PROFILE
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL)
    parser.set_defaults(models=None)
    types = f"cache (default: f16): {', '.join(CACHE_TYPES)}"

    steps = parser.add_argument_group("steps: each flag takes a list, and every combination is measured")
    add = steps.add_argument
    add("-d", "--n-depth", metavar="N", action="append", help="tokens already in the cache (default: 0,4096)")
    add("-t", "--threads", metavar="N", action="append", help="threads (default: one for each core)")
    for side in "kv":
        add(f"-ct{side}", f"--cache-type-{side}", metavar="TYPE", action="append",
            help=f"formats of the {side.upper()} {types}")  # fmt: skip
        add_layers(steps, side)
    add_rotate(steps)
    prompt = "tokens of a prefill step, profiled in addition to decode (0: no prefill; default: 512)"
    add("-p", "--n-prompt", metavar="N", type=whole(0, 2048), default=512, help=prompt)
    synthetic = "a model with random weights in a known shape: 0.5B, 1.1B, 1.5B, 3B, 8B"
    add("--synthetic", metavar="SIZE", action="append", help=synthetic)
    weights = f"the format of its weights (default: q4_0): {', '.join(FORMATS)}"
    add("--synthetic-type", metavar="TYPE", action="append", help=weights)
    rounds = "rounds over all cases (default: 5)"
    add("-r", "--repetitions", metavar="N", type=whole(1, 10_000), default=5, help=rounds)

    output = parser.add_argument_group("output")
    add_output(output, "json")
    add_json(output, "the same as -o json: one JSON object with all figures")
    output.add_argument("--html", metavar="FILE", help="write a report with plots")
    output.add_argument("--open", action="store_true", help="open the report (without --html: pyllm-profile.html)")
    output.add_argument("--plots", metavar="FOLDER", help="write the plots as files, light and dark")
    output.add_argument(
        "--plot-format", choices=("svg", "png", "pdf"), default="svg", help="their format (default: svg)"
    )

    other = parser.add_argument_group("other")
    other.add_argument("--machine", action="store_true", help="only measure this machine again")
    memory = "memory that contexts must fit in, such as 8G (default: all of this machine's)"
    other.add_argument("--memory", metavar="SIZE", type=amount, help=memory)
    add_offline(other)
