"""What goes to stdout, as a table and as JSON."""

from __future__ import annotations

import json

import pytest

from cli.output import RowStream, show_fields, show_rows, visible

ROWS = [{"key": "a", "size": 1, "value": "\x1b[31mred\nline"}, {"key": "ü", "size": 0}]


def test_json_when_piped_keeps_every_sign(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows("keys", ROWS, ("key",), None, epoch=1)
    assert json.loads(capsys.readouterr().out) == {"epoch": 1, "keys": ROWS}
    show_fields(ROWS[1], None)
    assert capsys.readouterr().out == '{"key": "ü", "size": 0}\n'


def test_a_table_has_a_line_per_row_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows("keys", ROWS, ("key", "size", "value"), "table")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["key", "size", "value"], ["a", "1", "\\x1b[31mred\\nline"], ["ü", "0", "-"]]


def test_a_stream_is_one_document_over_all_pages(capsys: pytest.CaptureFixture[str]) -> None:
    with RowStream("keys", ("key",), "json") as rows:
        rows.add(ROWS)
        rows.add([])
        rows.add(ROWS[:1])
    assert json.loads(capsys.readouterr().out) == {"keys": [*ROWS, ROWS[0]]}


def test_half_a_stream_is_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    def fails_half_way() -> None:
        with RowStream("keys", ("key",), "json") as rows:
            rows.add(ROWS)
            raise RuntimeError("the next page never came")

    with pytest.raises(RuntimeError):
        fails_half_way()
    with pytest.raises(json.JSONDecodeError):
        json.loads(capsys.readouterr().out)


def test_visible() -> None:
    assert visible("a ü🦆") == "a ü🦆"
    assert visible("\x1b]0;title\x07\r\u202e") == r"\x1b]0;title\x07\r\u202e"
