"""Progress of long work on stderr: a bar on a terminal, one line elsewhere, nothing for quick work.

Knows no models; the code that works calls it with (stage, done, total).
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from .plain import plain

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PATIENCE = 1.0  # seconds before a bar is shown
PATIENCE_LOG = 2.0  # seconds before a line is written, if stderr is a file or a pipe


class Bars:
    """A Progress on stderr. Rich is imported with the first bar, so that a warm start does not pay for it."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._rich: RichProgress | None = None
        self._terminal = sys.stderr.isatty()

    def __call__(self, stage: str, done: int, total: int, next: str = "") -> None:
        stage, next = plain(stage), plain(next)
        now = time.monotonic()
        started = self._since.setdefault(stage, now)
        if not self._terminal:
            self._log(stage, total, now - started)
        elif stage in self._tasks or (now - started >= PATIENCE and (done < total or not total)):
            self._draw(stage, done, total, next)

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bars on the screen as they are; later output goes below them."""
        if self._rich is not None:
            self._rich.stop()
            self._rich = None
        self._tasks.clear()
        self._since.clear()

    def _log(self, stage: str, total: int, elapsed: float) -> None:
        if elapsed >= PATIENCE_LOG and self._since[stage] != float("inf"):
            self._since[stage] = float("inf")  # written once
            amount = f" ({_amount(total)})" if total else ""
            sys.stderr.write(f"pyllm: {stage}{amount} ...\n")
            sys.stderr.flush()

    def _draw(self, stage: str, done: int, total: int, next: str) -> None:
        if self._rich is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}", markup=False),  # a path may contain brackets
                BarColumn(24),
                TextColumn("{task.fields[amount]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[next]}"),
            )
            self._rich = RichProgress(*columns, console=Console(stderr=True, highlight=False))
            self._rich.start()
        if stage not in self._tasks:
            # Stages come one after the other, so earlier ones have ended, whatever they reported last.
            for task in self._tasks.values():
                self._rich.stop_task(task)
            self._tasks[stage] = self._rich.add_task(stage, total=total or None, amount="", next="")
        done = min(done, total) if total else done
        amount = _amount(total, done) if total else _amount(done)
        self._rich.update(self._tasks[stage], completed=done, total=total or None, amount=amount, next=next)


def _amount(total: int, done: int | None = None) -> str:
    unit, name = (1e6, " MB") if total > 1_000_000 else (1, "")
    return (f"{done / unit:.0f}/" if done is not None else "") + f"{total / unit:.0f}{name}"
