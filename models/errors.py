"""The errors that a user meets: each has one line that names the file, the field and the cure, and an exit code."""

from __future__ import annotations

from collections.abc import Iterable


class PyllmError(Exception):
    """An error that the user can do something about: `str(error)` is the line shown, exit_code ends the process."""

    exit_code = 1


class UsageError(PyllmError):
    """A flag or an argument is wrong, or does not fit this model."""

    exit_code = 2


class ModelError(PyllmError):
    """The model file is missing, damaged, or of a kind that pyllm does not support."""

    exit_code = 3

    def __init__(self, path: object, field: str, problem: str, cure: str = "") -> None:
        super().__init__(f"{path}: {field}: {problem}" + (f"; {cure}" if cure else ""))


class NumberError(PyllmError):
    """The arithmetic gave NaN or infinity: the file is damaged, or values are too large for their type."""

    def __init__(self, path: object, where: str, problem: str, cure: str) -> None:
        super().__init__(f"{path}: {where}: {problem}; {cure}")


class FitError(PyllmError):
    """The model and its KV cache do not fit in the memory that is free."""

    exit_code = 4


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the name of the known ones that is most like the word, or "" if none is."""
    from difflib import get_close_matches

    by_folded = {name.casefold(): name for name in known}
    found = get_close_matches(word[:200].casefold(), by_folded, 1, 0.6)
    return f"; did you mean {by_folded[found[0]]}?" if found else ""
