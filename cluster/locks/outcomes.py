"""What the layer above is told of locks and votes. Failures are those of keys: see cluster/requests.py.

LockOutcome                     changed?
├── LockGranted                 yes: taken, or renewed
├── LockReleased                yes
├── LockBusy                    no: others hold it, and the wait is over
├── LockLost                    no: the token holds nothing any more
├── Unavailable, Overloaded,
│   NoRoom                      no
└── Unknown                     may be, now or later; a grant that nobody was told of is given back
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from cluster.requests import NoRoom, Overloaded, TimedOut, Unavailable, Unknown


class LockGranted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """The token holds the lock, for ttl_ms from when it was asked for."""

    owner: str
    fence: int
    ttl_ms: int
    permits: int


class LockReleased(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """The token held the lock until now."""

    fence: int
    """Of the grant that was given back; 0 where the node that did it could not tell."""


class LockBusy(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """Others hold the lock."""

    owner: str
    """One of them."""
    retry_after_s: float
    """When the first of their leases may be over, if nobody renews it."""
    permits: int
    """How many may hold it, as those who hold it now have it."""


class LockLost(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """The token holds nothing: it never did, was released, or its lease ran out and somebody noticed."""


class LockQueued(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """It waits in the line of the lock's primary. Between nodes only."""

    stamp: int
    """Its place: whoever has a lower one is before it, with this primary and with the next."""


class HolderShown(msgspec.Struct, frozen=True, gc=False):
    """One holder, without its token."""

    owner: str
    fence: int
    ttl_ms: int
    left_s: float | None
    """How long it stands if nobody renews it, as the node knows it that watches; None where that was not heard."""


class LockShown(msgspec.Struct, frozen=True, gc=False):
    """A lock as it stands."""

    name: str
    fence: int
    """The highest that was ever granted."""
    permits: int
    holders: tuple[HolderShown, ...]
    """Empty where nobody holds it."""
    waiters: int


class LocksListed(msgspec.Struct, frozen=True, gc=False):
    """The locks that are held, by name in byte order."""

    locks: list[LockShown]
    next_after: str | None
    """What `after` takes for those that follow; None when these are all."""


class Client(Protocol):
    """Whoever waits for a lock at the other end of a connection."""

    @property
    def is_here(self) -> bool:
        """Whether the connection lives, as far as this node can tell."""
        ...

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Calls back once when the connection ends; at once if it has."""
        ...


LockFailure = Unavailable | Overloaded | NoRoom | Unknown
AcquireOutcome = LockGranted | LockBusy | LockFailure
RenewOutcome = LockGranted | LockLost | LockFailure
ReleaseOutcome = LockReleased | LockLost | LockFailure
LookFailure = Unavailable | Overloaded | TimedOut
