"""A small chart for the terminal: bars of block characters; knows nothing of what is charted."""

from __future__ import annotations

from collections.abc import Mapping

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bars(values: Mapping[str, float], unit: str, *, width: int = 40, form: str = ".1f") -> list[str]:
    """Return a line for each value, the longest bar `width` wide: "name  ███▌ 3.5 unit"."""
    names = max((len(name) for name in values), default=0)
    most = max([*values.values(), 0.0]) or 1.0
    return [f"{name:<{names}}  {bar(value / most, width)} {value:{form}} {unit}" for name, value in values.items()]


def bar(share: float, width: int) -> str:
    """Return a bar that fills this share of the width, to an eighth of a character."""
    eighths = round(8 * width * min(1.0, max(0.0, share)))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
