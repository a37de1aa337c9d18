"""What a person or a pipe sees: data on stdout, everything else on stderr.

A table at a terminal, JSON when stdout goes anywhere else, unless -o says which.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WIDE_ENOUGH = 10_000
"""Columns of a table that goes to a file or pipe, where there is no edge to wrap at."""

Row = Mapping[str, Any]


def note(text: str) -> None:
    """One line for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


def wants_json(output: str | None) -> bool:
    """Whether to show JSON: as chosen with -o, else whenever stdout is no terminal."""
    return output == "json" or (output is None and not sys.stdout.isatty())


def visible(text: str) -> str:
    """The text on one line, with control characters spelled out: a stranger's key must not steer the terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def show_fields(fields: Row, output: str | None) -> None:
    """One thing and what is known of it."""
    if wants_json(output):
        print(_json(fields))
    else:
        rows = [{"field": name, "value": value} for name, value in fields.items() if value is not None]
        _print_table(rows, ["field", "value"], header=False)


def show_rows(name: str, rows: Sequence[Row], columns: Sequence[str], output: str | None, **around: Any) -> None:
    """A list of things: a table of `columns`, or a JSON object with all of it under `name` beside `around`."""
    if wants_json(output):
        print(_json({**around, name: rows}))
    else:
        _print_table(rows, columns)


class RowStream:
    """The same for more rows than memory should hold: page by page, as one JSON document or as tables."""

    def __init__(self, name: str, columns: Sequence[str], output: str | None) -> None:
        self._name = name
        self._columns = columns
        self._json = wants_json(output)
        self._shown = 0

    def __enter__(self) -> RowStream:
        if self._json:
            sys.stdout.write(f"{{{json.dumps(self._name)}: [")
        return self

    def add(self, rows: Sequence[Row]) -> None:
        """Shows these rows now."""
        if not self._json:
            _print_table(rows, self._columns)
            return
        for row in rows:
            sys.stdout.write((",\n" if self._shown else "\n") + _json(row))
            self._shown += 1
        sys.stdout.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Cut short by an error, the document stays open: nobody shall take half a listing for all of it.
        if self._json and kind is None:
            sys.stdout.write("\n]}\n")


def write_bytes(value: bytes) -> None:
    """A value's bytes as they are, on stdout."""
    sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _print_table(rows: Sequence[Row], columns: Sequence[str], header: bool = True) -> None:
    from rich.console import Console  # noqa: PLC0415 - only who sees a table pays for it
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, show_header=header, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*_cells(row, columns))
    width = None if sys.stdout.isatty() else WIDE_ENOUGH
    Console(width=width, markup=False, highlight=False, soft_wrap=False).print(table)


def _cells(row: Row, columns: Sequence[str]) -> Iterator[str]:
    for column in columns:
        value = row.get(column)
        if value is None:
            yield "-"
        else:
            yield visible(value) if isinstance(value, str) else _json(value)
