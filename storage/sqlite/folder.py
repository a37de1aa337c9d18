"""The data folder: who may use it, and with which permissions.

The lock is a `flock` on a file beside the database: the kernel drops it when the process ends, however it ends, so
a lock never outlives its holder. It is taken before the database is touched. That matters inside one process, too:
closing any descriptor of a database file drops the process's own POSIX locks on it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from itertools import count
from pathlib import Path

from storage.engine import FolderLocked
from storage.sqlite.log_inspection import damage_of_log

DATABASE_NAME = "kvstore.db"
LOCK_NAME = "lock"
CUT_LOG_NAME = "log-cut-short"
"""Says why the log is known to be damaged, until that is a fact in the database."""
CONDEMNED_NAME = "to-be-set-aside"
"""Says why the database is known to be damaged, until it is set aside."""

_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600


class DataFolder:
    """One folder on a local disk, for one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / DATABASE_NAME
        self._lock: int | None = None
        self._log_index: int | None = None

    def take(self) -> None:
        """Makes the folder if need be and locks it. Raises FolderLocked or OSError."""
        _make_private(self.path)
        lock = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as refusal:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
            os.close(lock)
            if refusal.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise FolderLocked(
                f"process {holder or '(unknown)'} uses the data folder {self.path}; nothing was touched. "
                "Stop that process, or give this node another folder"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock

    def ensure_database_file(self) -> None:
        """Makes an empty database file that only its owner can read; SQLite gives its log the same permissions."""
        os.close(os.open(self.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE))
        _sync_folder(self.path)

    @property
    def log(self) -> Path:
        """The database's write-ahead log."""
        return self.path / f"{DATABASE_NAME}-wal"

    def find_cut_log(self) -> str | None:
        """Why SQLite will drop, or has dropped, commits from the log, if it does; None if not. Raises OSError.

        To be asked before SQLite opens the database, whose first write may overwrite the proof: so what is found is
        noted in a file of its own until `forget_cut_log`, however often the process dies meanwhile.
        """
        note = self.path / CUT_LOG_NAME
        if note.exists():
            return note.read_text(errors="replace") or "the write-ahead log was cut short by damage"
        reason = damage_of_log(self.log.read_bytes()) if self.log.exists() else None
        if reason is not None:
            _write_private(note, reason)
            _sync_folder(self.path)
        return reason

    def forget_cut_log(self) -> None:
        """The reason is kept elsewhere now."""
        (self.path / CUT_LOG_NAME).unlink(missing_ok=True)
        _sync_folder(self.path)

    def condemn(self, reason: str) -> None:
        """Notes that the database can't be used any more: the next to open it is told so. Raises OSError."""
        _write_private(self.path / CONDEMNED_NAME, reason)
        _sync_folder(self.path)

    @property
    def why_condemned(self) -> str | None:
        """The reason that was noted, if any was. Raises OSError."""
        note = self.path / CONDEMNED_NAME
        return note.read_text(errors="replace") if note.exists() else None

    def set_aside(self) -> Path:
        """Renames the database and all that belongs to it, so that a new one can be made; the database's new name.

        Raises FolderLocked or OSError. Nothing is deleted: what is in it may be the only copy of something.
        """
        self.take()
        try:
            if self.why_condemned is None:  # else half of it might be taken for a whole folder, if this is cut short
                with contextlib.suppress(OSError):  # no room
                    self.condemn("it is being set aside")
            number = next(n for n in count(1) if not (self.path / f"{DATABASE_NAME}.damaged-{n}").exists())
            log, log_index = f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm"
            for name in (DATABASE_NAME, log, log_index, CUT_LOG_NAME, CONDEMNED_NAME):
                if (self.path / name).exists():
                    (self.path / name).rename(self.path / f"{name}.damaged-{number}")
            _sync_folder(self.path)
        finally:
            self.release()
        return self.path / f"{DATABASE_NAME}.damaged-{number}"

    def reserve_log_index(self, size: int) -> None:
        """Takes room for the log's index, up to that size, while there is some; to be asked once SQLite has made it.

        SQLite extends it behind a commit that is on disk already: if there were no room for it then, that commit would
        fail in a way that nobody could tell the outcome of. The descriptor stays open until `release`, for closing it
        would drop the locks that SQLite holds on the file.
        """
        self._log_index = os.open(self.path / f"{DATABASE_NAME}-shm", os.O_RDWR | os.O_CLOEXEC)
        there = os.fstat(self._log_index).st_size
        with contextlib.suppress(OSError):  # full already: reading goes on, and writing may
            os.pwrite(self._log_index, bytes(max(0, size - there)), there)

    def release(self) -> None:
        """Lets others have the folder, which SQLite has closed before. Idempotent."""
        if self._log_index is not None:
            os.close(self._log_index)
            self._log_index = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _make_private(path: Path) -> None:
    """Makes the folder, or takes over an empty one, so that only its owner can enter.

    A folder that holds anything is left as it is: it may be the system's, and the files in it are private anyway.
    """
    if not path.exists():
        path.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        _sync_folder(path.parent)
    elif not any(path.iterdir()):
        with contextlib.suppress(PermissionError):  # another user's, lent to us
            path.chmod(_PRIVATE_FOLDER)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Makes the folder's entries durable: a file whose name is lost is lost."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
