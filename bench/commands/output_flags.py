"""The flag -o of the commands that print tables; reads no file."""

from __future__ import annotations

import argparse


def add_output(group: argparse._ActionsContainer, *others: str) -> None:
    """Add -o with "table", "md" and other formats; the default is the table, into a pipe too."""
    text = f"how to print the result: table (aligned, for people; the default), md (Markdown), {', '.join(others)}"
    group.add_argument("-o", "--output", choices=("table", "md", *others), default="table", help=text)


def add_json(group: argparse._ActionsContainer, help: str = "the same as -o json: one JSON object") -> None:
    group.add_argument("--json", action="store_const", const="json", dest="output", help=help)
