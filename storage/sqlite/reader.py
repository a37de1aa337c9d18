"""Reader: loads, scans and sweeps over read-only connections, so that a long scan does not hold up a load.

aiosqlite gives each connection a thread. Every query here is one call, whole in itself: nothing is held open
between two awaits, so a cancelled reader leaves no snapshot behind that would keep the log from being emptied.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiosqlite

from storage import engine
from storage.engine import Damaged, HintPage, PagesDamaged, RowPage, ScanEntry, ScanPage, StorageError
from storage.keyspace import hash_of
from storage.record import Hint, Record, ReplicaState
from storage.sqlite import schema
from storage.sqlite.rows import SIZE, Row, hint_of, listed_row, shown, state_of, text_of
from storage.sqlite.scrub import is_damage
from storage.sqlite.writer import is_malformed, refuse_unless_taken

KEYS_PER_LOAD = (1, 8, 64)
"""Sizes of a query's list of keys: a few, so that each stays prepared; a shorter list repeats its last key."""

ROWS_PER_STEP = 256
KEYS_PER_STEP = 4_096
VALUES_PER_STEP = 16
"""Rows that a scan fetches at a time: with values few, as each may be a megabyte."""

CACHE_SHARES = (1 / 2, 7 / 16, 1 / 16)
"""Of loads, scans and sweeps: a sweep comes by each page once, and has to forget what it read."""

_SELECTS = {size: schema.select_records(size) for size in KEYS_PER_LOAD}


