"""Formats bytes and seconds for people; knows nothing else."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """Format bytes as in 93.8 MiB or 1.25 GiB."""
    for unit, digits in (("B", 0), ("KiB", 0), ("MiB", 1)):
        if abs(nbytes) < 1024:
            return f"{nbytes:.{digits}f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.2f} GiB"


def seconds(value: float) -> str:
    """Format seconds as in 812 ms or 3.42 s."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
