"""Engine: what a node's durable memory must do, whatever it is made of.

Two implementations keep this contract and run through one suite (tests/contracts): SqliteEngine, and
MemoryEngine, its twin that can forget what was not committed. An engine knows rows, not protocols: it
writes what it is told to, unconditionally, and the acceptor above it decides.

Everything is asynchronous and nothing here blocks the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from storage.record import Record, ReplicaState


@dataclass(slots=True)
class Batch:
    """What one transaction writes: all of it or nothing."""

    states: dict[bytes, ReplicaState] = field(default_factory=dict)
    """The new state per key; replaces whatever was there."""
    keep: dict[tuple[bytes, int], Record] = field(default_factory=dict)
    """Records to keep aside until they are merged back, by (key, origin)."""
    forget: set[tuple[bytes, int]] = field(default_factory=set)
    """Kept-aside records that are settled and may go, by (key, origin). Never one that is in `keep` too."""
    facts: dict[str, bytes] = field(default_factory=dict)
    """Named facts about this node: its cluster, its topology, its clock ceiling."""


class Damaged(msgspec.Struct, frozen=True):
    """Stands where a state should be whose checksum does not match. It is never to be taken for an absence."""

    reason: str


class ScanEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One key of a scan: its record without the value unless values were asked for."""

    key: bytes
    record: Record
    size: int
    """Bytes of the value, 0 for a tombstone."""
    tombstone: bool


@dataclass(frozen=True, slots=True)
class ScanPage:
    """Keys in byte order. `complete` is False when there may be more behind the last."""

    entries: list[ScanEntry]
    complete: bool


class StorageError(Exception):
    """The root of what can go wrong below the acceptor.

    StorageError
    ├── FolderLocked       another process uses the folder: nothing was touched
    ├── FolderUnusable     not ours, of a newer schema, or its settings did not take: nothing was touched
    └── CommitFailed       a write may or may not be on disk: the process must end and read its disk anew
    """


class FolderLocked(StorageError):
    """Another process uses this data folder. Nothing was touched."""


class FolderUnusable(StorageError):
    """This data folder can't be used as it is. Nothing was touched."""


class CommitFailed(StorageError):
    """A commit or fsync failed: what it carried may or may not be on disk, so nothing in memory can be trusted."""


class Engine(Protocol):
    """The durable memory of one node. One engine per data folder, one writer at a time."""

    @property
    def incarnation(self) -> str:
        """32 hexadecimal digits, drawn when the folder was made: a new folder is a new member."""
        ...

    @property
    def commit_sequence(self) -> int:
        """How many transactions this folder has committed, over all restarts. Grows by one with each."""
        ...

    @property
    def facts(self) -> Mapping[str, bytes]:
        """The committed facts."""
        ...

    async def open(self) -> None:
        """Takes the folder, checks it and reads incarnation, sequence and facts.

        Raises FolderLocked or FolderUnusable.
        """
        ...

    async def write(self, batch: Batch) -> None:
        """Commits the batch as one transaction: durable on disk before it returns.

        Never called twice at once; the caller must not change the batch afterwards. Cancelling the awaiting
        task does not undo it: the transaction is finished. Raises CommitFailed, after which the engine
        refuses everything.
        """
        ...

    async def load(self, keys: Sequence[bytes]) -> dict[bytes, ReplicaState | Damaged]:
        """The committed state of each key; ReplicaState() for one never heard of.

        Each row's checksum has been verified; one that does not match is Damaged.
        """
        ...

    async def scan(
        self, prefix: bytes, after: bytes | None, limit: int, values: bool, value_bytes_max: int
    ) -> ScanPage:
        """Committed records whose key starts with prefix and comes behind `after`, in byte order.

        Tombstones are included, keys that have only a promise are not. At most `limit` entries, and no more
        than one entry past `value_bytes_max` bytes of values when values are asked for. Raises StorageError
        naming the key when a row's checksum does not match: a listing never shows, nor skips, a bad row.
        """
        ...

    async def kept_aside(self) -> dict[tuple[bytes, int], Record]:
        """All records kept aside, by (key, origin)."""
        ...

    async def close(self) -> None:
        """Finishes the write under way and releases the folder. Idempotent."""
        ...
