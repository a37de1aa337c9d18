"""What nodes say to one another. Each request names the reply that grants it.

Encoded as msgpack arrays (msgspec), many to a frame (cluster/link/frames.py). The epoch of the topology that
the sender acts under stands once in each frame and holds for every message in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec

from cluster.protocol.changes import Change, Put, Settle
from cluster.protocol.lock_messages import (
    LockAcquire,
    LockAnswered,
    LockConfirm,
    LockEnded,
    LockLook,
    LockMuster,
    LockMustered,
    LockNoted,
    LockOffer,
    LocksLooked,
    LockStep,
    LockWaiting,
    LockWithdraw,
)
from cluster.protocol.repair_messages import (
    CompareEntries,
    CompareLeaves,
    CompareRoots,
    Confirm,
    EntriesCompared,
    Gate,
    Gated,
    Inventoried,
    Inventory,
    LeavesCompared,
    PartitionRepaired,
    PromiseRaised,
    Purge,
    Purged,
    RaisePromise,
    RepairPartition,
    RootsCompared,
)
from cluster.requests import Conflict, Overloaded, Unavailable, Unknown, Written
from storage.ballot import NONE, Ballot
from storage.engine import ScanEntry
from storage.record import Record

KEY_BYTES_MAX = 1_024
"""Applications and peers are held to it. A key stands in the request line, three characters a byte when escaped: two
of them fit aiohttp's 8,190."""
Key = Annotated[bytes, msgspec.Meta(min_length=1, max_length=KEY_BYTES_MAX)]

UNSEEN = -1
"""In place of a ballot: it is not known."""

# -- replies ---------------------------------------------------------------------------------------------------


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """A replica's record (without the value where only its ballots were asked for); None if it has none."""

    record: Record | None
    digest: bool
    """The value was left out."""


class Glimpsed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=30):
    """Under which ballots the keys' records are on this replica's disk, in the order asked."""

    ballots: list[int]
    """NONE for no record; UNSEEN where it could not be said at once: ask for that key alone."""


class Promised(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """The ballot is promised; this is the record accepted so far."""

    record: Record | None
    floor: Ballot = NONE
    """Where there is no record: nothing as old as this may come back."""


class Accepted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """The record is on this replica's disk. Says whether the next ballot was promised with it."""

    promised_next: bool


class Taken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=39):
    """What became of a volley: all of its records are on this replica's disk, but for those left out."""

    left: list[int]
    """Places of the accepts that this replica did not grant at once. Nothing is said of why: ask again, one by one."""
    unpromised: list[int]
    """Places of those that it granted without the promise of the next ballot."""


