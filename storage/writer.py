"""Writer: the one connection that writes and checkpoints. Everything here runs in the engine's own thread.

A transaction arrives as a list of finished statements, so that the thread only plays it: few, large steps. Each
step of SQLite lets go of the interpreter's lock and has to win it back from a busy event loop, which costs more
than the work itself; that is why 64 rows are one statement.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from storage import schema
from storage.engine import Batch, CommitFailed, FolderUnusable
from storage.folder import DataFolder
from storage.integrity import fact_checksum, folder_checksum
from storage.rows import Row, kept_row, record_row

Statement = tuple[str, Sequence[Any]]

ROWS_PER_STATEMENT_MAX = 64
"""704 parameters: below the 999 that SQLite once allowed, and no faster when larger."""

_UPSERTS = {rows: schema.upsert_records(rows) for rows in (64, 32, 16, 8, 4, 2, 1)}
"""A few fixed sizes, so that every statement stays prepared."""


def statements_of(batch: Batch) -> list[Statement]:
    """The batch as SQL. Runs on the event loop's thread: the states are immutable, and the writer gets plain tuples."""
    rows = [record_row(key, state) for key, state in batch.states.items()]
    statements = list(_upserts(rows))
    statements += [(schema.KEEP, kept_row(key, record)) for (key, _), record in batch.keep.items()]
    statements += [(schema.FORGET, kept) for kept in batch.forget]
    statements += [(schema.SET_FACT, (name, value, fact_checksum(name, value))) for name, value in batch.facts.items()]
    return statements


def _upserts(rows: Sequence[Row]) -> Iterator[Statement]:
    start = 0
    for size, sql in _UPSERTS.items():
        while len(rows) - start >= size:
            yield sql, [field for row in rows[start : start + size] for field in row]
            start += size


class Writer:
    """The writing connection and the folder's lock. Every method is called in one and the same thread."""

    def __init__(self, folder: DataFolder, cache_bytes: int) -> None:
        self.incarnation = ""
        self.commit_sequence = 0
        self.facts: dict[str, bytes] = {}
        self._folder = folder
        self._cache_bytes = cache_bytes
        self._connection: sqlite3.Connection | None = None
        self._failure: BaseException | None = None

    def open(self) -> None:
        """Takes the folder and reads what it says about itself. Raises FolderLocked or FolderUnusable."""
        try:
            self._folder.take()
            self._folder.ensure_database_file()
            self._connection = sqlite3.connect(self._folder.database, isolation_level=None)
            self._recognise(self._connection)
            apply_settings(self._connection, (*schema.WRITER_SETTINGS, schema.cache_setting(self._cache_bytes)))
            if _number(self._connection, "user_version") == 0:
                _create(self._connection)
            self._read_folder(self._connection)
        except (sqlite3.Error, OSError) as error:
            raise FolderUnusable(
                f"the data folder {self._folder.path} can't be used: {error}. "
                "Check its permissions and its disk, or restore the folder; a member that lost its folder is replaced"
            ) from error

    def commit(self, statements: Iterable[Statement]) -> int:
        """Plays one transaction, durable when it returns; the number of commits so far. Raises CommitFailed."""
        if self._connection is None or self._failure is not None:
            raise CommitFailed(f"nothing is written after a commit that failed: {self._failure}")
        sequence = self.commit_sequence + 1
        try:
            self._play(self._connection, statements, sequence)
        except BaseException as failure:
            self._failure = failure
            raise CommitFailed(
                f"writing to {self._folder.database} failed: {failure}. What was being written may or may not be on "
                "disk, and nobody was told that it is; this process must end and read its disk anew"
            ) from failure
        self.commit_sequence = sequence
        return sequence

    def close(self) -> None:
        """Checkpoints, closes and lets go of the folder. Idempotent; after a failed commit, too."""
        try:
            if self._connection is not None:
                self._connection.close()  # the last connection to close empties the log
        finally:
            self._connection = None
            self._folder.release()

    def _play(self, connection: sqlite3.Connection, statements: Iterable[Statement], sequence: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for sql, parameters in statements:
            connection.execute(sql, parameters)
        connection.execute(schema.COUNT_COMMIT, (sequence, folder_checksum(self.incarnation, sequence)))
        connection.execute("COMMIT")
        if os.stat(_log_of(self._folder.database)).st_size > schema.WAL_BYTES_MAX:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _recognise(self, connection: sqlite3.Connection) -> None:
        """Refuses a file that is not ours, before anything in it is changed."""
        version = _number(connection, "user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        is_new = version == 0 and tables == 0
        if not is_new and _number(connection, "application_id") != schema.APPLICATION_ID:
            raise FolderUnusable(
                f"{self._folder.database} is another program's database; nothing was touched. Choose another folder"
            )
        if version > schema.SCHEMA_VERSION:
            raise FolderUnusable(
                f"{self._folder.database} has schema version {version}, this program knows up to "
                f"{schema.SCHEMA_VERSION}; nothing was touched. Start it with the newer program that wrote it"
            )

    def _read_folder(self, connection: sqlite3.Connection) -> None:
        about = connection.execute(schema.SELECT_FOLDER).fetchone()
        if about is None or not _is_sound(folder_checksum, about):
            raise self._damaged("its incarnation or its commit sequence")
        self.incarnation, self.commit_sequence, _ = about
        for fact in connection.execute(schema.SELECT_FACTS):
            if not _is_sound(fact_checksum, fact):
                raise self._damaged(f"the fact {fact[0]!r}")
            self.facts[fact[0]] = fact[1]

    def _damaged(self, what: str) -> FolderUnusable:
        return FolderUnusable(
            f"{what} in {self._folder.database} has changed on disk: its checksum does not match. Nothing was touched. "
            "This folder can't be trusted to remember its promises: replace this member, with a new folder"
        )


def apply_settings(connection: sqlite3.Connection, settings: Iterable[schema.Setting]) -> None:
    """Sets each PRAGMA and reads it back. Raises FolderUnusable for one that did not take."""
    for name, value, why in settings:
        connection.execute(f"PRAGMA {name} = {value}").fetchall()
        refuse_unless_taken(name, value, why, connection.execute(f"PRAGMA {name}").fetchone())


def refuse_unless_taken(name: str, wanted: int | str, why: str, row: tuple[Any, ...] | None) -> None:
    """Raises FolderUnusable unless the PRAGMA reads as wanted; no row is 0: a build without it has it turned off."""
    found = row[0] if row is not None else 0
    if found != wanted:
        raise FolderUnusable(
            f"SQLite {sqlite3.sqlite_version} did not take PRAGMA {name} = {wanted} (it reads {found}), "
            f"which is needed: {why}. Use a local file system and a SQLite of 3.31 or newer"
        )


def _create(connection: sqlite3.Connection) -> None:
    """Makes the tables in one transaction: a crash leaves all of it or an empty file, which is made anew."""
    incarnation = secrets.token_hex(16)
    connection.execute("BEGIN IMMEDIATE")
    for table in schema.TABLES:
        connection.execute(table)
    connection.execute(schema.INSERT_FOLDER, (incarnation, 0, folder_checksum(incarnation, 0)))
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _is_sound(checksum_of: Callable[[Any, Any], int], row: tuple[Any, Any, Any]) -> bool:
    """Whether a row of two columns and their checksum is as it was written, types included."""
    try:
        return bool(checksum_of(row[0], row[1]) == row[2])
    except (AttributeError, TypeError, struct.error):
        return False


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _log_of(database: Path) -> str:
    return f"{database}-wal"
