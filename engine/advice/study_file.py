"""The results of `pyllm study` for a model: one JSON file, whole at any moment; knows cells by their keys only.

The same study gives the same bytes: nothing in it depends on the clock or on how often it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...models.errors import PyllmError, UsageError
from ...models.file.gguf import GGUF
from ..store import ours
from ..store.folder import cache_folder

VERSION = 1
BEGINS = b'{\n "heading": {'  # a study; a file that begins otherwise is not ours


def identity(gguf: GGUF) -> dict[str, Any]:
    """Return what identifies the model without reading all of it."""
    return {"file": gguf.path.name, "bytes": gguf.nbytes, "architecture": gguf.architecture}


def default_path(gguf: GGUF, *, fast: bool = False) -> Path:
    """Return the path of a model's study if no flag names another; fast: of one with activations as in answers."""
    return cache_folder() / "studies" / f"{gguf.path.stem}{'-fast' if fast else ''}.json"


class StudyFile:
    """Results by key, under a heading that says what they were measured on."""

    def __init__(self, path: Path, heading: Mapping[str, Any]) -> None:
        """heading: holds JSON types; results under different headings are never mixed."""
        self.path, self.heading = path, dict(heading)
        self.results: dict[str, dict[str, Any]] = {}
        self.set_aside: Path | None = None

    @classmethod
    def open(cls, path: Path, heading: Mapping[str, Any]) -> StudyFile:
        """Return the study at `path`, empty if there is none. A damaged one is renamed. Raises UsageError.

        A file that is not a study of ours stays as it is, and is refused.
        """
        study = cls(path, heading)
        try:
            ours.check(path, BEGINS)
            found = _parsed(ours.read(path))
            if found is None:
                study.set_aside = ours.set_aside(path)
        except FileNotFoundError:
            return study
        except ours.Foreign as error:
            raise UsageError(f"{path}: {error.strerror}; only a study is replaced: name another file") from None
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}; name another file") from None
        if found is None:
            return study
        if found["heading"] != study.heading:
            names = [key for key in study.heading if found["heading"].get(key) != study.heading[key]]
            raise UsageError(f"{path}: a study of another {', '.join(names)}; name another file")
        study.results = found["results"]
        return study

    def add(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Add results and write the file, which is on the disk when this returns. Raises PyllmError."""
        self.results |= {key: dict(value) for key, value in results.items()}
        content = {"version": VERSION, "heading": self.heading, "results": self.results}
        try:
            ours.write(self.path, f"{json.dumps(content, indent=1, sort_keys=True)}\n".encode(), BEGINS)
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}"
            raise PyllmError(f"{self.path}: {problem}; name another file") from None


def results_of(gguf: GGUF, path: Path | None = None, **heading: Any) -> dict[str, dict[str, Any]]:
    """Return the results of this model's study; empty if the file cannot be read, or is about another model.

    heading: what else its heading must say.
    """
    try:
        found = _parsed(ours.read(path or default_path(gguf)))
    except OSError:
        return {}
    if found is None or any(found["heading"].get(key) != value for key, value in (identity(gguf) | heading).items()):
        return {}
    results: dict[str, dict[str, Any]] = found["results"]
    return results


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw.decode())
        good = found["version"] == VERSION and isinstance(found["heading"], dict)
        good = good and all(isinstance(value, dict) for value in found["results"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return found if good else None
