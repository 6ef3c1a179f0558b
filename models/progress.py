"""How long work tells how far it is: whoever works calls a Progress; knows no terminal."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called again and again while a stage goes on; `next` names what comes next.

    `total` is in bytes above a million, else a count; 0 where nobody knows it.
    """

    def __call__(self, stage: str, done: int, total: int, next: str = "") -> None: ...


def silent(stage: str, done: int, total: int, next: str = "") -> None:
    """Be the Progress of those who want none."""
