"""Rows and their checksums: no two different states share a checksum by shifting bytes about, no bit flips unseen."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.engine import Damaged
from storage.record import Record, ReplicaState
from storage.sqlite.integrity import fact_checksum, folder_checksum, header_checksum
from storage.sqlite.reader import end_of_prefix, successor
from storage.sqlite.rows import Row, record_row, shown, state_of


@dataclass
class Parts:
    key: bytes = b"key"
    content_type: bytes = b"text"
    fences: bytes | None = b"fences"
    value_size: int | None = 7


def checksum(parts: Parts) -> int:
    return header_checksum(parts.key, 9, 5, 4, 0, parts.content_type, 0, parts.fences, 123, parts.value_size)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Parts(key=b"keyt", content_type=b"ext"), Parts()),
        (Parts(content_type=b"textf", fences=b"ences"), Parts()),
        (Parts(fences=None), Parts(fences=b"")),
        (Parts(value_size=None), Parts(value_size=0)),
    ],
)
def test_parts_cant_trade_bytes_and_absent_is_not_empty(one: Parts, other: Parts) -> None:
    assert checksum(one) != checksum(other)


def test_facts_and_the_folder_are_covered_whole() -> None:
    assert fact_checksum("ab", b"c") != fact_checksum("a", b"bc")
    assert folder_checksum("a" * 32, 1) != folder_checksum("a" * 32, 2)


def as_read(row: Row) -> list[object]:
    """The row as a query gives it: the value's size before the value."""
    *header, value = row
    return [*header, None if value is None else len(value), value]


@given(bit=st.integers(0, 62), column=st.sampled_from([1, 2, 3, 4, 6, 8, 9]))
def test_any_flipped_bit_of_a_number_is_damage(bit: int, column: int) -> None:
    row = as_read(record_row(b"k", ReplicaState(9, Record(5, 4, True, b"value", "text/plain", 77, {"lock": 3}))))
    number = row[column]
    assert isinstance(number, int)
    row[column] = number ^ (1 << bit)
    assert isinstance(state_of(tuple(row)), Damaged)


@given(place=st.integers(0, 10_000), column=st.sampled_from([0, 5, 7, 11]))
def test_any_flipped_bit_of_bytes_is_damage(place: int, column: int) -> None:
    row = as_read(record_row(b"k", ReplicaState(9, Record(5, 4, True, b"value", "text/plain", 77, {"lock": 3}))))
    part = row[column]
    assert isinstance(part, bytes)
    changed = bytearray(part)
    changed[place % len(part)] ^= 1 << place % 8
    row[column] = bytes(changed)
    assert isinstance(state_of(tuple(row)), Damaged)


def test_a_header_is_verified_without_its_value() -> None:
    row = as_read(record_row(b"k", ReplicaState(9, Record(5, 4, True, b"value"))))
    assert state_of(tuple(row[:-1])) == ReplicaState(9, Record(5, 4, True, None))
    row[10] = 6
    assert isinstance(state_of(tuple(row[:-1])), Damaged)


@given(prefix=st.binary(max_size=4) | st.sampled_from([b"\xff", b"a\xff\xff"]), key=st.binary(max_size=6))
def test_the_end_of_a_prefix_parts_those_that_start_with_it_from_those_behind(prefix: bytes, key: bytes) -> None:
    end = end_of_prefix(prefix)
    assert key.startswith(prefix) == (key >= prefix and (end is None or key < end))


@given(key=st.binary(max_size=4), other=st.binary(max_size=6))
def test_nothing_lies_between_a_key_and_its_successor(key: bytes, other: bytes) -> None:
    assert not key < other < successor(key)


def test_long_keys_are_cut_short_in_texts() -> None:
    assert len(shown(b"k" * 1024)) < 80
    assert shown(b"k") == "b'k'"
