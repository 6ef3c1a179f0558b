"""Reports: the page, its plots and the terminal's bars."""

from __future__ import annotations

import io
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pyllm.bench.report import page, plot, report
from pyllm.bench.report.chart import bar, bars
from pyllm.models.errors import PyllmError

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Nesting(HTMLParser):
    """The elements that are open; each end tag must close the last of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def curve(label: str = "a <b> & c") -> plot.Plot:
    def paint(axes: plot.Axes, look: plot.Look) -> None:
        axes.plot([1, 2, 4], [3, 5, 6], color=look.series[0], marker=plot.MARKERS[0], label=label)

    return plot.Plot("curve", "A curve", "threads", "GB/s", paint)


def test_a_page_is_one_whole_file(tmp_path: Path) -> None:
    report = page.Page("Profile of <x>", "on & on")
    report.section("One", "text")
    report.table("t", ["name", "n"], [["<i>", 1], ["b", 2.5]])
    report.warning("busy")
    report.figure(curve().svg(), "a caption")
    report.figure(curve("other").svg())
    report.write(tmp_path / "new" / "report.html")
    text = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    parsed = Nesting(text)
    assert not parsed.open
    assert {"h1", "h2", "table", "svg", "figure"} <= set(parsed.seen) and "i" not in parsed.seen
    assert "&lt;x&gt;" in text and "&lt;i&gt;" in text and "on &amp; on" in text
    for needs in ("http-equiv", "prefers-color-scheme: dark", "@media print", "width=device-width"):
        assert needs in text
    assert "<script" not in text and "src=" not in text and "url(http" not in text, "it loads nothing"


def test_an_inline_plot_has_the_pages_colours() -> None:
    svg = curve().svg()
    assert svg.startswith("<svg viewBox=") and "width=" not in svg[: svg.index(">")]
    assert "var(--series-0, #0072b2)" in svg and "var(--ink, " in svg
    assert "a &lt;b&gt; &amp; c" in svg and ">GB/s<" in svg, "its text is text"
    for look in plot.LOOKS.values():
        assert len(set(look.colours().values())) == len(look.colours()), "colours are recognized by their values"
        assert all(f"--{name}: {colour};" in plot.variables(look) for name, colour in look.colours().items())


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"curve{suffix}"
    for look in plot.LOOKS.values():
        curve().save(path, look)
        assert path.stat().st_size > 1000


def test_the_same_plot_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        curve().save(tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not plot.available()
    with pytest.raises(PyllmError, match=r"pip install 'pyllm\[plot\]'"):
        curve().save(tmp_path / "x.png")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (page.Page("x").write, curve().save):
        with pytest.raises(PyllmError, match="cannot be written"):
            write(tmp_path / "file" / "x.png")


def test_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(page.webbrowser, "open", lambda uri: opened.append(uri) or True)
    monkeypatch.setattr(page.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert "no display" in page.show(Path("report.html")) and not opened
    monkeypatch.setenv("DISPLAY", ":0")
    assert page.show(Path("report.html")) == "" and opened[0].startswith("file:///")


def test_bars() -> None:
    assert bars({"a": 1, "bb": 2}, "ms", width=4) == ["a   ██ 1.0 ms", "bb  ████ 2.0 ms"]
    assert bars({"a": 0.0}, "ms") == ["a   0.0 ms"] and bars({}, "ms") == []
    assert bar(0.5, 1) == "▌" and bar(7, 2) == "██" and bar(-1, 2) == ""


def test_a_report_as_text() -> None:
    wide = report.Table("A table", ["K/V", "t/s"], [["f16/f16", "1.5"]], only="terminal")
    hidden = report.Table("Hidden", ["x"], [["y"]], only="page")
    part = report.Section("A part", ["A paragraph."], [wide, hidden], chart=["name  ██ 1.5 ms"])
    whole = report.Report("A title", "about it", ["a warning"], [part])
    whole.show(out := io.StringIO())
    assert "A table\nK/V      t/s\n────────────\nf16/f16  1.5\n" in out.getvalue() and "Hidden" not in out.getvalue()
    whole.show(out := io.StringIO(), "md")
    text = out.getvalue()
    assert text.startswith("# A title\n\nabout it\n\n## A part\n\nA paragraph.\n\n```\nname  ██ 1.5 ms\n```\n")
    assert "\n| K/V     | t/s |\n" in text and "\nnote: a warning\n" in text and "Hidden" not in text
