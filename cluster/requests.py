"""What the layer above asks of the coordinator, and what it is told: requests and outcomes.

Outcomes are values, not exceptions: that a majority was lost is no accident but an answer. Each says by its
type whether the write is applied, surely not applied, or unknown; nothing else may be concluded from it.

    WriteOutcome            applied?
    ├── Written             yes
    ├── Conflict            no: the condition was false at a settled value, or the key has seen a higher fence
    ├── BadFence            no: the lock never granted that fence
    ├── Unavailable         no: too few replicas, known before anything was sent
    ├── Overloaded          no: too many requests wait already
    ├── NoRoom              no: the disk of the node that was asked is full
    └── Unknown             may be, now or later

    ReadOutcome, ListOutcome
    ├── Found / Listed
    ├── Unavailable         too few replicas were reachable
    ├── Overloaded
    ├── TimedOut            they did not answer in time
    │                       a read that bears a fence, besides:
    ├── Conflict            the key has seen a higher one, or can take no more
    └── BadFence            the lock never granted it
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from cluster.levels import Level
from storage.engine import ScanEntry
from storage.record import Number, Record


class ConditionKind(IntEnum):
    """When a strong write may be applied."""

    ALWAYS = 0
    IF_VERSION = 1
    """Only over the value with this very version."""
    IF_EXISTS = 2
    IF_ABSENT = 3


class Condition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The condition of a write: checked and applied in one atomic step."""

    kind: ConditionKind = ConditionKind.ALWAYS
    version: int = 0

    def holds(self, base: Record | None) -> bool:
        """Whether the write may go over this record; a tombstone counts as absent."""
        present = base is not None and base.value is not None
        if self.kind == ConditionKind.ALWAYS:
            return True
        if self.kind == ConditionKind.IF_VERSION:
            return present and base is not None and base.origin == self.version
        return present == (self.kind == ConditionKind.IF_EXISTS)


ALWAYS = Condition()

FENCES_MAX = 100
"""Locks whose fences one key bears. They are with every promise, accept and row of the key: names of the longest kind
make 26 KB of them. Where more than a few locks guard one key, their names are made up anew each time."""


class Fence(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a write or a read bears that is made under a lock: a key that has seen a higher number of it refuses it."""

    lock: str
    number: Number


class WriteRequest(msgspec.Struct, frozen=True, gc=False):
    """One put or delete."""

    key: bytes
    value: bytes | None
    """None deletes."""
    content_type: str
    level: Level
    needed: int
    """Replicas that must have it on disk, from levels.quorum_size."""
    timeout_s: float
    condition: Condition = ALWAYS
    """Anything but ALWAYS at the strong level only."""
    ttl_ms: int = 0
    """How long the value lasts, from when the coordinator begins; 0 is for ever."""
    fence: Fence | None = None
    """At the strong level only."""

    def with_value(self, value: bytes) -> WriteRequest:
        """The same put of this value."""
        return WriteRequest(
            self.key,
            value,
            self.content_type,
            self.level,
            self.needed,
            self.timeout_s,
            self.condition,
            self.ttl_ms,
            self.fence,
        )

    def expires_at_ms(self, now_ms: int) -> int:
        """When the value expires, in Unix milliseconds, if the request is begun now; 0 is never."""
        return now_ms + self.ttl_ms if self.ttl_ms and self.value is not None else 0


class ReadRequest(msgspec.Struct, frozen=True, gc=False):
    """One get."""

    key: bytes
    level: Level
    needed: int
    """Replicas that must answer, from levels.quorum_size; under a fence: that must have it on disk."""
    timeout_s: float
    fence: Fence | None = None
    """The key is to remember it before the answer. At the strong level only."""


class ListRequest(msgspec.Struct, frozen=True, gc=False):
    """One page of keys."""

    prefix: bytes
    after: bytes | None
    limit: int
    values: bool
    level: Level
    needed: int
    timeout_s: float


class Found(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A read's answer. record is None, or a tombstone, where there is no value."""

    record: Record | None
    acks: int
    """Replicas that answered in time to stand behind this."""
    replicas: tuple[str, ...]
    """Their names."""


class Written(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The write is applied, or a newer weak write has superseded it already."""

    version: int
    acks: int
    """Replicas that had it on disk when the answer was sent; 1 where only the node that was asked has it, as a hint."""
    replicas: tuple[str, ...]
    hinted: bool = False
    """Whether the node that was asked keeps it on its disk for home replicas that are away, or to be merged back."""


class Conflict(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """The condition did not hold, or the key has seen a higher fence, which is told first.

    What was seen is on a majority.
    """

    version: int | None
    """None where there is no value."""
    acks: int
    replicas: tuple[str, ...]
    fence: int | None = None
    """The highest fence of that lock that the key has seen, where that was the reason."""
    is_full: bool = False
    """Whether the key bears the fences of FENCES_MAX other locks, and that was the reason."""


class BadFence(msgspec.Struct, frozen=True, gc=False):
    """The lock never granted that fence; surely not applied, for nothing was sent."""

    highest: int
    """The highest that it granted; 0 where it never granted any."""


class Unavailable(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Too few replicas; surely not applied."""

    needed: int
    got: int
    replicas: tuple[str, ...]
    reason: str = ""
    """In words, where it is the node that was asked that can't do it now: what is wrong, and what to do."""


class Overloaded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Too much waits already; surely not applied. Worth trying again after retry_after_s."""

    retry_after_s: float


class NoRoom(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The disk of the node that was asked is full, and it says so in words; surely not applied."""

    reason: str


class Unknown(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """The write may be applied, now or later, under `version` if one was given to it."""

    needed: int
    got: int
    replicas: tuple[str, ...]
    version: int | None


class TimedOut(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A read that got too few answers in time."""

    needed: int
    got: int
    replicas: tuple[str, ...]


class Listed(msgspec.Struct, frozen=True, gc=False):
    """One page: live keys in byte order, each with its version, size and type (and value if asked for)."""

    entries: list[ScanEntry]
    next_after: bytes | None
    """What `after` takes for the page that follows; None on the last."""
    acks: int
    replicas: tuple[str, ...]


WriteOutcome = Written | Conflict | BadFence | Unavailable | Overloaded | NoRoom | Unknown
ReadOutcome = Found | Unavailable | Overloaded | TimedOut
FencedReadOutcome = ReadOutcome | Conflict | BadFence
ListOutcome = Listed | Unavailable | Overloaded | TimedOut
