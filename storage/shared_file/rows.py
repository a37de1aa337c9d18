"""Between records and registers and their rows: pure functions, both ways. Records have the checksums of a node's."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple
from zlib import crc32

from storage.engine import Damaged
from storage.record import Record, ReplicaState
from storage.shared_file.errors import EntryDamaged
from storage.sqlite.rows import SIZE, Row, record_row, shown, state_of

_LENGTHS = Struct("<3q")
_NUMBER = Struct("<q")
_ABSENT = -1


class Cell(NamedTuple):
    """What a register's row holds."""

    value: bytes | None = None
    beside: bytes | None = None


class Listed(NamedTuple):
    """An entry of a scan: its record, without the value unless values were asked for."""

    key: bytes
    record: Record
    size: int


def entry_row(key: bytes, record: Record) -> Row:
    """The row of `entries` for this record, in the order of PUT_ENTRY."""
    _, _, ballot, _, _, content_type, expires_at_ms, fences, of_value, checksum, value = record_row(
        key, ReplicaState(0, record)
    )
    return key, ballot, content_type, expires_at_ms, fences, of_value, checksum, value


def record_of(row: Row) -> Record:
    """The record that a row holds; without its value, b"" stands for one that is there. Raises EntryDamaged."""
    state = state_of(row)
    if isinstance(state, Damaged) or state.record is None:
        reason = state.reason if isinstance(state, Damaged) else f"the entry of key {shown(row[0])} has no version"
        raise EntryDamaged(reason)
    record = state.record
    if len(row) > SIZE + 1 or row[SIZE] is None:
        return record
    return Record(record.ballot, record.origin, False, b"", record.content_type, record.expires_at_ms, record.fences)


def listed_of(row: Row) -> Listed:
    """An entry of a scan. Raises EntryDamaged."""
    return Listed(row[0], record_of(row), row[SIZE])


def register_row(key: bytes, cell: Cell) -> Row:
    """The row of `registers`, in the order of PUT_REGISTER."""
    return key, _register_checksum(key, cell), cell.beside, cell.value


def cell_of(row: Row) -> Cell:
    """What a row of `registers` holds. Raises EntryDamaged."""
    key, checksum, beside, value = row
    cell = Cell(value, beside)
    try:
        is_sound = _register_checksum(key, cell) == checksum
    except TypeError:
        is_sound = False
    if not is_sound:
        raise EntryDamaged(f"the register {shown(key)} does not match its checksum: it has changed on disk")
    return cell


def _register_checksum(key: bytes, cell: Cell) -> int:
    parts = (key, cell.beside, cell.value)
    lengths = _LENGTHS.pack(*(_ABSENT if part is None else len(part) for part in parts))
    return crc32(b"".join((lengths, *(part for part in parts if part is not None))))


def file_checksum(last_version: int) -> int:
    """The checksum of what the file says about itself."""
    return crc32(_NUMBER.pack(last_version))
