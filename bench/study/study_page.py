"""A study as one page with its plots; computes nothing."""

from __future__ import annotations

from pathlib import Path

from ..report import plot
from ..report.page import Page
from . import plots
from .findings import Findings

PAGE = "report.html"


def write(findings: Findings, folder: Path) -> None:
    """Write the page, and each plot as SVG and PNG. Raises PyllmError."""
    page = Page(
        f"What K and V cost: {findings.heading['model']}", f"{findings.heading['file']}, {findings.heading['prose']}"
    )
    pictures = list(plots.plots(findings)) if plot.available() else []
    if pictures:
        page.section("Pictures")
    for picture in pictures:
        page.figure(picture.svg())
        for suffix in (".svg", ".png"):
            picture.save(folder / f"{picture.name}{suffix}")
    page.section("Tables", "KLD: the KL divergence from the same model with an f32 cache, in nats. The row that says "
                 "fast rounds activations as answers do. Small models fail many tasks: what counts is how the "
                 "log-probability of the answer changes.")  # fmt: skip
    for table in findings.tables():
        page.table(table.caption, table.columns, table.rows)
    page.write(folder / PAGE)