class Reader:
    """Reads what is committed. Made by Reader.open, ended by close."""

    def __init__(self, loads: aiosqlite.Connection, scans: aiosqlite.Connection, sweeps: aiosqlite.Connection) -> None:
        self._loads, self._scans, self._sweeps = loads, scans, sweeps

    @classmethod
    async def open(cls, database: Path, cache_bytes: int) -> Reader:
        """Opens the connections, with so many bytes of cache in all. Raises FolderUnusable or sqlite3.Error."""
        opened: list[aiosqlite.Connection] = []
        try:
            for share in CACHE_SHARES:
                opened.append(await _connect(database, int(cache_bytes * share)))  # noqa: PERF401 - closed if one fails
            return cls(*opened)
        except BaseException:
            for connection in opened:
                await connection.close()
            raise

    async def load(self, keys: Sequence[bytes]) -> dict[bytes, ReplicaState | Damaged]:
        """See Engine.load."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, ReplicaState | Damaged] = {}
        for chunk in _chunks(wanted):
            found.update(await self._load_chunk(chunk))
        return found

    async def _load_chunk(self, keys: list[bytes]) -> dict[bytes, ReplicaState | Damaged]:
        size = next(size for size in KEYS_PER_LOAD if size >= len(keys))
        try:
            rows = list(await self._loads.execute_fetchall(_SELECTS[size], keys + keys[-1:] * (size - len(keys))))
        except sqlite3.DatabaseError as error:
            return await self._load_around_damage(keys, error)
        states = {row[0]: state_of(tuple(row)) for row in rows}
        if len(states) < len(rows) or not states.keys() <= set(keys):  # the index led to rows that bear other keys
            return await self._load_around_damage(keys, None)
        return {key: states.get(key, _NEVER_HEARD_OF) for key in keys}

    async def _load_around_damage(
        self, keys: list[bytes], error: sqlite3.DatabaseError | None
    ) -> dict[bytes, ReplicaState | Damaged]:
        """One key at a time, so that a bad page or row costs only the keys on it."""
        if error is not None and not is_damage(error):
            raise StorageError(f"reading {len(keys)} keys failed: {error}") from error
        return {key: await self._load_one(key) for key in keys}

    async def _load_one(self, key: bytes) -> ReplicaState | Damaged:
        try:
            rows = list(await self._loads.execute_fetchall(_SELECTS[1], (key,)))
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise StorageError(f"reading key {shown(key)} failed: {error}") from error
            return Damaged(f"the record of key {shown(key)} can't be read: {error}")
        if not rows:
            return _NEVER_HEARD_OF
        if rows[0][0] != key:
            return Damaged(f"the record of key {shown(key)} bears the key {shown(rows[0][0])}: it has changed on disk")
        return state_of(tuple(rows[0]))

    async def scan(
        self, prefix: bytes, after: bytes | None, limit: int, values: bool, value_bytes_max: int
    ) -> ScanPage:
        """See Engine.scan."""
        start = prefix if after is None else max(prefix, successor(after))
        end = end_of_prefix(prefix)
        sql = schema.scan_records(values, bounded=end is not None)
        bounds = () if end is None else (end,)
        step = VALUES_PER_STEP if values else ROWS_PER_STEP
        entries: list[ScanEntry] = []
        value_bytes = 0
        while True:
            rows = await self._fetch_step(sql, (start, *bounds, step))
            for row in rows:
                is_full = len(entries) >= limit or (values and entries and value_bytes >= value_bytes_max)
                if is_full and not _has_only_a_promise(row):
                    return ScanPage(entries, complete=False)
                entry = _entry_of(row)
                if entry is not None:
                    entries.append(entry)
                    value_bytes += entry.size
            if len(rows) < step:
                return ScanPage(entries, complete=True)
            start = successor(rows[-1][0])

    async def _fetch_step(self, sql: str, parameters: tuple[bytes | int, ...]) -> list[Row]:
        try:
            return [tuple(row) for row in await self._scans.execute_fetchall(sql, parameters)]
        except sqlite3.Error as error:
            start = shown(parameters[0]) if parameters else "the first"
            kind = PagesDamaged if is_malformed(error) else StorageError
            raise kind(f"the records from {start} on can't be listed: {error}") from error

    async def kept_aside(self) -> dict[tuple[bytes, int], Record]:
        """See Engine.kept_aside. Raises StorageError for a row whose checksum does not match."""
        kept: dict[tuple[bytes, int], Record] = {}
        for row in await self._fetch_step(schema.SELECT_KEPT, ()):
            state = state_of(row)
            if isinstance(state, Damaged) or state.record is None:
                reason = state.reason if isinstance(state, Damaged) else "it has no ballot"
                raise StorageError(f"a record that was kept aside to be merged back is lost: {reason}")
            kept[row[0], state.record.origin] = state.record
        return kept

    async def rows(self, first: int, behind: int, after: tuple[int, bytes] | None, limit: int) -> RowPage:
        """See Engine.rows."""
        rows: list[engine.Row] = []
        after = after or (first - 1, b"")
        while True:
            step = min(limit - len(rows), KEYS_PER_STEP)
            found = await self._fetch_step(schema.ROWS_BY_PLACE, (max(first, after[0]), behind, *after, step + 1))
            rows += [listed_row(row[1:]) for row in found[:step] if _is_at_its_place(row)]
            if len(found) <= step:
                return RowPage(rows, complete=True)
            if len(rows) >= limit:
                return RowPage(rows, complete=False)
            after = found[step - 1][:2]

    async def purgeable(self, first: int, behind: int, ballot_max: int, expired_before_ms: int) -> list[bytes]:
        """See Engine.purgeable."""
        found = await self._fetch_step(schema.PURGEABLE, (first, behind, ballot_max, expired_before_ms))
        return [row[1] for row in found if _is_at_its_place(row)]

    async def hints(self, after: int, limit: int, value_bytes_max: int) -> HintPage:
        """See Engine.hints."""
        hints: dict[int, Hint] = {}
        damaged: dict[int, str] = {}
        value_bytes = 0
        while True:
            found = await self._fetch_step(schema.SELECT_HINTS, (after, VALUES_PER_STEP))
            for row in found:
                if len(hints) >= limit or (hints and value_bytes >= value_bytes_max):
                    return HintPage(hints, complete=False, damaged=damaged)
                hint = hint_of(row)
                if isinstance(hint, Damaged):
                    damaged[row[0]] = hint.reason
                else:
                    hints[row[0]] = hint
                    value_bytes += len(hint.record.value or b"")
            if len(found) < VALUES_PER_STEP:
                return HintPage(hints, complete=True, damaged=damaged)
            after = found[-1][0]

    async def sweep(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """A query of the scrub, which must not hold up loads. Raises sqlite3.Error.

        It is answered from the file. Out of its page cache SQLite would give, until the next commit, what was there
        before it rotted; and would pass over, the second time, that the cells of a page are malformed.
        """
        await self._sweeps.execute_fetchall(schema.FORGET_PAGES)
        return [tuple(row) for row in await self._sweeps.execute_fetchall(sql, parameters)]

    async def close(self) -> None:
        """Finishes the queries under way. Idempotent."""
        for connection in (self._loads, self._scans, self._sweeps):
            await connection.close()


_NEVER_HEARD_OF = ReplicaState()


async def _connect(database: Path, cache_bytes: int) -> aiosqlite.Connection:
    connecting = aiosqlite.connect(_read_only(database), uri=True, isolation_level=None)
    connecting._thread.daemon = True  # no public way: a process that ends without closing must not wait for a reader
    connection = await connecting
    connection.text_factory = text_of
    try:
        for name, value, why in (*schema.READER_SETTINGS, schema.cache_setting(cache_bytes)):
            await connection.execute_fetchall(f"PRAGMA {name} = {value}")
            rows = list(await connection.execute_fetchall(f"PRAGMA {name}"))
            refuse_unless_taken(name, value, why, tuple(rows[0]) if rows else None)
    except BaseException:
        await connection.close()
        raise
    return connection


def _read_only(database: Path) -> str:
    return f"{database.absolute().as_uri()}?mode=ro&cache=private"


def _chunks(keys: list[bytes]) -> Iterator[list[bytes]]:
    size = KEYS_PER_LOAD[-1]
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _is_at_its_place(row: Row) -> bool:
    """Whether a row's place, which no checksum covers, is its key's: at another it is some other partition's."""
    place, key = row[:2]
    return isinstance(key, bytes) and bool(hash_of(key) == place)


def _entry_of(row: Row) -> ScanEntry | None:
    """The row as an entry of a scan; None for a key that has only a promise. Raises StorageError when damaged."""
    state = state_of(row)
    if isinstance(state, Damaged):
        raise StorageError(f"the listing can't go on: {state.reason}. Reading that key settles it from its replicas")
    if state.record is None:
        return None
    size = row[SIZE]
    return ScanEntry(row[0], state.record, size or 0, size is None)


def _has_only_a_promise(row: Row) -> bool:
    state = state_of(row)
    return isinstance(state, ReplicaState) and state.record is None


def successor(key: bytes) -> bytes:
    """The key right behind this one in byte order."""
    return key + b"\0"


def end_of_prefix(prefix: bytes) -> bytes | None:
    """The first key behind all that start with the prefix; None when there is none (b"", b"\\xff\\xff")."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
