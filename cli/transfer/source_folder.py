"""The folder that an import reads: which files it has, what keys they become, and their bytes.

Nothing is followed and nothing is written: a symbolic link may lead out of the folder or in circles, and opening
a pipe would wait for ever, so both are told instead of read.
"""

from __future__ import annotations

import mimetypes
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cli.data.values import TooLarge, read_limited

DEFAULT_CONTENT_TYPE = "application/octet-stream"
_TYPES = mimetypes.MimeTypes()  # the built-in table alone: the same type for a name on every machine


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file, by the key it becomes."""

    key: str
    path: str

    @property
    def content_type(self) -> str:
        """Guessed from the name's ending; compressed files are just bytes."""
        kind, encoding = _TYPES.guess_type("name" + PurePosixPath(self.path).suffix)
        return kind if kind is not None and encoding is None else DEFAULT_CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that was left out, and why."""

    path: str
    reason: str


def printable(path: str) -> str:
    """A path as people can read it, even when it is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def files_below(folder: Path, prefix: str) -> Iterator[SourceFile | Trouble]:
    """Every file below the folder, in order, and every entry that can't become a key."""
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(folder / inside) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Trouble(printable(inside or "."), f"can't be read: {error.strerror}")
            continue
        folders = []
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            else:
                yield _judged(entry, path, prefix)
        waiting.extend(reversed(folders))


def _judged(entry: os.DirEntry[str], path: str, prefix: str) -> SourceFile | Trouble:
    if entry.is_symlink():
        return Trouble(printable(path), "a symbolic link: not followed")
    if not entry.is_file(follow_symlinks=False):
        return Trouble(printable(path), "no regular file")
    try:
        path.encode()
    except UnicodeEncodeError:
        return Trouble(printable(path), "its name is not UTF-8, and keys are")
    return SourceFile(prefix + path, path)


def read_file(folder: Path, file: SourceFile) -> bytes | Trouble:
    """The file's bytes, or why there are none."""
    try:
        # NOFOLLOW and NONBLOCK: it may have become a link or a pipe since it was listed.
        descriptor = os.open(folder / file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as source:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return Trouble(file.path, "no regular file")
            return read_limited(source)
    except OSError as error:
        return Trouble(file.path, f"can't be read: {error.strerror}")
    except TooLarge as error:
        return Trouble(file.path, str(error))
