"""The program that pyllm is compared with: a llama-bench of llama.cpp or ik_llama.cpp, run once for each sample."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.errors import UsageError
from .cases import Case
from .throughput import Unable

NO_POLICIES = "it has no policies for its cache"
NO_ROTATION = {"LLAMA_ATTN_ROT_DISABLE": "1"}


def help_of(path: str, program: str) -> str:
    """Return what a program prints for --help; raise UsageError, which asks for `program`, if it cannot be run."""
    try:
        done = subprocess.run([path, "--help"], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: no path
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--against {path}: {reason}; give the path of a {program}") from None
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Peer:
    """A llama-bench and its dialect. Each sample is a new process, which loads the model and warms up itself."""

    path: Path
    flash: str  # the value of -fa that means on
    depth: str  # the flag that asks for a depth: -d, -gp (generation only), or "" for none
    environment: dict[str, str]
    extra: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: str, *, rotation: bool, extra: str = "") -> Peer:
        """Learn its dialect from --help; raise UsageError if it is no llama-bench.

        rotation: whether it may rotate K and V of quantized caches.
        """
        text = help_of(path, "llama-bench")
        flash = re.search(r"--flash-attn <([^>]*)>", text)
        if flash is None:
            raise UsageError(f"--against {path}: its --help is not that of a llama-bench; give the path of one")
        depth = next((flag for flag, sign in (("-d", "--n-depth"), ("-gp", "-gp ")) if sign in text), "")
        environment = {} if rotation or depth == "-gp" else NO_ROTATION
        on = "on" if "on" in re.split(r"\W", flash[1]) else "1"
        return cls(Path(path), on, depth, environment, tuple(shlex.split(extra)))

    @property
    def name(self) -> str:
        """The program's name; the fork ik_llama.cpp is recognized by its flag for depths."""
        return "ik_llama.cpp" if self.depth == "-gp" else "llama.cpp"

    @property
    def description(self) -> str:
        """One line that says what we compare with."""
        flags = shlex.join(["-fa", self.flash, *self.extra])
        return f"{self.name}, {self.path} {flags}, rotation of quantized K and V: {self.rotation}"

    @property
    def rotation(self) -> str:
        """Whether it rotates quantized K and V, which costs time and saves quality: "on", "off" or "none"."""
        if self.depth == "-gp":
            return "none"
        return "off" if NO_ROTATION.keys() & (os.environ | self.environment).keys() else "on"

    def rotates(self, case: Case) -> str:
        """Return `rotation` for one case: "off" if pyllm does not rotate in it either."""
        return "off" if self.rotation == "on" and case.cache_rotate == "none" else self.rotation

    def sample(self, case: Case) -> int:
        """Return the nanoseconds of one repetition. Raises Unable."""
        if case.cache.policy:
            raise Unable(NO_POLICIES)
        if not case.n_depth or self.depth == "-d":
            depth = ["-d", case.n_depth] if case.n_depth else []
            if case.n_prompt and case.n_gen:
                return self._run(case, ["-p", 0, "-n", 0, "-pg", f"{case.n_prompt},{case.n_gen}", *depth])[0]
            return self._run(case, ["-p", case.n_prompt, "-n", case.n_gen, *depth])[0]
        if self.depth != "-gp":
            raise Unable("this llama-bench supports no depth")
        if not case.n_prompt:
            return self._run(case, ["-p", 0, "-n", 0, "-gp", f"{case.n_depth},{case.n_gen}"])[0]
        if case.n_gen:
            raise Unable("this llama-bench supports no depth for prompt and generation together")
        # A prompt at a depth: the time of the longer prompt minus that of the shorter.
        whole = case.n_depth + case.n_prompt
        before, all_of_it = self._run(case, ["-p", f"{case.n_depth},{whole}", "-n", 0])
        return all_of_it - before

    def _run(self, case: Case, tests: Sequence[object]) -> list[int]:
        flags: list[object] = [
            "-m", case.model, *tests, "-r", 1, "-t", case.n_threads, "-b", case.n_batch, "-ub", case.n_ubatch,
            "-ctk", case.type_k, "-ctv", case.type_v, "-fa", self.flash, "-ngl", 0, "-o", "json", *self.extra,
        ]  # fmt: skip
        command = [str(self.path), *map(str, flags)]
        rotation = NO_ROTATION if self.rotates(case) == "off" else {}
        environment = os.environ | self.environment | rotation
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
        try:
            rows: list[dict[str, Any]] = json.loads(done.stdout)
            return [int(row["samples_ns"][0]) for row in rows]
        except (ValueError, LookupError, TypeError):
            raise Unable(complaint(done.stderr) or f"exit code {done.returncode} and no JSON") from None


def complaint(text: str) -> str:
    """Return the line of its output that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
    return (errors or lines or [""])[0][:200]
