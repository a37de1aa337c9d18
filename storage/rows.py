"""Between a replica's state and a row of SQLite: pure functions, both ways.

Text is stored as bytes: SQLite would refuse a whole result for one byte that a flipped bit made invalid UTF-8.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from storage.engine import Damaged
from storage.integrity import header_checksum, value_checksum
from storage.record import Record, ReplicaState

Row = tuple[Any, ...]
"""A row as SQLite gives it: of any types, until its checksum has been verified."""

SIZE = 10
"""Where a row that was read has the size of its value, None for a tombstone; the value, if asked for, follows."""

_ANY_TEXT = "surrogatepass"  # every Python string is storable: a header's stray bytes must not stop the writer

_pack_fences = msgspec.msgpack.Encoder().encode
_unpack_fences = msgspec.msgpack.Decoder(dict[str, int]).decode


def record_row(key: bytes, state: ReplicaState) -> Row:
    """The row of `records` for this state, in the order of its columns."""
    record = state.record
    if record is None:
        return (key, state.promised, 0, 0, 0, b"", 0, None, 0, _promise_checksum(key, state.promised), None)
    assert record.ballot > 0, "ballot 0 stands for no record"
    content_type = record.content_type.encode("utf-8", _ANY_TEXT)
    fences = None if record.fences is None else _pack_fences(record.fences)
    value = record.value
    of_value = value_checksum(value)
    checksum = header_checksum(
        key,
        state.promised,
        record.ballot,
        record.origin,
        record.weak,
        content_type,
        record.expires_at_ms,
        fences,
        of_value,
        None if value is None else len(value),
    )
    return (
        key,
        state.promised,
        record.ballot,
        record.origin,
        record.weak,
        content_type,
        record.expires_at_ms,
        fences,
        of_value,
        checksum,
        value,
    )


def kept_row(key: bytes, record: Record) -> Row:
    """The row of `kept_aside` for this record: a record's row without a promise."""
    row = record_row(key, ReplicaState(0, record))
    return (row[0], *row[2:])


def _promise_checksum(key: bytes, promised: int) -> int:
    return header_checksum(key, promised, 0, 0, 0, b"", 0, None, 0, None)


def state_of(row: Row) -> ReplicaState | Damaged:
    """The state that a row holds: with its value if the row carries one, Damaged if a checksum does not match."""
    damage = damage_of(row)
    if damage is not None:
        return Damaged(f"the record of key {shown(row[0])} {damage}")
    _, promised, ballot, origin, weak, content_type, expires_at_ms, fences, _, _, _, *value = row
    if ballot == 0:
        return ReplicaState(promised)
    record = Record(
        ballot,
        origin,
        bool(weak),
        value[0] if value else None,
        content_type.decode("utf-8", _ANY_TEXT),
        expires_at_ms,
        None if fences is None else _unpack_fences(fences),
    )
    return ReplicaState(promised, record)


def damage_of(row: Row) -> str | None:
    """What is wrong with a row, as the end of a sentence; None for a sound one."""
    covered: list[Any] = [*row[:9], row[SIZE]]
    checksum_of_value, checksum, size = row[8], row[9], row[SIZE]
    try:
        if header_checksum(*covered) != checksum:
            return "does not match its checksum: its ballots, type, expiry or fences have changed on disk"
        if len(row) > SIZE + 1:
            value = row[SIZE + 1]
            if value_checksum(value) != checksum_of_value or (None if value is None else len(value)) != size:
                return "does not match its value's checksum: the value has changed on disk"
    except (struct.error, TypeError):
        return "has a column of another type than was written: it has changed on disk"
    return None


def shown(key: object) -> str:
    """A key for an error's text, cut short where it is long."""
    return repr(key[:64]) + "..." if isinstance(key, bytes) and len(key) > 64 else repr(key)
