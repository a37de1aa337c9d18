"""The shared file's SQLite schema: tables, settings with their reasons, and how a file is known to be ours.

`entries` has the columns of a record, but for what only replicas need: the version is ballot and origin in one. A row
without a value remembers the fences of a key that was deleted; a deleted key without fences has no row.

`registers` are the cells of locks and votes. `beside` is what goes with a value without being part of it: when leases
were seen, and who waits. Both are opaque here.

`file` is one row: the highest version that was ever given, so that versions grow over restarts and deletions.
"""

from __future__ import annotations

from storage.sqlite.schema import Setting

SCHEMA_VERSION = 1
"""Kept in PRAGMA user_version. A file of a newer one is refused: what it means is not known here."""

APPLICATION_ID = 0x6B767366
"""Kept in PRAGMA application_id, "kvsf" in ASCII: tells our files from a node's database, and from others'."""

BUSY_MS = 20
"""How long SQLite itself waits for other processes before it says busy; whoever asked tries again until its deadline.
Long enough for an ordinary commit to end meanwhile, short enough not to hold up others of this process."""

JOURNAL_BYTES_MAX = 4 * 1024 * 1024
"""What is left of the journal's file after a large transaction."""

CACHE_KIB = 8 * 1024

JOURNAL_MODE = "persist"

SETTINGS = (
    Setting("busy_timeout", BUSY_MS, "wait a moment for another process rather than fail at once"),
    Setting("mmap_size", 0, "a page that rots or a file that shrinks under a mapping is a crash, not an error"),
    Setting("cell_size_check", 1, "a damaged page is noticed when it is read, not when it has spread"),
    Setting("trusted_schema", 0, "a planted database must not run functions from its schema"),
    Setting("locking_mode", "normal", "other processes take their turn between two transactions"),
    Setting("journal_mode", JOURNAL_MODE, "a log is not safe for several writers before SQLite 3.51.3; see DESIGN.md"),
    Setting("synchronous", 2, "FULL: the journal, the file and the journal's end are on disk before a commit returns"),
    Setting("fullfsync", 1, "macOS: fsync alone leaves data in the drive's cache"),
    Setting("journal_size_limit", JOURNAL_BYTES_MAX, "a journal that has grown shrinks again"),
    Setting("cache_size", -CACHE_KIB, "memory is bounded; negative is in KiB"),
)

TABLES = (
    """CREATE TABLE entries (
    key            BLOB    PRIMARY KEY NOT NULL,
    version        INTEGER NOT NULL,
    content_type   BLOB    NOT NULL,
    expires_at_ms  INTEGER NOT NULL,
    fences         BLOB,
    value_checksum INTEGER NOT NULL,
    checksum       INTEGER NOT NULL,
    value          BLOB
)""",
    "CREATE INDEX entries_that_expire ON entries (expires_at_ms) WHERE expires_at_ms > 0",
    """CREATE TABLE registers (
    key      BLOB    PRIMARY KEY NOT NULL,
    checksum INTEGER NOT NULL,
    beside   BLOB,
    value    BLOB
)""",
    """CREATE TABLE file (
    only_row     INTEGER PRIMARY KEY CHECK (only_row = 1),
    last_version INTEGER NOT NULL,
    checksum     INTEGER NOT NULL
)""",
)

_HEADER = "key, 0, version, version, 0, content_type, expires_at_ms, fences, value_checksum, checksum, length(value)"
"""As rows.state_of() takes a row: with a promise, an origin and a weakness that are always the same."""

SELECT_HEADER = f"SELECT {_HEADER} FROM entries WHERE key = ?"
SELECT_ENTRY = f"SELECT {_HEADER}, value FROM entries WHERE key = ?"
PUT_ENTRY = """INSERT INTO entries
    (key, version, content_type, expires_at_ms, fences, value_checksum, checksum, value)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET version=excluded.version, content_type=excluded.content_type,
    expires_at_ms=excluded.expires_at_ms, fences=excluded.fences, value_checksum=excluded.value_checksum,
    checksum=excluded.checksum, value=excluded.value"""
DROP_ENTRY = "DELETE FROM entries WHERE key = ?"
EXPIRED = """SELECT key FROM entries INDEXED BY entries_that_expire
    WHERE expires_at_ms > 0 AND expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?"""

SELECT_REGISTER = "SELECT key, checksum, beside, value FROM registers WHERE key = ?"
PUT_REGISTER = """INSERT INTO registers (key, checksum, beside, value) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET checksum=excluded.checksum, beside=excluded.beside, value=excluded.value"""
SCAN_REGISTERS = "SELECT key, checksum, beside, value FROM registers WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"

INSERT_FILE = "INSERT INTO file (only_row, last_version, checksum) VALUES (1, ?, ?)"
SELECT_FILE = "SELECT last_version, checksum FROM file WHERE only_row = 1"
UPDATE_FILE = "UPDATE file SET last_version = ?, checksum = ? WHERE only_row = 1"


def scan_entries(values: bool, bounded: bool) -> str:
    """Entries with a value, in byte order, up to a bound or to the end; parameters: from, (bound,) limit."""
    columns = _HEADER + (", value" if values else "")
    bound = " AND key < ?" if bounded else ""
    return f"SELECT {columns} FROM entries WHERE key >= ?{bound} AND value IS NOT NULL ORDER BY key LIMIT ?"
