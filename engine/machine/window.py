"""The window of a terminal: how many columns it has now."""

from __future__ import annotations

import os
import shutil
from typing import TextIO


def width(file: TextIO) -> int:
    """Return the columns of the terminal that a stream writes to; for another stream, those that the system names."""
    try:
        columns = os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size().columns
