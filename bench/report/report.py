"""The parts of a report, the same for a terminal and a page: text, tables, plots; knows no figures."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from ...engine.machine import tables, window
from ...engine.machine.plain import plain
from ...models.errors import PyllmError
from . import plot
from .page import Page
from .plot import LOOKS, Plot

WIDTH = 132  # characters per line where a report goes to no terminal


@dataclass(frozen=True)
class Table(tables.Table):
    """A table of a report."""

    only: str = ""  # "page" or "terminal", if it is not for both


@dataclass(frozen=True)
class Section:
    """A part of a report with a title of its own."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[tuple[Plot, str]] = ()  # with their captions
    chart: Sequence[str] = ()  # lines that stand for the plots on a terminal


@dataclass(frozen=True)
class Report:
    """A whole report: sections, and warnings about their figures."""

    title: str
    about: str  # the machine, the model, the time
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = field(default_factory=list)

    def page(self) -> Page:
        """Return the report as a page; without matplotlib it has no plots but a line that says so."""
        page = Page(self.title, self.about)
        for warning in self.warnings:
            page.warning(warning)
        plots = plot.available()
        if not plots:
            page.warning("This report lacks its plots, which need matplotlib: pip install 'pyllm[plot]'")
        for section in self.sections:
            page.section(section.title, *section.text)
            for picture, caption in section.plots if plots else ():
                page.figure(picture.svg(), caption)
            for table in section.tables:
                if table.only != "terminal":
                    page.table(table.caption, table.columns, table.rows)
        return page

    def show(self, file: TextIO, how: str = "table") -> None:
        """Write the report for people, with bars for plots, as wide as the window, or as Markdown (how: "md")."""
        md = how == "md"

        def write(text: str, mark: str = "") -> None:
            text = plain(text)
            file.write((f"{mark}{text}\n" if md else window.filled(text, file, WIDTH)) + "\n")

        write(self.title, "# ")
        write(self.about)
        for section in self.sections:
            shown = [table for table in section.tables if table.only != "page"]
            if not section.text and not shown:
                continue
            file.write("\n" * (not md))
            write(section.title, "## ")
            for paragraph in section.text:
                write(paragraph)
            if chart := list(map(plain, section.chart)):
                file.write("\n".join(["```", *chart, "```", ""] if md else [*chart, ""]))
            for table in shown:
                file.write("\n" * (md or bool(table.caption)))
                tables.show(table, file, how)
            file.write("\n" * (md and bool(shown)))
        for warning in self.warnings:
            file.write("\n" * (not md))
            write(f"note: {warning}")

    def save_plots(self, folder: Path, suffix: str) -> list[Path]:
        """Write all plots, light and dark, as files and return their paths. Raises PyllmError."""
        written = []
        for section in self.sections:
            for picture, _ in section.plots:
                for name, look in LOOKS.items():
                    path = folder / f"{picture.name}-{name}.{suffix}"
                    picture.save(path, look)
                    written.append(path)
        return written


def check_folder(path: Path) -> None:
    """Make the folder and raise PyllmError if no file can be written there; called before anything is measured."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise PyllmError(f"{path}: cannot be written: {error.strerror or error}") from None
