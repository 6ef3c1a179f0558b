"""The texts that a study draws on: the user's, those of a data folder, or the documentation in Python's own library."""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...models.errors import UsageError
from ..quality import text_windows

ENOUGH = 400_000  # characters of prose that pyllm collects by itself

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Sources:
    """Prose to continue; questions and worked sums with their answers, empty where there are none."""

    prose: str
    questions: Pairs = field(default_factory=list)
    sums: Pairs = field(default_factory=list)
    named: str = ""  # where the prose comes from

    @property
    def digest(self) -> str:
        """Tells whether two studies ask the same."""
        text = json.dumps([self.prose, self.questions, self.sums])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def collect(file: str | None, folder: str | None) -> Sources:
    """file: prose. folder: with `*.raw` or `*.txt` (prose), `gsm8k*.jsonl` (sums) and `bbh/*.json` (questions)."""
    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"--data {folder}: is no folder; name one with texts, or leave it out")
    found = sorted(Path(folder).iterdir()) if folder else []
    questions, sums = [], []
    named = file or next((str(path) for path in found if path.suffix in (".raw", ".txt")), None)
    try:
        for path in found:
            if path.name.startswith("gsm8k") and path.suffix == ".jsonl":
                sums = [(e["question"], e["answer"]) for e in map(json.loads, path.read_text("utf-8").splitlines())]
        for path in sorted(Path(folder).glob("bbh/*.json")) if folder else []:
            examples: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["examples"]
            questions += [(e["input"], e["target"]) for e in examples]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"--data {path}: cannot be read ({error}); mend it or leave it out") from None
    prose = text_windows.read(named) if named else documentation()
    return Sources(prose, questions, sums, named or "the documentation of Python's library")


def documentation() -> str:
    """Docstrings of Python's standard library, so that a study needs no download."""
    said: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        with suppress(OSError, SyntaxError, ValueError):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                    said.append(text)
                    size += len(text)
        if size > ENOUGH:
            break
    return "\n\n".join(said)
