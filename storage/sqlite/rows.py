"""Between a replica's state and a row of SQLite: pure functions, both ways.

Text is stored as bytes: SQLite would refuse a whole result for one byte that a flipped bit made invalid UTF-8.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from storage import engine
from storage.ballot import NONE
from storage.engine import Damaged
from storage.fences import digest_of_packed
from storage.fences import pack as pack_fences
from storage.fences import unpack as unpack_fences
from storage.record import Hint, Record, ReplicaState
from storage.sqlite.integrity import header_checksum, hint_checksum, value_checksum

Row = tuple[Any, ...]
"""A row as SQLite gives it: of any types, until its checksum has been verified."""

_CHECKSUM, _CHECKSUM_IN_KEPT = 9, 8
SIZE = 10
"""Where a row that was read has the size of its value, None for a tombstone; the value, if asked for, follows."""

_ANY_TEXT = "surrogatepass"  # every Python string is storable: a header's stray bytes must not stop the writer

_pack_targets = msgspec.msgpack.Encoder().encode
_unpack_targets = msgspec.msgpack.Decoder(tuple[int, ...]).decode
_HINT_ITSELF = 4
"""Columns of a hint in front of those of its record."""


def text_of(content: bytes) -> str:
    """How SQLite's text becomes Python's, on every connection: where a bit made a blob a text, whatever is in it must
    not fail the whole query with an error that looks like none of the disk's."""
    return content.decode("utf-8", "replace")


def record_row(key: bytes, state: ReplicaState) -> Row:
    """The row of `records` for this state, in the order of its columns."""
    record = state.record
    if record is None:
        return (key, state.promised, 0, 0, 0, b"", 0, None, 0, _promise_checksum(key, state.promised), None)
    assert record.ballot > 0, "ballot 0 stands for no record"
    content_type = record.content_type.encode("utf-8", _ANY_TEXT)
    fences = pack_fences(record.fences) if record.fences else None
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


def hint_row(number: int, hint: Hint) -> Row:
    """The row of `hints` for this hint."""
    record = kept_row(hint.key, hint.record)
    targets = _pack_targets(hint.targets)
    return (number, targets, hint.sole, hint_checksum(number, targets, hint.sole, record[_CHECKSUM_IN_KEPT]), *record)


def hint_of(row: Row) -> Hint | Damaged:
    """The hint that a row holds; Damaged if a checksum does not match."""
    number, targets, sole, checksum = row[:_HINT_ITSELF]
    record_part = row[_HINT_ITSELF:]
    state = state_of(record_part)
    if isinstance(state, Damaged):
        return state
    try:
        is_sound = hint_checksum(number, targets, sole, record_part[_CHECKSUM]) == checksum
    except (struct.error, TypeError):
        is_sound = False
    if not is_sound or state.record is None:
        return Damaged(f"a hint for key {shown(record_part[0])} does not match its checksum: it has changed on disk")
    return Hint(record_part[0], state.record, _unpack_targets(targets), bool(sole))


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
        None if fences is None else unpack_fences(fences),
    )
    return ReplicaState(promised, record)


def listed_row(row: Row) -> engine.Row:
    """A row of a listing by place. No checksum is verified: a number that is none any more stands as 0."""
    key, promised, ballot, origin, is_null, expires_at_ms, fences = row
    numbers = [number if isinstance(number, int) else 0 for number in (promised, ballot, origin, expires_at_ms)]
    of_fences = digest_of_packed(fences) if isinstance(fences, bytes) else 0
    is_tombstone = bool(is_null) and numbers[1] != NONE
    return engine.Row(key, numbers[0], numbers[1], numbers[2], is_tombstone, numbers[3], of_fences)


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
