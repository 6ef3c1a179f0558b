"""Amounts as people read them; knows nothing else."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """93.8 MiB, 1.25 GiB: bytes in the largest unit that leaves a whole number before the point."""
    for unit, digits in (("B", 0), ("KiB", 0), ("MiB", 1)):
        if abs(nbytes) < 1024:
            return f"{nbytes:.{digits}f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.2f} GiB"


def seconds(value: float) -> str:
    """812 ms, 3.42 s."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
