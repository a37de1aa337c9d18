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
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

from storage.engine import (
    CUT_SHORT_FACT,
    Batch,
    CantMend,
    CommitFailed,
    CommitMetDamage,
    DiskFull,
    FolderDamaged,
    FolderUnusable,
)
from storage.keyspace import hash_of
from storage.record import ReplicaState
from storage.sqlite import schema
from storage.sqlite.folder import DataFolder
from storage.sqlite.integrity import blob_checksum, fact_checksum, folder_checksum
from storage.sqlite.leaf_sums import LeafSums
from storage.sqlite.rows import hint_row, kept_row, record_row, text_of
from storage.sqlite.scrub import mend
from storage.sqlite.state_journal import Plan, decode_entry
from storage.sqlite.statements import Statement, in_sizes, many

LOOK_AT_LOG_EVERY = 16
"""Commits of an entry alone, of a megabyte at most: to ask for the log's size loses the interpreter's lock, too."""
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""What SQLite says of a database that it can't make sense of: primary result codes."""


def is_malformed(error: BaseException) -> bool:
    """Whether SQLite says so, as against that the disk can't be read just now, or has no room."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE


_UPSERTS = in_sizes(schema.upsert_records)
_DROPS = in_sizes(schema.drop_records)
_HINTS = in_sizes(schema.put_hints)
_HINT_DROPS = in_sizes(schema.drop_hints)


def statements_of(batch: Batch, plan: Plan) -> list[Statement]:
    """The batch as SQL, but for the leaves, which are LeafSums'. plan: what the journal makes of its states.

    Runs on the event loop's thread: the states are immutable, and the writer gets plain tuples.
    """
    statements: list[Statement] = []
    for states in (plan.folded, plan.direct):  # never as one: of two states of a key the second one stays
        if states:
            statements += many(_UPSERTS, [(*record_row(key, state), hash_of(key)) for key, state in states])
    if batch.drop:
        statements += many(_DROPS, [(key,) for key in batch.drop])
    if plan.encoded:
        checksum = blob_checksum(plan.number, plan.encoded)
        statements.append((schema.ADD_TO_STATE_JOURNAL, (plan.number, plan.encoded, checksum)))
    if plan.emptied_to:
        statements.append((schema.EMPTY_STATE_JOURNAL, (plan.emptied_to,)))
    if batch.hints:
        statements += many(_HINTS, [hint_row(number, hint) for number, hint in batch.hints.items()])
    if batch.drop_hints:
        statements += many(_HINT_DROPS, [(number,) for number in batch.drop_hints])
    statements += [(schema.KEEP, kept_row(key, record)) for (key, _), record in batch.keep.items()]
    statements += [(schema.FORGET, kept) for kept in batch.forget]
    statements += [(schema.SET_FACT, (name, value, fact_checksum(name, value))) for name, value in batch.facts.items()]
    return statements


class Writer:
    """The writing connection and the folder's lock. Every method is called in one and the same thread."""

    def __init__(self, folder: DataFolder, cache_bytes: int) -> None:
        self.incarnation = ""
        self.commit_sequence = 0
        self.facts: dict[str, bytes] = {}
        self.leaf_sums = LeafSums()
        self.journalled: dict[bytes, ReplicaState] = {}
        """What the journal of states came to when the folder was opened."""
        self.last_entry = 0
        self._folder = folder
        self._cache_bytes = cache_bytes
        self._connection: sqlite3.Connection | None = None
        self._failure: BaseException | None = None
        self._log_given_back_after = -1

    def open(self) -> None:
        """Takes the folder and reads what it says about itself. Raises FolderLocked or FolderUnusable."""
        try:
            self._folder.take()
            if (reason := self._folder.why_condemned) is not None:
                raise FolderDamaged(f"{self._folder.database} was found to be damaged when it was last used: {reason}")
            self._folder.ensure_database_file()
            cut_short = self._folder.find_cut_log()
            self._connection = sqlite3.connect(self._folder.database, isolation_level=None)
            self._connection.text_factory = text_of
            self._recognise(self._connection)
            version = _number(self._connection, "user_version")
            is_new = version == 0
            if is_new:
                apply_settings(self._connection, schema.NEW_FILE_SETTINGS)
            apply_settings(self._connection, (*schema.WRITER_SETTINGS, schema.cache_setting(self._cache_bytes)))
            if is_new:
                _create(self._connection)
            elif version < schema.SCHEMA_VERSION:
                _bring_up_to_date(self._connection)
            if cut_short is not None:
                _refuse_unless_whole(self._connection, cut_short)
            _empty_log(self._connection)  # what a crash left behind its end must not come to lie behind new commits
            self._read_folder(self._connection)
            self._folder.reserve_log_index(schema.LOG_INDEX_BYTES)
            if cut_short is not None:
                self._keep_as_fact(self._connection, cut_short)
        except (sqlite3.Error, OSError) as error:
            kind = FolderDamaged if is_malformed(error) else FolderUnusable
            raise kind(
                f"the data folder {self._folder.path} can't be used: {error}. "
                "Check its permissions and its disk, or restore the folder; a member that lost its folder is replaced"
            ) from error

    def commit(self, statements: Sequence[Statement], batch: Batch, plan: Plan) -> int:
        """Plays one transaction, durable when it returns; the number of commits so far.

        An entry of the journal that is all there is to write is one statement, and counts itself: each step less is one
        less for which the interpreter's lock is lost and won. Raises DiskFull, which changed nothing here or on disk;
        or CommitFailed.
        """
        with self._failing_for_good() as connection:
            sequence = self.commit_sequence + 1
            assert not plan.encoded or plan.number == sequence, "an entry bears the number of its commit"
            how = {
                "are_all": batch.leaves_are_all,
                "are_elsewhere": bool(plan.encoded),
                "fold": bool(plan.emptied_to),
            }
            is_entry_alone = len(statements) == 1 and bool(plan.encoded) and not batch.leaves_are_all
            try:
                with _undone_if_full(connection):
                    if is_entry_alone:
                        connection.execute(*statements[0])
                    else:
                        of_leaves = self.leaf_sums.statements(sequence, batch.leaves, **how)
                        counted = (schema.COUNT_COMMIT, (sequence, folder_checksum(self.incarnation, sequence)))
                        connection.execute("BEGIN IMMEDIATE")
                        for sql, parameters in chain(statements, of_leaves, (counted,)):
                            connection.execute(sql, parameters)
                        connection.execute("COMMIT")
            except DiskFull:
                self._give_back_log(connection)
                raise
            self.leaf_sums.committed(batch.leaves, **how)
            self.commit_sequence = sequence
            is_time_to_look = not is_entry_alone or sequence % LOOK_AT_LOG_EVERY == 0
            if is_time_to_look and os.stat(self._folder.log).st_size > schema.WAL_BYTES_MAX:
                _empty_log(connection)
        return sequence

    def _give_back_log(self, connection: sqlite3.Connection) -> None:
        """The log is the one thing on a full disk that can go; once per commit, for copying it is not for nothing."""
        if self._log_given_back_after != self.commit_sequence:
            self._log_given_back_after = self.commit_sequence
            _empty_log(connection)

    def reclaim(self, bytes_max: int) -> int:
        """See Engine.reclaim."""
        with self._failing_for_good() as connection:
            page_bytes = _number(connection, "page_size")
            before = _number(connection, "page_count")
            pages_max = min(_number(connection, "freelist_count"), -(-bytes_max // page_bytes))
            is_log_long = os.stat(self._folder.log).st_size > schema.WAL_CHECKPOINT_PAGES * page_bytes
            try:
                if pages_max:  # to SQLite, 0 is all
                    with _undone_if_full(connection):
                        # Moves one page a step, which execute() would stop at; a script is played to its end.
                        connection.executescript(f"PRAGMA incremental_vacuum({pages_max})")
            finally:
                if pages_max or is_log_long:
                    _empty_log(connection)  # only what is copied from the log into the file makes that shorter
            return (before - _number(connection, "page_count")) * page_bytes

    def mend(self, rows: Sequence[int]) -> int:
        """See Engine.mend; the number of commits so far."""
        with self._failing_for_good() as connection:
            sequence = self.commit_sequence + 1
            counted = (schema.COUNT_COMMIT, (sequence, folder_checksum(self.incarnation, sequence)))
            with _undone_if_full(connection):
                is_mended = mend(connection, rows, counted)
            if is_mended:
                self.commit_sequence = sequence
                _empty_log(connection)
            return self.commit_sequence

    @contextmanager
    def _failing_for_good(self) -> Iterator[sqlite3.Connection]:
        """The connection, to write with; what fails and may be half done is the last that is tried."""
        if self._connection is None or self._failure is not None:
            raise CommitFailed(f"nothing is written after a commit that failed: {self._failure}")
        try:
            yield self._connection
        except (DiskFull, CantMend):
            raise
        except BaseException as failure:
            self._failure = failure
            kind = CommitMetDamage if is_malformed(failure) else CommitFailed
            raise kind(
                f"writing to {self._folder.database} failed: {failure}. What was being written may or may not be on "
                "disk, and nobody was told that it is; this process must end and read its disk anew"
            ) from failure

    def close(self) -> None:
        """Checkpoints, closes and lets go of the folder. Idempotent; after a failed commit, too."""
        try:
            if self._connection is not None:
                self._connection.close()  # the last connection to close empties the log
        finally:
            self._connection = None
            self._folder.release()

    def _recognise(self, connection: sqlite3.Connection) -> None:
        """Refuses a file that is not ours, before anything in it is changed."""
        version = _number(connection, "user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        is_new = version == 0 and tables == 0
        if not is_new and _number(connection, "application_id") != schema.APPLICATION_ID:
            raise FolderUnusable(
                f"{self._folder.database} is another program's database; nothing was touched. Choose another folder"
            )
        if not is_new and version < schema.OLDEST_VERSION:
            raise FolderUnusable(
                f"{self._folder.database} has schema version {version}, this program needs {schema.OLDEST_VERSION}, "
                "under which keys lie in other partitions, on other nodes; nothing was touched. Export the data with "
                "the program that wrote it, and import it into new folders with this one"
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
        leaves: dict[int, bytes] = {}
        for number, content, checksum in connection.execute(schema.SELECT_STATE_JOURNAL):
            if not _is_sound(blob_checksum, (number, content, checksum)):
                raise self._damaged(f"entry {number} of the journal of states")
            states, leaves[number] = decode_entry(content)
            self.last_entry = number
            for key, state in states:
                if state is None:
                    self.journalled.pop(key, None)
                else:
                    self.journalled[key] = state
        self.commit_sequence = max(self.commit_sequence, self.last_entry)
        self.leaf_sums.read(connection, leaves)

    def _keep_as_fact(self, connection: sqlite3.Connection, cut_short: str) -> None:
        """Not counted as a commit: the sequence must stay below what peers remember."""
        reason = cut_short.encode()
        self.facts[CUT_SHORT_FACT] = reason
        with suppress(DiskFull), _undone_if_full(connection):
            connection.execute(schema.SET_FACT, (CUT_SHORT_FACT, reason, fact_checksum(CUT_SHORT_FACT, reason)))
            self._folder.forget_cut_log()

    def _damaged(self, what: str) -> FolderUnusable:
        return FolderDamaged(
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


@contextmanager
def _undone_if_full(connection: sqlite3.Connection) -> Iterator[None]:
    """Around one transaction: raises DiskFull when there was no room for it, after it has been undone."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        # SQLite says so before the sync, when the transaction's last frame is not whole: nothing is committed.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise DiskFull(
            "there is no room on the disk of the data folder; nothing of what was being written is there, and nobody "
            "was told that it is. It is written once there is room"
        ) from error


def _refuse_unless_whole(connection: sqlite3.Connection, cut_short: str) -> None:
    """Refuses a database that no longer fits its log, as far as new indexes don't mend it.

    A checkpoint may have copied pages into it from behind the place where the log is cut; then the pages that the log
    still has are older than those around them.
    """
    try:
        for _ in range(2):
            complaint = " ".join(connection.execute("PRAGMA integrity_check(1)").fetchone()[0].split())
            if complaint == "ok":
                return
            connection.execute("REINDEX")
    except sqlite3.DatabaseError as error:
        complaint = str(error)
    raise FolderDamaged(
        f"{cut_short}; what is left of it does not fit the database ({complaint}), which can't be trusted any more. "
        "Move this folder away and start with a new one: the node then gets its data back from the others"
    )


def _empty_log(connection: sqlite3.Connection) -> None:
    """Copies the log into the database and cuts it, if readers let it. What it holds is durable either way."""
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:  # then the log stays as it is until there is room
            raise


def _create(connection: sqlite3.Connection) -> None:
    """Makes the tables in one transaction: a crash leaves all of it or an empty file, which is made anew."""
    incarnation = secrets.token_hex(16)
    connection.execute("BEGIN IMMEDIATE")
    for statement in schema.TABLES:
        connection.execute(statement)
    connection.execute(schema.INSERT_FOLDER, (incarnation, 0, folder_checksum(incarnation, 0)))
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Gives a folder of OLDEST_VERSION what this program needs, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(schema.STATE_JOURNAL)
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
