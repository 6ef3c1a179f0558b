"""A study's results on disk: one JSON file, whole at any moment; knows no cells but their keys.

The same study gives the same bytes, so nothing in it depends on the clock or on how often it was broken off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models.errors import PyllmError, UsageError

VERSION = 1


class StudyFile:
    """Results by key, under a heading that says what they were measured on."""

    def __init__(self, path: Path, heading: Mapping[str, Any]) -> None:
        """heading: of JSON's types; results of another one are never mixed in."""
        self.path, self.heading = path, dict(heading)
        self.results: dict[str, dict[str, Any]] = {}
        self.set_aside: Path | None = None

    @classmethod
    def open(cls, path: Path, heading: Mapping[str, Any]) -> StudyFile:
        """What is there already, or nothing; a damaged file is kept under another name. Raises UsageError."""
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
            raise UsageError(f"{path}: a study of another {' and '.join(names)}; name another file with -o")
        else:
            study.results = found["results"]
        return study

    def add(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep results; on disk when this returns. Raises PyllmError."""
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
            raise PyllmError(f"{self.path}: cannot be written: {error.strerror or error}") from None


def read(path: Path) -> dict[str, Any] | None:
    """{"heading", "results"} of a study file; None where there is none that can be read."""
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


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
