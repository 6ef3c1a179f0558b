"""Records as text: a table for people; Markdown, CSV, JSON, JSON lines and SQL in llama-bench's way."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...engine.machine.tables import Table
from ...engine.machine.units import size
from .cases import label
from .record import FIELDS, Record

TABLE = "llama_bench"  # the name of llama-bench's SQL table, so that it can hold results of both


def as_csv(records: Sequence[Record], fields: Mapping[str, type] = FIELDS) -> str:
    """Return a line of names, then a line for each record, with values quoted as in llama-bench."""
    out = io.StringIO()
    out.write(",".join(fields) + "\n")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([_plain(record[name]) for name in fields] for record in records)
    return out.getvalue()


def as_json(records: Sequence[Record]) -> str:
    return json.dumps(records, indent=2) + "\n"


def as_jsonl(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def as_sql(records: Sequence[Record], fields: Mapping[str, type] = FIELDS, table: str = TABLE) -> str:
    """Return SQLite statements that create the table and insert the records.

    A table made by llama-bench lacks pyllm's own columns: add them there first.
    """
    kinds = {str: "TEXT", int: "INTEGER", bool: "INTEGER", float: "REAL"}
    columns = ",\n".join(f"  {name} {kinds[kind]}" for name, kind in fields.items())
    lines = [f"CREATE TABLE IF NOT EXISTS {table} (\n{columns}\n);\n"]
    for record in records:
        values = ", ".join(_literal(record[name]) for name in fields)
        lines.append(f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({values});")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return "'" + str(_plain(value)).replace("'", "''") + "'"


def as_table(records: Sequence[Record], every: Sequence[Column] | None = None) -> Table:
    """Return llama-bench's table with a few more columns, without those of settings that all have their default.

    every: other columns to choose from.
    """
    columns = [column for column in every or COLUMNS if column.shown(records)]
    rows = [[column.text(record) for column in columns] for record in records]
    differ = [i for i, c in enumerate(columns) if c.names and len({row[i] for row in rows}) > 1]
    key = [i for i, c in enumerate(columns) if c.key]
    left = [i for i, c in enumerate(columns) if c.left]
    return Table("", [c.title for c in columns], rows, left, sorted({*differ, *key}))


def as_markdown(records: Sequence[Record]) -> str:
    return as_table(records).markdown()


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    title: str
    text: Callable[[Record], str]
    left: bool = False
    names: bool = False  # it belongs to what a record is called, and is repeated where a table goes on below
    key: bool = False  # and that even if it is the same in all records
    usual: tuple[str, object] | None = None  # a field and its default; the column is left out if all records have it

    def shown(self, records: Sequence[Record]) -> bool:
        return self.usual is None or any(record[self.usual[0]] != self.usual[1] for record in records)


def _spread(prefix: str) -> Callable[[Record], str]:
    def text(record: Record) -> str:
        low, high = record[f"{prefix}min_ts"], record[f"{prefix}max_ts"]
        return "" if low is None else f"{low:.2f} – {high:.2f}"

    return text


def number(name: str, form: str) -> Callable[[Record], str]:
    """Return the text of a column: a field in the form that is given, or nothing where it is None."""
    return lambda record: "" if record[name] is None else form.format(record[name])


def in_bytes(name: str) -> Callable[[Record], str]:
    return lambda record: "" if record[name] is None else size(record[name])


NO_PEER = ("peer", None)
"""The value of `peer` for which its columns are left out."""
SETUP = (
    Column("threads", number("n_threads", "{}"), names=True),
    Column("n_batch", number("n_batch", "{}"), names=True, usual=("n_batch", 2048)),
    Column("n_ubatch", number("n_ubatch", "{}"), names=True, usual=("n_ubatch", 512)),
    Column("type_k", number("type_k", "{}"), names=True, usual=("type_k", "f16")),
    Column("type_v", number("type_v", "{}"), names=True, usual=("type_v", "f16")),
    Column("rotate", number("cache_rotate", "{}"), names=True, usual=("cache_rotate", "auto")),
    Column("policy", number("cache_policy", "{}"), left=True, names=True, usual=("cache_policy", "")),
)
"""What each case runs with; columns that all results of `bench` have."""
HELD = Column("KV held", in_bytes("bytes_held"), usual=("cache_policy", ""))
"""What the KV cache of a sequence takes at the end, where a policy makes that another figure than bytes per token."""
COLUMNS = (
    Column("model", number("model_type", "{}"), left=True, names=True),
    Column("size", in_bytes("model_size")),
    Column("params", lambda record: f"{record['model_n_params'] / 1e6:.2f} M"),
    Column("backend", number("backends", "{}"), left=True, names=True),
    *SETUP,
    Column("test", lambda record: label(record["n_prompt"], record["n_gen"], record["n_depth"]), names=True, key=True),
    Column("t/s", number("median_ts", "{:.2f}")),
    Column("min – max", _spread("")),
    Column("peer t/s", number("peer_median_ts", "{:.2f}"), usual=NO_PEER),
    Column("min – max", _spread("peer_"), usual=NO_PEER),
    Column("ratio", number("ratio", "{:.2f}"), usual=NO_PEER),
    Column("weights/token", in_bytes("bytes_weights")),
    Column("K/token", in_bytes("bytes_k")),
    Column("V/token", in_bytes("bytes_v")),
    HELD,
    Column("GB/s", number("gbps", "{:.1f}")),
    Column("bus", number("mbu", "{:.0%}")),
)

FORMATS: dict[str, Callable[[Sequence[Record]], str]] = {
    "md": as_markdown, "csv": as_csv, "json": as_json, "jsonl": as_jsonl, "sql": as_sql,
}  # fmt: skip
