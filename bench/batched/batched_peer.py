"""The program that pyllm is compared with: llama.cpp's or ik_llama.cpp's llama-batched-bench, once for each sample."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import UsageError
from ..speed.peer import NO_POLICIES, NO_ROTATION, complaint, help_of
from ..speed.throughput import Unable
from .grid import BatchedCase
from .steps import Sample

PADDING = 256  # tokens; llama.cpp's context of a sequence is a multiple of that

_ROW = re.compile(r"^\|" + r"\s*([\d.]+)\s*\|" * 4 + r"\s*([\d.]+)\s*\|[^|]*\|\s*([\d.]+)\s*\|", re.MULTILINE)


@dataclass(frozen=True)
class BatchedPeer:
    """A llama-batched-bench and its dialect. Each sample is a new process, which loads the model and warms up."""

    path: Path
    flash: tuple[str, ...]  # the flags that turn flash attention on
    unified: bool  # it knows -kvu: one buffer in which sequences can share a prompt's K and V
    jsonl: bool
    rotates_at_all: bool
    extra: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: str, *, rotation: bool, extra: str = "") -> BatchedPeer:
        """Learn its dialect from --help; raise UsageError if it is no llama-batched-bench.

        rotation: whether it may rotate K and V of quantized caches.
        """
        text = help_of(path, "llama-batched-bench")
        if "-npl" not in text:
            raise UsageError(
                f"--against {path}: its --help is not that of a llama-batched-bench; with -npp, -ntg and -npl, "
                "give the path of one"
            )
        flash = re.search(r"--flash-attn[ ,]*[\[<({]?(\S*)", text)
        values = re.split(r"\W", flash[1]) if flash else []
        on = ("-fa", "on") if "on" in values else ("-fa", "1") if "1" in values else ("-fa",)
        unified = "-kvu" in text
        jsonl = re.search(r"--output-format\W+\S*jsonl", text) is not None
        return cls(Path(path), on, unified, jsonl, rotation, tuple(shlex.split(extra)))

    @property
    def name(self) -> str:
        """The program's name; the fork ik_llama.cpp has no unified buffer to choose."""
        return "llama.cpp" if self.unified else "ik_llama.cpp"

    @property
    def description(self) -> str:
        """One line that says what we compare with."""
        flags = shlex.join([*self.flash, *self.extra])
        return f"{self.name}, {self.path} {flags}, rotation of quantized K and V: {self.rotation}"

    @property
    def rotation(self) -> str:
        """Whether it rotates quantized K and V, which costs time and saves quality: "on", "off" or "none"."""
        if not self.unified:
            return "none"
        return "off" if not self.rotates_at_all or NO_ROTATION.keys() & os.environ.keys() else "on"

    def rotates(self, case: BatchedCase) -> str:
        """Return `rotation` for one case: "off" if pyllm does not rotate in it either."""
        return "off" if self.rotation == "on" and case.cache.rotate == "none" else self.rotation

    def sample(self, case: BatchedCase) -> Sample:
        """Return the times of one repetition. Raises Unable."""
        if case.cache.policy:
            raise Unable(NO_POLICIES)
        shared = ["-pps", *(["-kvu"] if self.unified else [])] if case.shared else []
        each = -(-(case.n_prompt + case.n_gen) // PADDING) * PADDING
        flags: list[object] = [
            "-m", case.model, "-npp", case.n_prompt, "-ntg", case.n_gen, "-npl", case.n_sequences, *shared,
            "-c", each * case.n_sequences, "-b", case.n_batch, "-ub", case.n_ubatch, "-t", case.n_threads,
            "-ctk", case.cache.k, "-ctv", case.cache.v, *self.flash, "-ngl", 0,
            *(["--output-format", "jsonl"] if self.jsonl else []), *self.extra,
        ]  # fmt: skip
        environment = os.environ | (NO_ROTATION if self.rotates(case) == "off" else {})
        command = [str(self.path), *map(str, flags)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
        if (found := times(done.stdout)) is None:
            raise Unable(complaint(done.stderr) or f"exit code {done.returncode} and no result")
        return Sample(round(1e9 * found[0]), round(1e9 * found[1]))


def times(text: str) -> tuple[float, float] | None:
    """Return the seconds of prompts and of decode steps in the first line of a result, as JSON or as a table row.

    The other numbers are left unread: a speed over no time is written as no JSON allows it.
    """
    both = [re.search(rf'"{name}": ([\d.]+)', text) for name in ("t_pp", "t_tg")]
    if both[0] and both[1]:
        return float(both[0][1]), float(both[1][1])
    row = _ROW.search(text)
    return (float(row[5]), float(row[6])) if row else None
