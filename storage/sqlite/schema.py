"""The data folder's SQLite schema: tables, settings with their reasons, and how a file is known to be ours.

The value is the last column of a row, so that a large one lies on overflow pages that a scan of headers never
reads. `records` is a rowid table: as a B-tree of its own, keyed by the key, it would drag values through every
rebalancing of the key's tree.

A row of `records` is one of three: a promise alone (ballot 0), a tombstone (ballot above 0, value NULL) or a value.

`place` says where the key lies in the key space (keyspace.hash_of), so that a partition or a leaf of a hash tree is a
range of an index. It follows from the key, as an index does: no checksum covers it, and whoever reads rows by it
compares it with the key. An update leaves it alone, and with it its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SCHEMA_VERSION = 3
"""Kept in PRAGMA user_version. A newer one is refused: what it means is not known here."""

OLDEST_VERSION = 2
"""It has no journal of states, and is given one. Version 1 is refused: its nodes spread keys over partitions in another
way, so that a row would be on the wrong nodes."""

APPLICATION_ID = 0x6B767331
"""Kept in PRAGMA application_id, "kvs1" in ASCII: tells our files from other programs' SQLite databases."""

WAL_CHECKPOINT_PAGES = 4_000
"""The log is copied into the database after this many 4 KiB pages. Fewer copy a hot page too often; more make the
pause of one checkpoint felt (16 MiB are about 50 ms on an ordinary SSD)."""

WAL_BYTES_MAX = 64 * 1024 * 1024
"""Past this size the log is emptied even if that means to wait for the readers of the moment, who would else let it
grow for as long as there always is one. Also what is left of the file after a burst."""

LOG_INDEX_BYTES = 256 * 1024
"""Room that is taken for the log's index at the start: enough for a log of twice WAL_BYTES_MAX."""

BUSY_TIMEOUT_MS = 5_000
"""How long SQLite waits for its own locks: ours never collide, so reaching it means a stranger has the file open."""

_ORIGIN = "origin         INTEGER NOT NULL,"
_RECORD_COLUMNS = """
    ballot         INTEGER NOT NULL,
    {origin}
    weak           INTEGER NOT NULL,
    content_type   BLOB    NOT NULL,
    expires_at_ms  INTEGER NOT NULL,
    fences         BLOB,
    value_checksum INTEGER NOT NULL,
    checksum       INTEGER NOT NULL,
    value          BLOB"""

MAY_BE_PURGED = "(value IS NULL OR expires_at_ms > 0)"
"""A tombstone, a promise alone, a value that expires: as the index says it, word for word, or it is not used."""

STATE_JOURNAL = """CREATE TABLE state_journal (
    number   INTEGER PRIMARY KEY,
    content  BLOB    NOT NULL,
    checksum INTEGER NOT NULL
)"""

TABLES = (
    f"""CREATE TABLE records (
    key            BLOB    PRIMARY KEY NOT NULL,
    place          INTEGER NOT NULL,
    promised       INTEGER NOT NULL,{_RECORD_COLUMNS.format(origin=_ORIGIN)}
)""",
    "CREATE INDEX records_by_place ON records (place)",
    f"CREATE INDEX records_to_purge ON records (place) WHERE {MAY_BE_PURGED}",
    f"""CREATE TABLE kept_aside (
    key            BLOB    NOT NULL,
    origin         INTEGER NOT NULL,{_RECORD_COLUMNS.format(origin="")},
    PRIMARY KEY (key, origin)
)""",
    f"""CREATE TABLE hints (
    number         INTEGER PRIMARY KEY,
    key            BLOB    NOT NULL,
    targets        BLOB    NOT NULL,
    sole           INTEGER NOT NULL,
    hint_checksum  INTEGER NOT NULL,{_RECORD_COLUMNS.format(origin=_ORIGIN)}
)""",
    """CREATE TABLE trees (
    chunk    INTEGER PRIMARY KEY,
    sums     BLOB    NOT NULL,
    checksum INTEGER NOT NULL
)""",
    """CREATE TABLE tree_journal (
    commit_sequence INTEGER PRIMARY KEY,
    changes         BLOB    NOT NULL,
    checksum        INTEGER NOT NULL
)""",
    STATE_JOURNAL,
    """CREATE TABLE facts (
    name     TEXT    PRIMARY KEY NOT NULL,
    value    BLOB    NOT NULL,
    checksum INTEGER NOT NULL
)""",
    """CREATE TABLE folder (
    only_row        INTEGER PRIMARY KEY CHECK (only_row = 1),
    incarnation     TEXT    NOT NULL,
    commit_sequence INTEGER NOT NULL,
    checksum        INTEGER NOT NULL
)""",
)


class Setting(NamedTuple):
    """One PRAGMA: set, then read back, because SQLite ignores in silence what it does not know."""

    name: str
    value: int | str
    why: str


