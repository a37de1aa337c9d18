"""What replicas say to one another to become equal: comparing, purging, recovering. Part of messages.py.

A partition is numbered 0..P-1, a leaf 0..P*LEAVES-1 (cluster/repair/hash_trees.py). Sums and digests are 64 bits,
big-endian where many stand in one string of bytes.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from storage.ballot import Ballot
from storage.engine import Row

# -- anti-entropy ----------------------------------------------------------------------------------------------


class RootsCompared(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=31):
    """Which of the partitions asked about differ here, and floors that stand higher here than the asker said."""

    differing: list[int]
    floors: list[tuple[int, Ballot]]


class LeavesCompared(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """The leaves, by number, whose sums differ here."""

    leaves: list[int]


class EntriesCompared(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=33):
    """What differs within some leaves."""

    missing: bytes
    """Digests that the asker named and nothing here has."""
    rows: list[Row]
    """Rows here that the asker did not name; the first of them where they are many."""


class CompareRoots(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Are these your sums, too? With the asker's own floors."""

    grant: ClassVar[type] = RootsCompared
    slot: int
    """Of the node that asks."""
    roots: list[tuple[int, int]]
    """(partition, sum of the whole of it)"""
    floors: list[tuple[int, Ballot]]
    differed: list[int] | None = None
    """The partitions in which keys differed when the asker last compared them with you; None if it never did."""


class CompareLeaves(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Which leaves of this partition have other sums with you?"""

    grant: ClassVar[type] = LeavesCompared
    partition: int
    sums: bytes


class CompareEntries(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """What differs in these leaves? Here are the digests of all that I hold in them."""

    grant: ClassVar[type] = EntriesCompared
    first: int
    """The first leaf."""
    count: int
    """How many there are from it on, all of one partition."""
    digests: bytes


class PartitionRepaired(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=38):
    """What a comparison of one partition on all its replicas found, and what became of it."""

    slot: int
    """Of the replica that compared itself with the others."""
    differed: int
    """Keys that were not the same on all replicas that could be asked."""
    fetched: int
    """Records that the comparing node took over from others."""
    sent: int
    """Records that others took over from it."""
    left: int
    """Keys that still differ: refused, or changed meanwhile."""
    bytes_moved: int
    """Of messages, both ways."""
    unreachable: list[int]
    """The slots that could not be asked."""


class RepairPartition(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """Compare this partition with its other replicas now, and bring them together."""

    grant: ClassVar[type] = PartitionRepaired
    partition: int
    budget_ms: int


# -- deleting for good -----------------------------------------------------------------------------------------


class Gated(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=34):
    """Whether nothing as old as the floor is kept aside, hinted or under way on this member, nor has been since it
    was gated."""

    is_clear: bool
    reason: str = ""
    """In words, where it is not."""
    purgeable: int = 0
    """Rows of this replica that would go, when the gate was put up."""


class Gate(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """From now on begin nothing at or below this ballot in this partition."""

    grant: ClassVar[type] = Gated
    partition: int
    floor: Ballot


class Confirm(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """Has the gate held?"""

    grant: ClassVar[type] = Gated
    partition: int
    floor: Ballot


class Purged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=35):
    """The floor is on disk, and what lay below it is gone."""

    rows: int
    """How many that were."""


class Purge(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """All replicas are equal up to this floor, and nobody keeps anything as old: raise yours to it."""

    grant: ClassVar[type] = Purged
    partition: int
    floor: Ballot


# -- recovering a replica that lost its memory -----------------------------------------------------------------


class PromiseRaised(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=36):
    """Every key of the partition has that promise here, or a higher one."""

    floor: Ballot
    """Up to here what is absent here is deleted for good."""


class RaisePromise(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """Promise this ballot for every key of this partition: the prepare of a round over all of them."""

    grant: ClassVar[type] = PromiseRaised
    partition: int
    ballot: Ballot


class Inventoried(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=37):
    """A page of what this replica holds of a partition, committed."""

    rows: list[Row]
    complete: bool


class Inventory(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """What do you hold of this partition? In order of (place, key), from behind `after` on."""

    grant: ClassVar[type] = Inventoried
    partition: int
    after: tuple[int, bytes] | None
    limit: int
