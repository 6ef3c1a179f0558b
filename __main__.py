"""The program `pyllm`: the table of its commands. Stands above all floors, so that none of them reaches up."""

from __future__ import annotations

import _signal  # without all that `signal` imports
import os
from contextlib import suppress

if INTERRUPTIBLE := _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    with suppress(ValueError):  # not the main thread
        # Ctrl-C while modules are imported: the end, without a traceback.
        _signal.signal(_signal.SIGINT, lambda *_: os._exit(130))

from collections.abc import Sequence
from typing import NoReturn

from pyllm.bench.commands import bench_flags, concurrency_flags, policies_flags, profile_flags, study_flags, tune_flags
from pyllm.engine.commands import cli, model_flags, run_flags
from pyllm.engine.commands.cli import Command

_ENGINE, _BENCH = "pyllm.engine.commands", "pyllm.bench.commands"

COMMANDS: dict[str, Command] = {
    "run": Command("answer a prompt, or chat", run_flags.add_run, f"{_ENGINE}.run"),
    "bench": Command("measure speed and what is read from memory", bench_flags.add_bench, f"{_BENCH}.bench"),
    "perplexity": Command(
        "say how well a model predicts a text, and what the cache's formats cost",
        study_flags.add_perplexity,
        f"{_BENCH}.perplexity",
    ),
    "profile": Command(
        "show where a token's time goes, and what the machine can do", profile_flags.add_profile, f"{_BENCH}.profile"
    ),
    "tune": Command("measure which kernels are the fastest here", tune_flags.add_tune, f"{_BENCH}.tune"),
    "doctor": Command("say what pyllm finds on this machine", run_flags.add_doctor, f"{_ENGINE}.doctor"),
    "study": Command("measure what K and V cost in each cache type", study_flags.add_study, f"{_BENCH}.study"),
    "study concurrency": Command(
        "say how many sequences fit, how fast they are, and what limits them",
        concurrency_flags.add_concurrency,
        f"{_BENCH}.concurrency",
    ),
    "study policies": Command(
        "say which cache policy loses the least at equal bytes", policies_flags.add_policies, f"{_BENCH}.policies"
    ),
    "advise": Command("say which cache types to use", study_flags.add_advise, f"{_BENCH}.advise"),
    "inspect": Command("say what is in a model file", model_flags.add_inspect, f"{_ENGINE}.inspect", takes_path=True),
    "verify": Command("check a model file for damage", model_flags.add_verify, f"{_ENGINE}.verify", takes_path=True),
    "pull": Command("fetch models", model_flags.add_pull, f"{_ENGINE}.pull"),
    "list": Command("say which models are here", model_flags.add_list, f"{_ENGINE}.listing"),
    "show": Command(
        "inspect a model that is here, and say where it came from", model_flags.add_show, f"{_ENGINE}.show"
    ),
    "quantize": Command(
        "write a model in another type", model_flags.add_quantize, f"{_ENGINE}.quantize", takes_path=True
    ),
    "rm": Command("delete models that were fetched", model_flags.add_rm, f"{_ENGINE}.rm"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, by default the one that the process was started with; return its exit code."""
    return cli.main(COMMANDS, argv)


def script() -> NoReturn:
    """Run the command and end the process."""
    cli.script(COMMANDS)


if INTERRUPTIBLE:
    with suppress(ValueError):
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
if __name__ == "__main__":
    script()
