"""Changes: the functions that CASPaxos applies to a key's record.

Rystsov, "CASPaxos: Replicated State Machines without logs" (2018), section 2.2: a client submits a function;
the proposer applies it to the newest record of a majority and proposes what comes out. Ours travel between
nodes, so each is a value with an `apply` that is a pure function of the record.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.requests import ALWAYS, FENCES_MAX, Condition, Conflict, Fence
from storage.ballot import NONE, unix_ms_of
from storage.fences import joined
from storage.record import Number, Record

OLDEST = NONE + 1
"""The lowest ballot that there is: every write's is above it."""


class Put(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Write this value (None deletes) where the condition holds, and no higher fence was seen."""

    value: bytes | None
    content_type: str
    condition: Condition = ALWAYS
    expires_at_ms: Number = 0
    """When the value expires, in Unix milliseconds; 0 is never."""
    now_ms: Number = 0
    """The coordinator's clock when it decided to write: what had expired by then is absent for this write."""
    fence: Fence | None = None

    def apply(self, base: Record | None, ballot: int) -> Record | None:
        """The record to propose under this ballot, or None when the condition does not hold or the fence is too low."""
        if not self.condition.holds(base):
            return None
        fences = base.fences if base is not None else None
        if self.fence is not None:
            if self.highest_seen(base) > self.fence.number or self.is_one_too_many(base):
                return None
            fences = joined(fences, {self.fence.lock: self.fence.number})
        return Record(ballot, ballot, False, self.value, self.content_type, self.expires_at_ms, fences)

    def highest_seen(self, base: Record | None) -> int:
        """The highest fence of this write's lock that the key has seen; 0 for none."""
        return 0 if self.fence is None else highest_seen(base, self.fence)

    def is_one_too_many(self, base: Record | None) -> bool:
        """Whether the key would bear the fence of one lock more than it may."""
        return self.fence is not None and is_one_too_many(base, self.fence)

    def conflict(self, settled: Record | None, replicas: tuple[str, ...]) -> Conflict:
        """Why it was not applied to this record, which is on a majority, and so are its fences."""
        is_there = settled is not None and settled.value is not None
        version = settled.origin if settled is not None and is_there else None
        seen = self.highest_seen(settled)
        if self.fence is not None and seen > self.fence.number:
            return Conflict(version, len(replicas), replicas, fence=seen)
        is_full = self.condition.holds(settled) and self.is_one_too_many(settled)
        return Conflict(version, len(replicas), replicas, is_full=is_full)


class Merge(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Bring a weak write that was refused or pushed out back in, under its own origin.

    An origin only grows along the history of a key, so merging the same write twice changes nothing.
    """

    record: Record

    def apply(self, base: Record | None, ballot: int) -> Record | None:
        """The weak write under a new ballot, or None when the key holds something newer."""
        if base is None:
            return self.record.under(ballot, weak=True)
        if base.origin >= self.record.origin:
            return None
        return self.record.under(ballot, weak=True).bearing(base.fences)


class Settle(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Leave the value as it is: the newest record on a majority, whatever it is; of an expired value the tombstone."""

    renew: bool = False
    """Propose the record again even where a majority agrees on it: brings a replica along that a promise, whose
    proposer has died, keeps from taking a repair."""
    now_ms: Number = 0
    """The reader's clock, by which the value may have expired; 0 leaves it to the primary's."""
    fence: Fence | None = None
    """That of a reader who holds a lock: the key is to remember it, so that no earlier holder writes from now on."""

    def apply(self, base: Record | None, ballot: int) -> Record | None:
        """Always None: there is nothing to propose but what is there."""
        return None

    def marked(self, base: Record | None, ballot: int, floor: int) -> Record | None:
        """What is there, bearing the fence; itself (`is`) where it does, has seen a higher one, or can take no more.

        A key that holds nothing is given a tombstone, to bear it. That is no write of anybody's, so it is older than
        all that are under way or kept aside, and they go over it. But it is as old as the floor: what was deleted for
        good would else come back over it.
        """
        fence = self.fence
        if fence is None or highest_seen(base, fence) >= fence.number or is_one_too_many(base, fence):
            return base
        if base is None:
            base = Record(ballot, max(floor, OLDEST), False, None)
        return base.bearing({fence.lock: fence.number})

    def is_remembered(self, settled: Record | None) -> bool:
        """Whether what was settled bears the reader's fence, and no higher one of that lock."""
        return self.fence is not None and highest_seen(settled, self.fence) == self.fence.number

    def conflict(self, settled: Record | None, replicas: tuple[str, ...]) -> Conflict | None:
        """Why the reader must not go by this record, which is on a majority, and so are its fences; None if it may."""
        if self.fence is None or self.is_remembered(settled):
            return None
        version = settled.origin if settled is not None and settled.value is not None else None
        seen = highest_seen(settled, self.fence)
        if seen > self.fence.number:
            return Conflict(version, len(replicas), replicas, fence=seen)
        return Conflict(version, len(replicas), replicas, is_full=True)


class Compute:
    """Write what a function makes of the value; None leaves it alone. Never travels: its proposer is this node.

    For registers (cluster/locks/register.py), whose functions are too many to be given names here.
    """

    __slots__ = ("_content_type", "_function", "_now_ms")
    now_ms = 0

    def __init__(self, function: Callable[[bytes | None, int], bytes | None], now_ms: int, content_type: str) -> None:
        """now_ms: this node's clock. The function is told of the later of it and the ballot's time: a prepared ballot
        may be a minute old."""
        self._function, self._now_ms, self._content_type = function, now_ms, content_type

    def apply(self, base: Record | None, ballot: int) -> Record | None:
        """The record to propose under this ballot, or None when the function leaves the value alone."""
        value = self._function(base.value if base is not None else None, max(self._now_ms, unix_ms_of(ballot)))
        if value is None:
            return None
        return Record(ballot, ballot, False, value, self._content_type, 0, base.fences if base is not None else None)


def highest_seen(base: Record | None, fence: Fence) -> int:
    """The highest fence of that lock that the key has seen; 0 for none."""
    if base is None or base.fences is None:
        return 0
    return base.fences.get(fence.lock, 0)


def is_one_too_many(base: Record | None, fence: Fence) -> bool:
    """Whether the key would bear the fence of one lock more than it may."""
    if base is None or base.fences is None:
        return False
    return fence.lock not in base.fences and len(base.fences) >= FENCES_MAX


Change = Put | Merge | Settle
SETTLE = Settle()
RENEW = Settle(renew=True)
