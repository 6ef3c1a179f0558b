"""A report as one self-contained HTML file: sections, tables, figures; knows nothing of what is reported.

It follows the reader's light or dark theme, fits a phone and prints. All text that it is given is escaped here.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ...engine.store import ours
from ...models.errors import PyllmError
from .plot import DARK, LIGHT, Svg, variables

_BEGINS = '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
_STYLE = f"""
:root {{ color-scheme: light dark; {variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}
@media print {{ :root {{ color-scheme: light; {variables(LIGHT)} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 62rem; padding: 1.2rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.5rem; line-height: 1.25; margin: 0.4rem 0; }}
h2 {{ font-size: 1.15rem; margin: 2.4rem 0 0.4rem; border-bottom: 1px solid var(--faint); }}
p, ul {{ max-width: 44rem; margin: 0.5rem 0; }}
.warning {{ border-left: 0.25rem solid var(--series-1); padding-left: 0.7rem; }}
.wide {{ overflow-x: auto; margin: 0.9rem 0; }}
table {{ border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding-bottom: 0.25rem; }}
th, td {{ padding: 0.15rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--faint); }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
thead th {{ border-bottom: 2px solid var(--ink); vertical-align: bottom; }}
figure {{ margin: 1.2rem 0; max-width: 46rem; break-inside: avoid; overflow-x: auto; }}
figure svg {{ display: block; width: 100%; min-width: 28rem; height: auto; }}
figcaption {{ font-size: 0.85rem; }}
tr {{ break-inside: avoid; }}
h2 {{ break-after: avoid; }}
@media print {{ body {{ max-width: none; padding: 0; font-size: 10pt; }} .wide {{ overflow: visible; }}
  table {{ font-size: 6.5pt; }} th, td {{ padding: 0.1rem 0.25rem; }} }}
"""


class Page:
    """A page in the making: parts appear in the order in which they are added."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if subtitle:
            self.text(subtitle)

    def section(self, heading: str, *paragraphs: str) -> None:
        self._parts.append(f"<h2>{escape(heading)}</h2>")
        self.text(*paragraphs)

    def text(self, *paragraphs: str) -> None:
        self._parts += [f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs]

    def warning(self, text: str) -> None:
        """Add what a reader must know before trusting the figures."""
        self._parts.append(f'<p class="warning">{escape(text)}</p>')

    def table(self, caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table: the first column is aligned left, the others, figures, right. A wide one scrolls."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
        table = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        self._parts.append(f'<div class="wide"><table>{table}</table></div>')

    def figure(self, svg: Svg, caption: str = "") -> None:
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(f"<figure>{svg}{below}</figure>")

    def html(self) -> str:
        policy = "default-src 'none'; style-src 'unsafe-inline'"  # there is nothing to load, so nothing may be
        head = (
            f'{_BEGINS}<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        )
        return f"{head}<body>\n" + "\n".join(self._parts) + "\n</body>\n</html>\n"

    def write(self, path: Path) -> None:
        """Write the page to a file, which may replace a page of ours. Raises PyllmError."""
        try:
            ours.write(path, self.html().encode(), f'{_BEGINS}<meta http-equiv="Content-Security-Policy"'.encode())
        except OSError as error:
            raise PyllmError(f"{path}: cannot be written: {error.strerror or error}") from None


def show(path: Path) -> str:
    """Open a page in the browser; return "", or a line that says why that was not possible."""
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    if (shown or sys.platform in ("win32", "darwin")) and webbrowser.open(path.absolute().as_uri()):
        return ""
    return f"no display to open it on: the report is {path}"