class PromisedMany(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """What became of a PrepareMany: all of its ballots are promised, but for those left out."""

    left: list[int]
    """Places of the keys that this replica did not promise, or of which it holds what bears fences. Nothing is said of
    why: ask again, one by one."""


class Refused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """A prepare or accept was below what the replica has promised or accepted."""

    promised: Ballot
    ballot: Ballot
    origin: Ballot
    weak: bool

    @property
    def highest(self) -> int:
        """The ballot that the next attempt has to be above."""
        return max(self.promised, self.ballot)


class Unfit(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """The replica can't take part for this key now, and says why; it changed nothing."""

    reason: str


class WrongEpoch(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=25):
    """The message came under another epoch; here is the newer topology. Nothing was changed."""

    epoch: int
    topology: bytes


class Lost(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=26):
    """No reply will come. Made on the asking side, never sent.

    sent tells whether the request may have reached the other node; if not, it surely had no effect.
    """

    sent: bool


class Settled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """What a Settle, or a Merge that found something newer, left on a majority."""

    record: Record | None
    replicas: tuple[str, ...]


Outcome = Written | Conflict | Unavailable | Overloaded | Unknown | Settled


class Forwarded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=27):
    """How a change ended that was handed to the primary."""

    outcome: Outcome


class Scanned(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=28):
    """A replica's keys in byte order; `complete` is False when it has more behind the last."""

    entries: list[ScanEntry]
    complete: bool


class Remembered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one member remembers of another: enough to notice that it has lost its memory."""

    incarnation: str
    """Of the folder that it last worked on as a full member."""
    commit_sequence: int
    """The highest that was heard from it before the run of its process that asks."""
    is_superseded: bool = False
    """Another run of its process came after the one that asks: two work on copies of one folder."""
    was_recovering: bool = False
    """Another run of its process had lost its memory, and was heard last while it learned it anew."""


class Alive(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=29):
    """The reply to a heartbeat."""

    wall_ms: int
    commit_sequence: int
    fitness: int = 0
    """What this node can do just now: the bits of membership/fitness.py."""
    remembered: Remembered | None = None
    """What this node remembers of the one that beats; None when it never heard of it."""
    ballot: Ballot = NONE
    """No ballot that this node gave out or was told of so far is above this one."""
    is_noted: bool = True
    """Whether this node has on its disk whose folder the one that beats works on, or worked on before. Until then it
    may forget that it was asked, and its word that it remembers nothing is no answer yet."""


# -- requests --------------------------------------------------------------------------------------------------


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Tell your record of this key, with its value or only its ballots."""

    grant: ClassVar[type] = Held
    key: Key
    value: bool


class Glance(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Tell the ballots of your records of these keys, as far as that takes no waiting."""

    grant: ClassVar[type] = Glimpsed
    keys: list[Key]


class Prepare(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Promise to accept nothing below this ballot."""

    grant: ClassVar[type] = Promised
    key: Key
    ballot: Ballot


class PrepareMany(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Prepares of different keys, each to be decided for itself, for puts that depend on nothing but fences."""

    grant: ClassVar[type] = PromisedMany
    prepares: list[Prepare]


class Accept(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Take this record, and promise next_ballot with it if that is not NONE."""

    grant: ClassVar[type] = Accepted
    key: Key
    record: Record
    next_ballot: Ballot
    yielding: bool = False
    """A weak write that steps back where a strong proposer is at work: see acceptor.py."""


class Volley(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Accepts of different keys, each to be decided for itself."""

    grant: ClassVar[type] = Taken
    accepts: list[Accept]


class Forward(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Be the proposer of this change. Dropped when it arrives with its time used up."""

    grant: ClassVar[type] = Forwarded
    key: Key
    change: Change
    needed: int
    budget_ms: int
    """Milliseconds left when it was sent."""


class ForwardMany(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Be the proposer of these puts: those of one batch that have this primary. Each is answered like a Forward of its
    own, when it has ended: the first under the number of this message, the others under those that follow it."""

    grant: ClassVar[type] = Forwarded
    puts: list[tuple[Key, Put]]
    needed: int
    budget_ms: int


class Scan(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Tell your keys from here on, tombstones included."""

    grant: ClassVar[type] = Scanned
    prefix: bytes
    after: bytes | None
    limit: int
    values: bool


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """I am here."""

    grant: ClassVar[type] = Alive
    wall_ms: int
    commit_sequence: int
    fitness: int = 0
    """As in Alive."""
    slot: int = -1
    """Of the node that beats."""
    incarnation: str = ""
    """Of the folder that it works on."""
    boot: int = 0
    """Drawn anew at each start: tells one run of its process from another (membership/peer_memory.py)."""


Request = (
    Read
    | Glance
    | Prepare
    | PrepareMany
    | Accept
    | Volley
    | Forward
    | ForwardMany
    | Scan
    | Heartbeat
    | CompareRoots
    | CompareLeaves
    | CompareEntries
    | Gate
    | Confirm
    | Purge
    | RaisePromise
    | Inventory
    | RepairPartition
    | LockAcquire
    | LockStep
    | LockWaiting
    | LockWithdraw
    | LockLook
    | LockConfirm
    | LockOffer
    | LockMuster
)
Reply = (
    Held
    | Glimpsed
    | Promised
    | PromisedMany
    | Accepted
    | Taken
    | Refused
    | Unfit
    | WrongEpoch
    | Forwarded
    | Scanned
    | Alive
    | RootsCompared
    | LeavesCompared
    | EntriesCompared
    | Gated
    | Purged
    | PromiseRaised
    | Inventoried
    | PartitionRepaired
    | LockEnded
    | LockNoted
    | LockAnswered
    | LockMustered
    | LocksLooked
)
Answer = Reply | Lost
"""What the asking side gets: a reply, or the news that none will come."""
ReplicaRequest = Read | Prepare | Accept


def parts_of(request: Request) -> int:
    """How many answers it gets, under as many numbers."""
    return len(request.puts) if type(request) is ForwardMany else 1


def refuse(request: Request, reply: Reply, respond: Callable[[int, Reply], None], token: int) -> None:
    """Answers all of its parts with this."""
    for part in range(parts_of(request)):
        respond(token + part, reply)


def is_harmless(request: Request) -> bool:
    """Whether the request may be granted to a node whose clock is off: it brings no ballot, and no write, of that one.

    Without heartbeats nobody would learn that the clock is right again.
    """
    kind = type(request)
    if kind is Forward:
        return type(request.change) is Settle  # type: ignore[union-attr]
    return kind is Heartbeat or kind is Read or kind is Glance or kind is Scan
