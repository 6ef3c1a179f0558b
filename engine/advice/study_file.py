"""The results of `pyllm study` for a model: one JSON file, whole at any moment; knows cells by their keys only.

The same study gives the same bytes: nothing in it depends on the clock or on how often it was interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...models.errors import PyllmError, UsageError
from ...models.file.gguf import GGUF
from ..store.folder import cache_folder

VERSION = 1


def identity(gguf: GGUF) -> dict[str, Any]:
    """Return what identifies the model without reading all of it."""
    return {"file": gguf.path.name, "bytes": gguf.nbytes, "architecture": gguf.architecture}


def default_path(gguf: GGUF) -> Path:
    """Return the path of a model's study if no flag names another."""
    return cache_folder() / "studies" / f"{gguf.path.stem}.json"


class StudyFile:
    """Results by key, under a heading that says what they were measured on."""

    def __init__(self, path: Path, heading: Mapping[str, Any]) -> None:
        """heading: holds JSON types; results under different headings are never mixed."""
        self.path, self.heading = path, dict(heading)
        self.results: dict[str, dict[str, Any]] = {}
        self.set_aside: Path | None = None

    @classmethod
    def open(cls, path: Path, heading: Mapping[str, Any]) -> StudyFile:
        """Return the study at `path`, empty if there is none. A damaged file is renamed. Raises UsageError."""
        study = cls(path, heading)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return study
        except UnicodeDecodeError:
            text = ""
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}; name another file with -o") from None
        found = _parsed(text)
        if found is None:
            study.set_aside = _free_name(path)
            os.replace(path, study.set_aside)
        elif found["heading"] != study.heading:
            names = [key for key in study.heading if found["heading"].get(key) != study.heading[key]]
            raise UsageError(f"{path}: a study of another {', '.join(names)}; name another file with -o")
        else:
            study.results = found["results"]
        return study

    def add(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Add results and write the file, which is on the disk when this returns. Raises PyllmError."""
        self.results |= {key: dict(value) for key, value in results.items()}
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as file:
                content = {"version": VERSION, "heading": self.heading, "results": self.results}
                file.write(json.dumps(content, indent=1, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}"
            raise PyllmError(f"{self.path}: {problem}; name another file with -o") from None


def results_of(gguf: GGUF, path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the results of this model's study; empty if the file cannot be read or is about another model."""
    try:
        found = _parsed((path or default_path(gguf)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
    if found is None or any(found["heading"].get(key) != value for key, value in identity(gguf).items()):
        return {}
    results: dict[str, dict[str, Any]] = found["results"]
    return results


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
        good = found["version"] == VERSION and isinstance(found["heading"], dict)
        good = good and all(isinstance(value, dict) for value in found["results"].values())
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return found if good else None


def _free_name(path: Path) -> Path:
    n = 1
    while (name := path.with_name(f"{path.name}.damaged-{n}")).exists():
        n += 1
    return name
