"""Tables for people at any width, and as Markdown."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pyllm.engine.machine.tables import Table, show

SHORT = Table("A caption", ["type", "n"], [["f16", "1"], ["q8_0", "1,000"]])


def test_for_people() -> None:
    assert SHORT.lines() == ["type      n", "───────────", "f16       1", "q8_0  1,000"]
    show(SHORT, out := io.StringIO())
    assert out.getvalue() == "A caption\ntype      n\n───────────\nf16       1\nq8_0  1,000\n"
    assert Table("", ["", ""], [["a", "b"]], left=(0, 1)).lines() == ["a  b"], "no titles, no heading"


def test_markdown() -> None:
    show(SHORT, out := io.StringIO(), "md")
    assert out.getvalue() == "A caption\n\n| type |     n |\n| ---- | ----: |\n| f16  |     1 |\n| q8_0 | 1,000 |\n"


def test_markdown_of_a_bar() -> None:
    assert Table("", ["", ""], [["eos", "<|im_end|>"]]).markdown().splitlines()[2] == r"| eos | <\|im_end\|> |"


def test_a_wide_table_goes_on_below() -> None:
    table = Table(
        "", ["K \\ V", *(f"column{i}" for i in range(6))], [[f"row{r}", *(f"{r}{i}" for i in range(6))] for r in (1, 2)]
    )
    lines = table.lines(30)
    assert lines[0] == "K \\ V  column0  column1" and lines[2] == "row1        10       11"
    assert lines[5:7] == ["K \\ V  column2  column3", "───────────────────────"] and lines[4] == lines[9] == ""


def test_a_wide_column_of_text_gives_way() -> None:
    table = Table("", ["name", "bytes"], [["a tensor with a very long name", "1,000"]])
    assert table.lines(27) == ["name                  bytes", "─" * 27, "a tensor with a very  1,000", "long name"]


WORDS = st.text("ab -中", max_size=12)


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_columns_are_aligned_and_nothing_is_lost(cells: list[list[str]]) -> None:
    titles, *rows = cells
    table = Table("", titles, rows)
    assert len({cell_len(line) for line in table.markdown().splitlines()}) == 1
    for width in (None, 80, 40, 20):
        lines = table.lines(width)
        text = "".join(lines).replace(" ", "")
        assert all(
            cell.replace(" ", "") in text for row in rows for cell in row if " " not in cell and "中" not in cell
        )


@pytest.mark.parametrize("width", [40, 60, 80])
def test_lines_fit_the_window(width: int) -> None:
    titles = ["model", "size", "params", "backend", "threads", "test", "t/s", "min – max", "weights/token", "GB/s"]
    rows = [
        ["llama 3B Q4_0", "1.70 GiB", "3.21 B", "CPU", "2", t, "12.34", "12.00 – 13.00", "1.6 GiB", "20.1"]
        for t in "ab"
    ]
    for keys in ((0,), (5,), (0, 5)):
        lines = Table("", titles, rows, left=(0, 3), keys=keys).lines(width)
        assert max(map(cell_len, lines)) <= width
        heads = [line for line in lines if titles[keys[0]] in line]
        assert len(heads) > 1 and all(title in "".join(heads) for title in titles)
