"""The parts of a report, the same for a terminal and a page: text, tables, plots; knows no figures."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.machine.plain import plain
from ...models.errors import PyllmError
from . import plot
from .page import Page
from .plot import LOOKS, Plot

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is aligned left, the others right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
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

    def show(self, console: Console) -> None:
        """Print the report for a terminal: text, bars and tables, without plots."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        console.print(Text(plain(self.title), style="bold"), Text(plain(self.about)), sep="\n")
        for section in self.sections:
            if not section.text and all(table.only == "page" for table in section.tables):
                continue
            console.print(Text(f"\n{plain(section.title)}", style="bold"))
            for paragraph in section.text:
                console.print(Text(plain(paragraph)))
            for line in section.chart:
                console.print(Text(plain(line), no_wrap=True))
            for table in section.tables:
                if table.only == "page":
                    continue
                grid = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
                grid.title, grid.title_justify = table.caption and Text(f"\n{plain(table.caption)}"), "left"
                for i, name in enumerate(table.columns):
                    grid.add_column(Text(plain(name)), justify="right" if i else "left", no_wrap=True)
                for row in table.rows:
                    grid.add_row(*(Text(plain(cell)) for cell in row))
                console.print(grid)
        for warning in self.warnings:
            console.print(Text(f"\nnote: {plain(warning)}"))

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