_SHARED = (
    Setting("busy_timeout", BUSY_TIMEOUT_MS, "wait for a lock rather than fail at once"),
    Setting("mmap_size", 0, "a page that rots or a file that shrinks under a mapping is a crash, not an error"),
    Setting("cell_size_check", 1, "a damaged page is noticed when it is read, not when it has spread"),
    Setting("trusted_schema", 0, "a planted database must not run functions from its schema"),
)

NEW_FILE_SETTINGS = (Setting("auto_vacuum", 2, "INCREMENTAL: room that deletions leave behind can be given back"),)
"""What a file keeps from when its first page is made."""

WRITER_SETTINGS = (
    *_SHARED,
    Setting("journal_mode", "wal", "one sequential write and one fsync per commit, and readers never wait"),
    Setting("synchronous", 2, "FULL: the log is on disk before a commit returns"),
    Setting("fullfsync", 1, "macOS: fsync alone leaves data in the drive's cache"),
    Setting("checkpoint_fullfsync", 1, "macOS: the same for checkpoints"),
    Setting("wal_autocheckpoint", WAL_CHECKPOINT_PAGES, "bounds the log; passive, in the writer's own thread"),
    Setting("journal_size_limit", WAL_BYTES_MAX, "a log that has grown shrinks again"),
)

READER_SETTINGS = (
    *_SHARED,
    Setting("query_only", 1, "exactly one connection writes"),
    Setting("wal_autocheckpoint", 0, "exactly one connection checkpoints"),
)


