"""One look for all plots: matplotlib where it is installed, light and dark; knows nothing of what is plotted.

A Plot is painted when it is asked for: as a file, or as an SVG whose colours follow the page that it stands in. People
with any colour vision can distinguish the colours, and where curves cross, markers help too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType

from ...engine.store import ours
from ...models.errors import PyllmError

Svg = NewType("Svg", str)
"""An <svg> element that may stand in a page as it is."""


@dataclass(frozen=True)
class Look:
    """Colours, as #rrggbb: no two alike, since an inline SVG replaces them by their values."""

    paper: str
    ink: str
    faint: str  # grids, and what is less important
    series: tuple[str, ...]

    def colours(self) -> dict[str, str]:
        """Return the colours by their names in the page's style sheet."""
        named = {"paper": self.paper, "ink": self.ink, "faint": self.faint}
        return named | {f"series-{i}": colour for i, colour in enumerate(self.series)}


# Okabe and Ito's colours, the light ones darkened for white paper and all lightened for black.
LIGHT = Look("#ffffff", "#1f2328", "#c9ced6",
             ("#0072b2", "#d55e00", "#009e73", "#b4559a", "#c98a00", "#3fa3dc", "#6b7280", "#5b4bb7"))  # fmt: skip
DARK = Look("#12151a", "#e6e8eb", "#474e58",
            ("#4ea8e6", "#ff8b4d", "#2fc99a", "#e39ac8", "#f2b73d", "#9bd8ff", "#9aa3af", "#a79bff"))  # fmt: skip
LOOKS = {"light": LIGHT, "dark": DARK}

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

Axes = Any
"""matplotlib's Axes, which are not imported here."""


@dataclass(frozen=True)
class Plot:
    """A picture: `paint(axes, look)` draws on matplotlib's axes, in the look's colours. What has a label is in the
    legend."""

    name: str  # of its file, without suffix
    title: str
    x: str
    y: str
    paint: Callable[[Axes, Look], None]
    height: float = 3.9  # inches; all plots are equally wide

    def save(self, path: Path, look: Look = LIGHT) -> None:
        """Write it in the format that its suffix names: .svg, .png or .pdf. Raises PyllmError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            ours.check(path)
            path.write_bytes(self._rendered(path.suffix.removeprefix("."), look))
        except OSError as error:
            raise PyllmError(f"{path}: cannot be written: {error.strerror or error}") from None

    def svg(self) -> Svg:
        """Return the plot for a page: as wide as there is room, in the page's colours (`variables`)."""
        text = self._rendered("svg", LIGHT).decode()
        text = text[text.index("<svg") :]
        for name, colour in LIGHT.colours().items():
            text = text.replace(colour, f"var(--{name}, {colour})")
        used = set(re.findall(r"#([\w-]+)", text))
        text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)  # ids are unique in a page
        text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
        return Svg(re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', text, count=1, flags=re.S))

    def _rendered(self, form: str, look: Look) -> bytes:
        _require()
        import matplotlib
        from matplotlib.figure import Figure

        out = io.BytesIO()
        with matplotlib.rc_context(_style(look)):
            figure = Figure(figsize=(5.8, self.height), layout="constrained")
            axes = figure.add_subplot()
            axes.set(title=self.title, xlabel=self.x, ylabel=self.y)
            axes.set_axisbelow(True)
            self.paint(axes, look)
            if labels := axes.get_legend_handles_labels()[1]:  # below, where it covers nothing
                columns = max(1, min(len(labels), 66 // (max(map(len, labels)) + 8)))
                figure.legend(loc="outside lower left", ncols=columns)
            figure.savefig(out, format=form, dpi=160, metadata={"Date": None} if form == "svg" else None)
        return out.getvalue()


def variables(look: Look) -> str:
    """Return the look's colours as variables of a style sheet."""
    return " ".join(f"--{name}: {colour};" for name, colour in look.colours().items())


def available() -> bool:
    """Say whether matplotlib is installed."""
    try:
        _require()
    except PyllmError:
        return False
    return True


def _require() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PyllmError("plots need matplotlib: pip install 'pyllm[plot]'") from None


def _style(look: Look) -> dict[str, Any]:
    return {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "sans-serif"],
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": look.faint,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "pyllm",  # and the same plot the same bytes
        "figure.facecolor": look.paper,
        "axes.facecolor": look.paper,
        "savefig.facecolor": look.paper,
        **{key: look.ink for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor")},
        **{key: look.ink for key in ("xtick.color", "ytick.color", "legend.labelcolor")},
    }
