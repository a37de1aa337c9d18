"""What can go wrong with a shared file, beside what any storage can (storage/engine.py).

StorageError
├── FileUnusable    not ours, of a newer schema, on a network, or its settings did not take: nothing was touched
├── FileBusy        other processes hold it: nothing was read or written, and it may be tried again
├── EntryDamaged    a row or a page has changed on disk: nothing was written
├── FileFailed      the disk refused: nothing was written
├── DiskFull        no room: the transaction was undone
└── CommitFailed    a commit failed half way: what it carried may or may not be there
"""

from __future__ import annotations

from storage.engine import StorageError


class FileUnusable(StorageError):
    """This file can't be used as it is. Nothing was touched."""


class FileBusy(StorageError):
    """Other processes hold the file at this moment. Nothing was read or written."""


class EntryDamaged(StorageError):
    """What the file holds there has changed on disk. Nothing was written."""


class FileFailed(StorageError):
    """The disk, or the system, refused. Nothing was written."""
