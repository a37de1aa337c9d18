"""Changes: the functions that CASPaxos applies to a key's record.

Rystsov, "CASPaxos: Replicated State Machines without logs" (2018), section 2.2: a client submits a function;
the proposer applies it to the newest record of a majority and proposes what comes out. Ours travel between
nodes, so each is a value with an `apply` that is a pure function of the record.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.requests import ALWAYS, FENCES_MAX, Condition, Conflict, Fence
from storage.ballot import unix_ms_of
from storage.fences import joined
from storage.record import Number, Record


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
        if self.fence is None or base is None or base.fences is None:
            return 0
        return base.fences.get(self.fence.lock, 0)

    def is_one_too_many(self, base: Record | None) -> bool:
        """Whether the key would bear the fence of one lock more than it may."""
        if self.fence is None or base is None or base.fences is None:
            return False
        return self.fence.lock not in base.fences and len(base.fences) >= FENCES_MAX

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
    """Change nothing: leave the newest record on a majority, whatever it is; of an expired value the tombstone."""

    renew: bool = False
    """Propose the record again even where a majority agrees on it: brings a replica along that a promise, whose
    proposer has died, keeps from taking a repair."""
    now_ms: Number = 0
    """The reader's clock, by which the value may have expired; 0 leaves it to the primary's."""

    def apply(self, base: Record | None, ballot: int) -> Record | None:
        """Always None: there is nothing to propose but what is there."""
        return None


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


Change = Put | Merge | Settle
SETTLE = Settle()
RENEW = Settle(renew=True)
