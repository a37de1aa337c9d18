"""The folder that an export writes: every file appears whole or not at all, and nothing outside is ever touched.

Keys come from strangers. Each step of a path is opened below the one before and never through a symbolic link,
so no key can lead out of the folder. A new file has no name until it is complete; one that replaces another is
written beside it under a name that follows from its own, so that even what a killed export left there is used
up by the next.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cli.errors import CommandFailed

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def unsafe_because(path: str) -> str | None:
    """Why this can't be a path below a folder, None when it can."""
    if path == "":
        return "nothing is left of it without the prefix"
    if path.startswith("/"):
        return "it would be an absolute path"
    parts = path.split("/")
    if "" in parts:
        return "it has an empty part between its slashes"
    if "." in parts or ".." in parts:
        return "it has a part that is . or .."
    return None


def folders_of(paths: Iterable[str]) -> set[str]:
    """Every folder that these paths need."""
    return {path[:at] for path in paths for at, sign in enumerate(path) if sign == "/"}


class TargetFolder:
    """A folder that one export at a time writes to. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = -1

    def __enter__(self) -> TargetFolder:
        """Makes the folder and takes it. Raises CommandFailed when it can't."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._root = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandFailed(f"another export is writing to {self._folder}") from error
        except OSError as error:
            raise CommandFailed(f"{self._folder} can't be written to: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def store(self, path: str, value: bytes) -> bool:
        """Makes the file hold these bytes. False when it already did. Raises OSError.

        `path` is one that unsafe_because() has nothing against. Safe to call from several threads.
        """
        *folders, name = path.split("/")
        with self._opened(folders) as folder:
            if _holds(folder, name, value):
                return False
            if not _linked_new(folder, name, value):
                _replace(folder, name, value)
        return True

    @contextmanager
    def _opened(self, folders: list[str]) -> Iterator[int]:
        """The folder at the end of these steps; made where it is missing."""
        current = os.dup(self._root)
        try:
            for step in folders:
                with suppress(FileExistsError):
                    os.mkdir(step, dir_fd=current)
                below = os.open(step, _FOLDER, dir_fd=current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)


def _holds(folder: int, name: str, value: bytes) -> bool:
    """Whether the file is there with these bytes. Raises OSError when something that is no file is in the way."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        return False
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise FileExistsError(0, "something that is no regular file is in the way")
        return found.st_size == len(value) and file.read() == value


def _linked_new(folder: int, name: str, value: bytes) -> bool:
    """Writes a file without a name and then gives it one. False where that can't be done here."""
    if not hasattr(os, "O_TMPFILE"):
        return False
    try:
        descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder)
    except OSError:  # a file system without nameless files
        return False
    with open(descriptor, "wb") as file:
        file.write(value)
        file.flush()
        try:
            os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)
        except OSError:  # it exists, or there is no /proc
            return False
    return True


def _replace(folder: int, name: str, value: bytes) -> None:
    """Writes the file beside its place and moves it there."""
    beside = ".kvstore-export-" + hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    try:
        descriptor = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder
        )
        with open(descriptor, "wb") as file:
            file.write(value)
        os.replace(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=folder)
        raise
