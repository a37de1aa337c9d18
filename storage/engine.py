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

from storage.record import Hint, Record, ReplicaState


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
    drop: set[bytes] = field(default_factory=set)
    """Keys whose rows go, promise and all. Never one that is in `states` too."""
    leaves: dict[int, int] = field(default_factory=dict)
    """The new sum of each leaf of the hash trees that changed, by the leaf's number (cluster/repair/hash_trees.py)."""
    leaves_are_all: bool = False
    """Whether `leaves` are all there are: a leaf that is not among them is empty from then on."""
    hints: dict[int, Hint] = field(default_factory=dict)
    """Hints to keep, by their number; replaces one of the same number. Numbers grow in order of arrival."""
    drop_hints: set[int] = field(default_factory=set)
    """Hints that may go. Never one that is in `hints` too."""


CUT_SHORT_FACT = "log_cut_short"
"""The fact that says why commits are lost, UTF-8. Whoever has recovered them writes it empty."""


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


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a row says of itself without its value."""

    key: bytes
    promised: int
    ballot: int
    """NONE where there is only a promise."""
    origin: int
    tombstone: bool
    """A deletion; False for a promise alone."""
    expires_at_ms: int
    fences: int = 0
    """What stands for its fences (fences.digest_of); 0 where it has none."""


@dataclass(frozen=True, slots=True)
class RowPage:
    """Rows of a range of the key space, in order of (place, key)."""

    rows: list[Row]
    complete: bool
    """False when the range has more behind the last of them."""


@dataclass(frozen=True, slots=True)
class HintPage:
    """Hints in order of arrival, with their numbers."""

    hints: dict[int, Hint]
    complete: bool
    """False when there are more behind the last of them; then there is at least one."""
    damaged: dict[int, str] = field(default_factory=dict)
    """Those among them whose checksum does not match, by number, and why: they can't be delivered, only dropped."""


class Rot(msgspec.Struct, frozen=True):
    """A row that a scrub found damaged."""

    row: int
    """Its number in the table, for `mend`.

    0 for one that is none of the replica's own: a record that is kept aside, or a hint. -1 where the pages themselves
    can't be read: nothing mends that but a new folder.
    """
    key: bytes | None
    """Whose it is; None where its own key has rotted and nothing else tells."""
    reason: str


@dataclass(frozen=True, slots=True)
class ScrubPage:
    """What one step of a scrub found."""

    checked: int
    """Rows looked at."""
    rotten: list[Rot]
    last: int | None
    """Where the next step goes on from; None when all rows have been looked at."""


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
    │   └── FolderDamaged  the database as a whole can't be trusted, or read: only a new one mends that
    ├── DiskFull           there is no room: the transaction was undone, and may be tried again
    ├── CantMend           damaged rows can't be removed: nothing was changed
    ├── PagesDamaged       what was asked for is on pages that can't be made sense of; other reads may go well
    └── CommitFailed       a write may or may not be on disk: the process must end and read its disk anew
        └── CommitMetDamage  and would fail again after that: the database is damaged, and needs a new one
    """


class FolderLocked(StorageError):
    """Another process uses this data folder. Nothing was touched."""


class FolderUnusable(StorageError):
    """This data folder can't be used as it is. Nothing was touched."""


class FolderDamaged(FolderUnusable):
    """The database in this folder has changed on disk so that no single record can be blamed. Nothing was touched."""


class DiskFull(StorageError):
    """There was no room for a transaction. Nothing of it is on disk; the same batch may be written once there is."""


class CantMend(StorageError):
    """Damaged rows can't be removed. Nothing was changed."""


class CommitFailed(StorageError):
    """A commit or fsync failed: what it carried may or may not be on disk, so nothing in memory can be trusted."""


class PagesDamaged(StorageError):
    """Pages of the database are malformed, so that nobody can tell what was on them."""


