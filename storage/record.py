"""What a replica holds of one key: a Record, and beside it the promise (ReplicaState).

A Record is a value or a tombstone with the ballot under which it was accepted here and the origin under
which it was first proposed. The origin stays when the record is proposed again under a newer ballot: it
is what applications see as the version.

Both are immutable. Whoever holds one may keep it, share it and send it without copying.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from storage.ballot import NONE, Ballot
from storage.fences import Fences, joined

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""What fits a column of the database."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value or a tombstone, as one replica accepted it."""

    ballot: Ballot
    """Accepted under this ballot."""
    origin: Ballot
    """The ballot under which this value was first proposed: the version that applications see."""
    weak: bool
    """Written by a weak or eventual request, without prepare."""
    value: bytes | None
    """The bytes, or None for a tombstone."""
    content_type: str = ""
    """Media type as the writer gave it; empty for a tombstone."""
    expires_at_ms: Number = 0
    """Unix milliseconds from which the value counts as a tombstone; 0 is never."""
    fences: dict[str, Number] | None = None
    """Highest fence seen, per lock name; None is no fence. They are the key's, not the write's: whatever it holds, they
    only grow, and outlive it."""

    def under(self, ballot: int, weak: bool) -> Record:
        """The same write, proposed again under another ballot: origin and value stay."""
        return Record(ballot, self.origin, weak, self.value, self.content_type, self.expires_at_ms, self.fences)

    def without_value(self) -> Record:
        """The same ballots with no value: what a reader needs of a replica whose value it will not use."""
        return Record(self.ballot, self.origin, self.weak, None, self.content_type, self.expires_at_ms, self.fences)

    def deleted(self) -> Record:
        """The tombstone that an expired value becomes: of the same write, so its origin stays, and so do its fences."""
        return Record(self.ballot, self.origin, self.weak, None, "", 0, self.fences)

    def bearing(self, fences: Fences | None) -> Record:
        """The same with these fences joined to its own; itself (`is`) where they add nothing."""
        together = joined(self.fences, fences)
        if together is self.fences:
            return self
        return Record(self.ballot, self.origin, self.weak, self.value, self.content_type, self.expires_at_ms, together)

    def without_fences(self) -> Record:
        """The write alone, without what the key has seen; itself (`is`) where that is nothing."""
        if self.fences is None:
            return self
        return Record(self.ballot, self.origin, self.weak, self.value, self.content_type, self.expires_at_ms)

    def is_expired(self, now_ms: int) -> bool:
        """Whether its value counts as a tombstone at that Unix time in milliseconds."""
        return 0 < self.expires_at_ms <= now_ms


class ReplicaState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All that a replica remembers of one key: what Paxos calls the state of an acceptor.

    A key that was never heard of is ReplicaState(): no promise, no record.
    """

    promised: Ballot = NONE
    """No ballot below this is accepted."""
    record: Record | None = None
    """The record accepted last; its ballot never exceeds `promised`."""
    floor: Ballot = NONE
    """For a key that is not held: whatever it held up to this ballot is deleted for good. Not on disk per key, but per
    partition; NONE where there is a record."""

    @property
    def ballot(self) -> int:
        """The ballot accepted last, NONE when there is no record."""
        return self.record.ballot if self.record is not None else NONE

    @property
    def origin(self) -> int:
        """The origin of the record; where there is none, the floor: nothing as old may come back."""
        return self.record.origin if self.record is not None else self.floor


class Hint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A weak write kept on disk for replicas that could not be reached."""

    key: bytes
    record: Record
    targets: tuple[int, ...]
    """The slots of the replicas that are still to have it."""
    sole: bool
    """No home replica has acknowledged it: this may be its only copy, and it is never dropped unsent."""
