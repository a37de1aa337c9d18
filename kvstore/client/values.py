"""What a client is given and gives: values, receipts, locks as they stand, operations of a batch.

All of it is frozen, compares by what it holds and can be handed to other threads and processes.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from kvstore.errors import KvstoreError

Consistency = Literal["strong", "weak", "eventual"]
"""How much agreement a request pays for."""
Count = int | Literal["one", "quorum", "all"]
"""How many replicas must answer a read (`r`) or have a write on disk (`w`)."""


class Receipt(msgspec.Struct, frozen=True):
    """What an answer says about itself."""

    level: str | None = None
    """The level that it was given at."""
    n: int | None = None
    """Replicas of the key."""
    needed: int | None = None
    """How many of them had to stand behind the answer."""
    acks: int | None = None
    """How many did."""
    replicas: tuple[str, ...] = ()
    """Which."""
    coordinator: str | None = None
    """The node that answered."""
    epoch: int | None = None
    """The topology it was answered under."""
    age: float | None = None
    """Of a weak or eventual read: seconds since the version was written."""
    hinted: bool = False
    """The write is kept for replicas that are away, or to be merged back."""


class Value(msgspec.Struct, frozen=True):
    """What a key holds."""

    key: str
    value: bytes
    version: str
    """Names the write; `if_match` and compare_and_set take it."""
    content_type: str
    expires_in: float | None = None
    """Seconds it lasts, counted from when it was read; None is for ever."""
    receipt: Receipt | None = None

    @property
    def text(self) -> str:
        """The value as UTF-8 text. Raises UnicodeDecodeError where it is none."""
        return self.value.decode()


class Written(msgspec.Struct, frozen=True):
    """A write that is done."""

    key: str
    version: str
    """Of what was written; of the deletion, where it deletes."""
    level: str
    acks: int
    """Replicas that had it on disk when the answer was sent."""
    replicas: int
    """Replicas of the key."""
    receipt: Receipt | None = None


class Entry(msgspec.Struct, frozen=True):
    """A key in a listing."""

    key: str
    version: str
    size: int
    """Bytes of its value."""
    content_type: str
    value: bytes | None = None
    """None where the listing was not asked for values."""
    expires_in: float | None = None

    @property
    def text(self) -> str | None:
        """The value as UTF-8 text, where it was asked for. Raises UnicodeDecodeError where it is none."""
        return None if self.value is None else self.value.decode()


class Page(msgspec.Struct, frozen=True):
    """A part of a listing, as a store has it."""

    entries: tuple[Entry, ...]
    next: str | None
    """What `after` takes for the part that follows; None on the last."""


class Fence(msgspec.Struct, frozen=True):
    """A number that a lock gave with a grant; it grows with each. A key that has seen a higher one refuses it."""

    lock: str
    fence: int


class Fencing(Protocol):
    """A lock or an election that is held: reads and writes may be given it in place of its fence."""

    @property
    def fenced(self) -> Fence:
        """Its fence. Raises LockLost when it is not held any more."""
        ...


class Lease(msgspec.Struct, frozen=True):
    """A grant of a lock."""

    name: str
    owner: str
    token: str
    """The secret that proves the holder."""
    fence: int
    ttl: float
    """Seconds that it lasts without a renewal."""

    def __repr__(self) -> str:
        return f"Lease(name={self.name!r}, owner={self.owner!r}, fence={self.fence}, ttl={self.ttl:g})"


class Holder(msgspec.Struct, frozen=True):
    """One that holds a lock, as others see it."""

    owner: str
    fence: int
    ttl: float
    expires_in: float | None = None


class LockInfo(msgspec.Struct, frozen=True):
    """A lock that is held, as others see it."""

    name: str
    holder: str
    """The owner that holds it; the first, where several do."""
    fence: int
    ttl: float
    """Seconds that the lease lasts without a renewal."""
    expires_in: float | None
    """Seconds until it may be taken over, if it is not renewed; None where that is not known."""
    waiters: int
    permits: int = 1
    """How many may hold it at once."""
    holders: tuple[Holder, ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """What a vote decided, once and for ever."""

    name: str
    winner: str
    """The candidate that won."""
    value: Any
    """What the winner proposed; JSON."""
    is_new: bool
    """Whether this very proposal decided it; False where it was decided before, and where it was only asked for."""
    decided_at: str | None = None
    """When, as RFC 3339 has it, in UTC."""


class Leader(msgspec.Struct, frozen=True):
    """Who leads, as others see it."""

    name: str
    leader: str
    term: int
    """Grows with each leader; it is the fence of the lock of that name."""


class Put(msgspec.Struct, frozen=True):
    """Writes a value, in a batch."""

    key: str
    value: bytes | str
    if_match: str | None = None
    create: bool = False
    fence: Fence | Fencing | None = None
    ttl: float | None = None
    content_type: str | None = None


class Get(msgspec.Struct, frozen=True):
    """Reads a key, in a batch."""

    key: str
    fence: Fence | Fencing | None = None


class Delete(msgspec.Struct, frozen=True):
    """Deletes a key, in a batch."""

    key: str
    if_match: str | None = None
    fence: Fence | Fencing | None = None


Operation = Put | Get | Delete
Results = list[Value | Written | KvstoreError | None]
"""Of a batch: one for each operation, in order."""
LockInfos = list[LockInfo]


def fence_of(fence: Fence | Fencing | None) -> Fence | None:
    """The fence itself. Raises LockLost for a lock that is not held any more."""
    return fence if fence is None or isinstance(fence, Fence) else fence.fenced