class CommitMetDamage(CommitFailed):
    """A commit failed over malformed pages, and would again."""


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

        Raises FolderLocked, FolderUnusable or FolderDamaged; that also for a folder that was condemned.
        """
        ...

    async def write(self, batch: Batch) -> None:
        """Commits the batch as one transaction: durable on disk before it returns.

        Never called twice at once; the caller must not change the batch afterwards. Cancelling the awaiting
        task does not undo it: the transaction is finished. Raises DiskFull, after which the same batch may be
        written again; or CommitFailed, after which the engine refuses everything.
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

    @property
    def was_cut_short(self) -> str | None:
        """Why this folder is known to have lost commits it once had; None if it is not.

        Found when it is opened, and kept over restarts as the fact CUT_SHORT_FACT until that is written empty.
        """
        ...

    @property
    def leaves(self) -> Mapping[int, int]:
        """The sums of the hash trees' leaves as they were when the folder was opened, by number; a leaf that is not
        there is empty, 0.
        """
        ...

    @property
    def leaves_are_lost(self) -> bool:
        """Whether the sums of the leaves on disk are damaged: then `leaves` is empty, and stays so over restarts.

        They come back with a batch whose leaves are all there are, summed up from `rows`; until then, the leaves of
        other batches are not written.
        """
        ...

    async def rows(self, first: int, behind: int, after: tuple[int, bytes] | None, limit: int) -> RowPage:
        """Committed rows, promises alone too, whose key's place (keyspace.hash_of) is from `first` up to `behind`.

        At most `limit` of them, those behind the (place, key) of `after`; at least one unless that is all. A damaged
        row is there with what can be read of it, if its key can be read and lies at its place; the scrub finds the
        others.
        """
        ...

    async def purgeable(self, first: int, behind: int, ballot_max: int, expired_before_ms: int) -> list[bytes]:
        """The keys in that range of the key space whose rows say nothing any more once all up to `ballot_max` is past.

        Tombstones, values that expired before that Unix time in milliseconds, and promises alone; each with neither
        its ballot nor its promise above `ballot_max`. None that has fences: those outlive their key.
        """
        ...

    async def hints(self, after: int, limit: int, value_bytes_max: int) -> HintPage:
        """Hints with numbers above `after`, in order: at most `limit`, no more than one past so many bytes of value."""
        ...

    async def scrub(self, after: int, limit: int) -> ScrubPage:
        """Looks at the next rows of the table, by number: their checksums, and whether each is found by key and place.

        Starts from 0, and goes on from `last`. The last step looks at what is kept aside and at the hints, too. Where
        damage hides how the rows go on, some may be reported twice.
        """
        ...

    async def mend(self, rows: Sequence[int]) -> None:
        """Removes those of these rows that are still damaged, and makes the indexes anew. Their keys load as never
        heard of; but a row that is sound and that only an index had lost stays, and is found again.

        The caller has seen to it that they take part in nothing until they are recovered, and loads them anew. Numbers
        below 1 are passed over. Reads the whole table, and nothing is written meanwhile: better once for many rows.
        Like `write`, never while one is under way. Raises CantMend or DiskFull, which changed nothing; or CommitFailed.
        """
        ...

    async def reclaim(self, bytes_max: int) -> int:
        """Gives up to about so many bytes that deleted rows left behind back to the file system; how many it gave.

        A log that has grown is emptied, too. Like `write`, never while one is under way. Raises DiskFull, which
        changed nothing, for moving pages takes room for a moment; or CommitFailed.
        """
        ...

    def free_bytes(self) -> tuple[int, int]:
        """Bytes free for this user, and in all, on the disk that holds the folder."""
        ...

    def condemn(self, reason: str) -> None:
        """Notes in the folder that its database is damaged: whoever opens it next is raised FolderDamaged.

        Short, and of use whatever state the engine is in. Raises OSError.
        """
        ...

    async def close(self) -> None:
        """Finishes the write under way and releases the folder. Idempotent."""
        ...