def cache_setting(cache_bytes: int) -> Setting:
    """The page cache of one connection, in bytes."""
    return Setting("cache_size", -(cache_bytes // 1024), "memory is bounded; negative is in KiB")


_COLUMNS = (
    "key", "promised", "ballot", "origin", "weak", "content_type", "expires_at_ms",
    "fences", "value_checksum", "checksum", "value",
)  # fmt: skip
_COLUMNS_AND_PLACE = (*_COLUMNS, "place")

_HEADER_BEHIND_PROMISE = (
    "ballot, origin, weak, content_type, expires_at_ms, fences, value_checksum, checksum, length(value)"
)
_HEADER = f"key, promised, {_HEADER_BEHIND_PROMISE}"
SELECT_KEPT = f"SELECT key, 0, {_HEADER_BEHIND_PROMISE}, value FROM kept_aside"


def upsert_records(rows: int) -> str:
    """One statement that writes that many rows: each costs one hand-over of the interpreter's lock, however many.

    A row's parameters are those of rows.record_row, and the place behind them, which an update has no use for.
    """
    update = ", ".join(f"{column}=excluded.{column}" for column in _COLUMNS[1:])
    return f"INSERT {_into('records', _COLUMNS_AND_PLACE, rows)} ON CONFLICT (key) DO UPDATE SET {update}"


def _into(table: str, columns: Sequence[str], rows: int) -> str:
    one = f"({', '.join('?' * len(columns))})"
    return f"INTO {table} ({', '.join(columns)}) VALUES {', '.join([one] * rows)}"


def drop_records(keys: int) -> str:
    """Deletes the rows of up to that many keys."""
    return f"DELETE FROM records WHERE key IN ({', '.join('?' * keys)})"


def select_records(keys: int) -> str:
    """The rows of up to that many keys; a key named twice is found once."""
    return f"SELECT {_HEADER}, value FROM records WHERE key IN ({', '.join('?' * keys)})"


def scan_records(values: bool, bounded: bool) -> str:
    """The rows from a key on, in byte order, up to a bound or to the end; parameters: from, (bound,) limit."""
    columns = _HEADER + (", value" if values else "")
    bound = " AND key < ?" if bounded else ""
    return f"SELECT {columns} FROM records WHERE key >= ?{bound} ORDER BY key LIMIT ?"


ROWS_BY_PLACE = """SELECT place, key, promised, ballot, origin, value IS NULL, expires_at_ms, fences
    FROM records INDEXED BY records_by_place
    WHERE place >= ? AND place < ? AND (place, key) > (?, ?) ORDER BY place, key LIMIT ?"""
"""Parameters: the first place, the first behind the last, place and key to go on behind, limit. Doesn't read values."""

PURGEABLE = f"""SELECT place, key FROM records INDEXED BY records_to_purge
    WHERE {MAY_BE_PURGED} AND place >= ? AND place < ? AND max(ballot, promised) <= ?
    AND (value IS NULL OR expires_at_ms < ?) AND fences IS NULL ORDER BY place"""
"""Parameters: the first place, the first behind the last, the highest ballot, a Unix time in milliseconds."""

_KEPT_COLUMNS = tuple(column for column in _COLUMNS if column != "promised")
KEEP = f"INSERT OR REPLACE {_into('kept_aside', _KEPT_COLUMNS, 1)}"

_HINT_COLUMNS = ("number", "targets", "sole", "hint_checksum", *_KEPT_COLUMNS)


def put_hints(rows: int) -> str:
    """One statement that writes that many hints; see rows.hint_row."""
    return f"INSERT OR REPLACE {_into('hints', _HINT_COLUMNS, rows)}"


def drop_hints(numbers: int) -> str:
    """Deletes up to that many hints."""
    return f"DELETE FROM hints WHERE number IN ({', '.join('?' * numbers)})"


SELECT_HINTS = f"""SELECT number, targets, sole, hint_checksum, key, 0, {_HEADER_BEHIND_PROMISE}, value
    FROM hints WHERE number > ? ORDER BY number LIMIT ?"""


def put_trees(chunks: int) -> str:
    """One statement that writes that many chunks of the hash trees' sums."""
    return f"INSERT OR REPLACE {_into('trees', ('chunk', 'sums', 'checksum'), chunks)}"


SELECT_TREES = "SELECT chunk, sums, checksum FROM trees"
SELECT_TREE_JOURNAL = "SELECT commit_sequence, changes, checksum FROM tree_journal ORDER BY commit_sequence"
ADD_TO_TREE_JOURNAL = "INSERT INTO tree_journal (commit_sequence, changes, checksum) VALUES (?, ?, ?)"
CLEAR_TREES = "DELETE FROM trees"
CLEAR_TREE_JOURNAL = "DELETE FROM tree_journal"

SELECT_STATE_JOURNAL = "SELECT number, content, checksum FROM state_journal ORDER BY number"
ADD_TO_STATE_JOURNAL = "INSERT INTO state_journal (number, content, checksum) VALUES (?, ?, ?)"
EMPTY_STATE_JOURNAL = "DELETE FROM state_journal WHERE number <= ?"

FORGET = "DELETE FROM kept_aside WHERE key = ? AND origin = ?"
SET_FACT = "INSERT OR REPLACE INTO facts (name, value, checksum) VALUES (?, ?, ?)"
SELECT_FACTS = "SELECT name, value, checksum FROM facts"
INSERT_FOLDER = "INSERT INTO folder (only_row, incarnation, commit_sequence, checksum) VALUES (1, ?, ?, ?)"
SELECT_FOLDER = "SELECT incarnation, commit_sequence, checksum FROM folder"
COUNT_COMMIT = "UPDATE folder SET commit_sequence = ?, checksum = ? WHERE only_row = 1"

FORGET_PAGES = "PRAGMA shrink_memory"
"""Drops a connection's page cache, which else is only dropped by other connections' commits: what changes on the disk
beneath it is not seen."""

# For the scrub. A row is asked for by its number, and each index whether it leads back to it; the type of
# `promised` is asked for, which is never '', so that the way from the index into the table is gone, as a load goes it.

_KEY_INDEX = "sqlite_autoindex_records_1"
_BACK_BY_KEY = f"""(SELECT found.rowid FROM records AS found INDEXED BY {_KEY_INDEX}
    WHERE found.key = looked_at.key AND typeof(found.promised) <> '')"""
_BACK_BY_PLACE = """EXISTS (SELECT 1 FROM records AS found INDEXED BY records_by_place
    WHERE found.place = looked_at.place AND found.rowid = looked_at.rowid)"""
_BACK_TO_PURGE = f"""(NOT {MAY_BE_PURGED} OR EXISTS (SELECT 1 FROM records AS found INDEXED BY records_to_purge
    WHERE {MAY_BE_PURGED} AND found.place = looked_at.place AND found.rowid = looked_at.rowid))"""
_LOOK = f"SELECT rowid, {_BACK_BY_KEY}, place, {_BACK_BY_PLACE}, {_BACK_TO_PURGE}, {_HEADER}, value"
_LOOKED_AT = "FROM records AS looked_at NOT INDEXED WHERE rowid"

LOOK_AT_RECORDS = f"{_LOOK} {_LOOKED_AT} > ? ORDER BY rowid LIMIT ?"
LOOK_AT_RECORD = f"{_LOOK} {_LOOKED_AT} = ?"
LOOK_AT_RECORD_ALONE = f"SELECT rowid, NULL, place, 0, 0, {_HEADER}, value {_LOOKED_AT} = ?"
NUMBERS_IN_TABLE = f"SELECT rowid, NULL {_LOOKED_AT} > ? ORDER BY rowid LIMIT ?"
NUMBERS_IN_KEY_INDEX = f"SELECT rowid, key FROM records INDEXED BY {_KEY_INDEX} WHERE rowid > ? ORDER BY rowid LIMIT ?"
KEYS_AND_THEIR_ROWS = f"""SELECT looked_at.key, (SELECT 1 FROM records AS found NOT INDEXED
    WHERE found.rowid = looked_at.rowid)
    FROM records AS looked_at INDEXED BY {_KEY_INDEX} WHERE looked_at.key > ? ORDER BY looked_at.key LIMIT ?"""
KEY_IN_INDEX = f"SELECT key FROM records INDEXED BY {_KEY_INDEX} WHERE rowid = ?"
LOOK_AT_KEPT = f"""SELECT rowid, key, 0, {_HEADER_BEHIND_PROMISE}, value
    FROM kept_aside NOT INDEXED WHERE rowid > ? ORDER BY rowid LIMIT ?"""
DELETE_RECORD = "DELETE FROM records WHERE rowid = ?"
SET_PLACE = "UPDATE records SET place = ? WHERE rowid = ?"
