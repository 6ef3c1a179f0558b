"""Texts for a study: the user's, those of a data folder, or the docstrings of Python's own library."""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engine.chat.prompt import decoded
from ...engine.store import ours
from ...models.errors import UsageError
from ...models.text.tokenizer import Tokenizer
from ..quality import text_windows

ENOUGH = 400_000  # characters of prose to collect from docstrings

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Sources:
    """Prose to continue, and questions and worked sums with their answers, if there are any."""

    prose: str
    questions: Pairs = field(default_factory=list)
    sums: Pairs = field(default_factory=list)
    named: str = ""  # where the prose comes from

    @property
    def digest(self) -> str:
        """A hash of all texts: two studies with the same one ask the same."""
        text = json.dumps([self.prose, self.questions, self.sums])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def collect(file: str | None, folder: str | None) -> Sources:
    """Read the texts of a study. Raises UsageError.

    file: prose. folder: holds `*.raw` or `*.txt` (prose), `gsm8k*.jsonl` (sums), `bbh/*.json` and other `*.jsonl`
    (questions): a line is an object with the texts "question" and "answer".
    """
    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"--data {folder}: is no folder; name one with texts or omit it")
    found = sorted(Path(folder).iterdir()) if folder else []
    questions: Pairs = []
    sums: Pairs = []
    named = file or next((str(path) for path in found if path.suffix in (".raw", ".txt")), None)
    for path in found:
        if path.suffix == ".jsonl":
            pairs = sums if path.name.startswith("gsm8k") else questions
            lines = enumerate(_text(path).split("\n"), 1)
            pairs += [
                _pair(_json(line, where), ("question", "answer"), where)
                for number, line in lines
                if line.strip() and (where := f"--data {path}: line {number}")
            ]
    for path in sorted(Path(folder).glob("bbh/*.json")) if folder else []:
        whole = _json(_text(path), f"--data {path}")
        examples = whole.get("examples") if isinstance(whole, dict) else None
        if not isinstance(examples, list):
            raise UsageError(f'--data {path}: has no list named "examples"; repair or remove it')
        questions += [_pair(e, ("input", "target"), f"--data {path}: example {i}") for i, e in enumerate(examples, 1)]
    prose = text_windows.read(named) if named else documentation()
    return Sources(prose, questions, sums, named or "the documentation of Python's library")


def _text(path: Path) -> str:
    try:
        return decoded(ours.read(path), f"--data {path}").rstrip()
    except OSError as error:
        raise UsageError(f"--data {path}: cannot be read ({error.strerror}); repair or remove it") from None


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: is no JSON ({error}); repair or remove it") from None


def _pair(entry: Any, names: tuple[str, str], where: str) -> tuple[str, str]:
    """Return the texts of these names. Raises UsageError, which begins with `where`, if they are not there."""

    def text(name: str) -> str:
        found = entry.get(name) if isinstance(entry, dict) else None
        if not isinstance(found, str) or not found.strip():
            raise UsageError(f'{where}: has no text named "{name}"; repair or remove it')
        return found

    return text(names[0]), text(names[1])


def check_length(sources: Sources, tokenizer: Tokenizer, n_ctx: int) -> None:
    """Raise UsageError if the prose has fewer than n_ctx tokens."""
    found = len(tokenizer.encode(sources.prose, bos=True))
    if found < n_ctx:
        cure = "name a longer text, or give none" if sources.prose else "name a text with -f"
        raise UsageError(f"{sources.named}: has {found} tokens, the study needs {n_ctx}; {cure}")


def documentation() -> str:
    """Return docstrings of Python's standard library, so that a study needs no download."""
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
