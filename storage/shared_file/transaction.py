"""What can be read and written within one transaction. Rows are verified as they are read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from storage.ballot import BALLOT_MAX, COUNTER_BITS, EPOCH_MS, SLOT_BITS
from storage.record import Record
from storage.shared_file import schema
from storage.shared_file.errors import EntryDamaged
from storage.shared_file.rows import Cell, Listed, cell_of, entry_row, file_checksum, listed_of, record_of, register_row

_MS_SHIFT = COUNTER_BITS + SLOT_BITS
"""A version is a ballot without a slot: milliseconds, and a counter below them."""


class Reading:
    """The file as it is at one moment."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def entry(self, key: bytes) -> Record | None:
        """The entry with its value; None where there is no row. Raises EntryDamaged."""
        row = self._connection.execute(schema.SELECT_ENTRY, (key,)).fetchone()
        return None if row is None else record_of(row)

    def header(self, key: bytes) -> Record | None:
        """The entry; b"" stands for a value, which is neither read nor verified. Raises EntryDamaged."""
        row = self._connection.execute(schema.SELECT_HEADER, (key,)).fetchone()
        return None if row is None else record_of(row)

    def scan(
        self, first: bytes, bound: bytes | None, limit: int, values: bool, value_bytes_max: int
    ) -> tuple[list[Listed], bool]:
        """Entries that have a value, from `first` up to `bound`, in byte order, and whether these are all.

        At most `limit`, and no more than one past `value_bytes_max` bytes of values. Raises EntryDamaged: a listing
        never shows, nor skips, a bad row.
        """
        found: list[Listed] = []
        size = 0
        for row in self._rows(first, bound, limit + 1, values):
            if len(found) == limit or (values and size >= value_bytes_max):
                return found, False
            found.append(listed_of(row))
            size += found[-1].size
        return found, True

    def _rows(self, first: bytes, bound: bytes | None, limit: int, values: bool) -> Iterator[tuple[object, ...]]:
        sql = schema.scan_entries(values, bound is not None)
        parameters = (first, limit) if bound is None else (first, bound, limit)
        cursor = self._connection.execute(sql, parameters)
        try:
            yield from cursor
        finally:
            cursor.close()  # a statement half way would keep the transaction from ending

    def expired(self, now_ms: int, limit: int) -> list[bytes]:
        """Keys of entries whose time is over, the longest expired first."""
        return [key for (key,) in self._connection.execute(schema.EXPIRED, (now_ms, limit)).fetchall()]

    def register(self, key: bytes) -> Cell:
        """What the register holds; an empty cell where there is none. Raises EntryDamaged."""
        row = self._connection.execute(schema.SELECT_REGISTER, (key,)).fetchone()
        return Cell() if row is None else cell_of(row)

    def registers(self, first: bytes, bound: bytes, limit: int) -> list[tuple[bytes, Cell]]:
        """Registers from `first` up to `bound`, by key in byte order. Raises EntryDamaged."""
        rows = self._connection.execute(schema.SCAN_REGISTERS, (first, bound, limit)).fetchall()
        return [(row[0], cell_of(row)) for row in rows]


class Writing(Reading):
    """The file while nobody else can change it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.is_dirty = False
        """Whether anything was changed."""
        self._last_version: int | None = None

    def next_version(self, now_ms: int) -> int:
        """A version above every other that this file has ever given, at any time and in any process."""
        last = self._read_last_version() if self._last_version is None else self._last_version
        physical = (now_ms - EPOCH_MS) << _MS_SHIFT
        if physical > BALLOT_MAX:  # the clock is out of all bounds, and must not use up the numbers
            physical = 0
        self._last_version = max(physical, last + 1)
        return self._last_version

    def put(self, key: bytes, record: Record) -> None:
        """Writes the entry; drops its row where nothing is to be remembered of it."""
        self.is_dirty = True
        if record.value is None and not record.fences:
            self._connection.execute(schema.DROP_ENTRY, (key,))
        else:
            self._connection.execute(schema.PUT_ENTRY, entry_row(key, record))

    def put_register(self, key: bytes, cell: Cell) -> None:
        """Writes the register."""
        self.is_dirty = True
        self._connection.execute(schema.PUT_REGISTER, register_row(key, cell))

    def finish(self) -> None:
        """Called before the commit."""
        if self._last_version is not None:
            self._connection.execute(schema.UPDATE_FILE, (self._last_version, file_checksum(self._last_version)))

    def _read_last_version(self) -> int:
        row = self._connection.execute(schema.SELECT_FILE).fetchone()
        if row is None or not isinstance(row[0], int) or file_checksum(row[0]) != row[1]:
            raise EntryDamaged(
                "the highest version that was given has changed on disk: its checksum does not match. No version can "
                "be given that surely is new; restore the file, or copy what can be read of it into a new one"
            )
        last: int = row[0]
        return last
