"""SharedFile: one file on a local disk, one connection, one transaction at a time per process.

Any thread may call; they take turns. Each call is one attempt, which lasts as long as a transaction does and at most
BUSY_MS longer: whoever is told FileBusy tries again, with a pause, until its own deadline.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from storage.engine import CommitFailed, DiskFull, FolderUnusable, StorageError
from storage.shared_file import forks, schema
from storage.shared_file.errors import EntryDamaged, FileBusy, FileFailed, FileUnusable
from storage.shared_file.places import network_of
from storage.shared_file.rows import file_checksum
from storage.shared_file.transaction import Reading, Writing
from storage.sqlite.rows import text_of
from storage.sqlite.writer import DAMAGE, refuse_unless_taken

T = TypeVar("T")

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
LOOKS_MAX, LOOK_AGAIN_S = 40, 0.05
"""How often, and at which interval, a file is looked into that may be in the making: that takes some milliseconds."""
_NOT_OURS = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY)


class SharedFile:
    """The file at a path, made when it is first used if it is not there."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Touches nothing yet."""
        self.path = os.path.abspath(os.fsdecode(path))
        self.guard = threading.RLock()
        """Held while the connection is in use."""
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._identity: tuple[int, int] | None = None
        """Device and number of the file that was opened first."""
        self._is_closed = self._is_lost = False
        forks.watch_over(self)

    def read(self, work: Callable[[Reading], T]) -> T:
        """What the work makes of the file as it is at one moment.

        Raises FileBusy, FileUnusable, FileFailed, EntryDamaged.
        """
        with self._in_turn() as connection:
            connection.execute("BEGIN")
            try:
                return work(Reading(connection))
            finally:
                _undo(connection)

    def write(self, work: Callable[[Writing], T]) -> T:
        """What the work makes of the file while nobody else can change it; what it changed is on disk on return.

        The work is called once at most. What it raises undoes what it changed. Raises FileBusy, FileUnusable,
        FileFailed, EntryDamaged and DiskFull, after which surely nothing is changed; and CommitFailed.
        """
        with self._in_turn() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._refuse_log(connection)
                writing = Writing(connection)
                result = work(writing)
                if writing.is_dirty:
                    writing.finish()
                    self._commit(connection)
            finally:
                _undo(connection)
            return result

    def close(self) -> None:
        """Closes it, for good, when the transaction under way has ended. Idempotent."""
        with self.guard:
            self._is_closed = True
            self._disconnect()

    def forget_connection(self) -> None:
        """See forks.Forkable."""
        self._pid = os.getpid()
        if self._connection is not None:
            forks.keep_unclosed(self._connection)
            self._connection = None

    # ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _in_turn(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone; what SQLite says becomes what the caller is told."""
        if self._pid != os.getpid():  # forked where Python did not see it: a thread that is not here may hold the guard
            self.guard = threading.RLock()
            self.forget_connection()
        with self.guard:
            try:
                yield self._connected()
            except sqlite3.Error as error:
                told = self._told(error)
                if not isinstance(told, FileBusy | DiskFull):
                    self._disconnect()  # whatever state it is in: the next one looks at the file anew
                raise told from error

    def _connected(self) -> sqlite3.Connection:
        if self._is_closed:
            raise FileUnusable(f"{self.path} was closed; nothing was read or written")
        if self._identity is not None and _identity_of(self.path) != self._identity:
            self._disconnect()
            self._is_lost = True  # for good: the number of a file that is gone is soon another's
        if self._is_lost:
            raise FileUnusable(
                f"{self.path} was removed or replaced while it was in use; nothing was read or written. Close it in "
                "every process, and open it again"
            )
        if self._connection is None:
            self._connection = self._connect()
            self._identity = _identity_of(self.path)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise FileUnusable(f"the folder {folder} does not exist; make it, or choose another place for the file")
        if (network := network_of(self.path)) is not None:
            raise FileUnusable(
                f"{self.path} lies on a network file system ({network}), whose locks can't be relied on; nothing was "
                "touched. Choose a local disk, or run a cluster"
            )
        self._refuse_stranger()
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            connection.text_factory = text_of
            self._apply_settings(connection)
            self._recognise_or_make(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _refuse_stranger(self) -> None:
        """Looks into the file without a lock and without any effect on it, not even on a write-ahead log beside it."""
        if not os.path.exists(self.path) or os.path.getsize(self.path) == 0:
            return
        for look in range(1, LOOKS_MAX + 1):
            try:
                self._look_into()
            except FileUnusable:
                # Without its lock, a file that is just being made looks like anything; but its journal is there.
                if look == LOOKS_MAX or not os.path.exists(f"{self.path}-journal"):
                    raise
                time.sleep(LOOK_AGAIN_S)
            else:
                return

    def _look_into(self) -> None:
        """Raises FileUnusable for what is not ours."""
        try:
            looking = sqlite3.connect(f"file:{quote(self.path)}?mode=ro&immutable=1", uri=True, isolation_level=None)
            try:
                if not self._recognise(looking):  # what it says may stand in a log; ours says it from its first page on
                    raise self._stranger()
            finally:
                looking.close()
        except sqlite3.Error as error:
            raise FileUnusable(
                f"{self.path} can't be used: {error}. It is no database of this program's, or damaged, or not to be "
                "read by this user; nothing was touched"
            ) from error

    def _recognise(self, connection: sqlite3.Connection) -> bool:
        """Whether there is anything in the file. Raises FileUnusable where that is not ours."""
        version, application = (_number(connection, name) for name in ("user_version", "application_id"))
        if not version and not application and not _number_of(connection, "SELECT count(*) FROM sqlite_master"):
            return False
        if application != schema.APPLICATION_ID:
            raise self._stranger()
        if version > schema.SCHEMA_VERSION:
            raise FileUnusable(
                f"{self.path} has schema version {version}, this program knows up to {schema.SCHEMA_VERSION}; nothing "
                "was touched. Use the newer program that wrote it"
            )
        return True

    def _stranger(self) -> FileUnusable:
        return FileUnusable(
            f"{self.path} is another program's database, or a node's; nothing was touched. Choose another file"
        )

    def _apply_settings(self, connection: sqlite3.Connection) -> None:
        for name, value, why in schema.SETTINGS:
            connection.execute(f"PRAGMA {name} = {value}").fetchall()
            try:
                refuse_unless_taken(name, value, why, connection.execute(f"PRAGMA {name}").fetchone())
            except FolderUnusable as refusal:
                raise FileUnusable(f"{self.path} can't be used: {refusal}") from None

    def _recognise_or_make(self, connection: sqlite3.Connection) -> None:
        """Makes the tables where there are none, in one transaction: a crash leaves all of it or an empty file."""
        if self._recognise(connection):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._recognise(connection):  # another process was quicker
                return
            for table in schema.TABLES:
                connection.execute(table)
            connection.execute(schema.INSERT_FILE, (0, file_checksum(0)))
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
            connection.execute("COMMIT")
        finally:
            _undo(connection)
        _sync_folder(Path(self.path).parent)

    def _refuse_log(self, connection: sqlite3.Connection) -> None:
        """Somebody may have set the file to a write-ahead log since it was opened, which lasts."""
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        if mode != schema.JOURNAL_MODE:
            raise FileUnusable(
                f"{self.path} was set to journal mode {mode} by another program, which is not safe for several "
                "processes; nothing was written. Close it everywhere and open it again, which sets it back"
            )

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            # Busy: readers would not go; full: no room. Both are said before the journal ends, so it is undone.
            code = _code(error)
            if code in _BUSY or code == sqlite3.SQLITE_FULL:
                raise
            self._disconnect()
            raise CommitFailed(
                f"writing to {self.path} failed: {error}. What was being written may or may not be there, now or after "
                "a crash; read before you write it again, and look after the disk"
            ) from error

    def _told(self, error: sqlite3.Error) -> StorageError:
        code = _code(error)
        if code in _BUSY:
            return FileBusy(f"other processes hold {self.path}; nothing was read or written")
        if code == sqlite3.SQLITE_FULL:
            return DiskFull(f"there is no room on the disk of {self.path}; nothing was written")
        if code in _NOT_OURS:
            return FileUnusable(
                f"{self.path} can't be used: {error}; nothing was written. Check that it is a file of this program's, "
                "and that this user may write it and its folder"
            )
        if code in DAMAGE:
            return EntryDamaged(
                f"{self.path} has changed on disk so that SQLite can't make sense of it: {error}; nothing was written. "
                "Restore it from a backup"
            )
        return FileFailed(f"{self.path} could not be read or written: {error}; nothing was written")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _undo(connection: sqlite3.Connection) -> None:
    """Ends the transaction, if there is one. Where that fails, whoever opens the file next plays the journal back."""
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where it was Python's module that complained."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return _number_of(connection, f"PRAGMA {pragma}")


def _number_of(connection: sqlite3.Connection, query: str) -> int:
    number: int = connection.execute(query).fetchone()[0]
    return number


def _sync_folder(folder: Path) -> None:
    """Makes the file's name durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
