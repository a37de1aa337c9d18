"""What nodes say to one another about locks. Part of messages.py.

Two nodes have a part in each wait (cluster/locks/): the desk, on the node that the client is connected to, and the
keeper, on the primary of the lock's key.

    desk to keeper      LockAcquire, LockStep, LockWaiting, LockWithdraw, LockLook
    keeper to desk      LockConfirm, LockOffer, LockMuster
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from cluster.locks.lock_state import Wish
from cluster.locks.outcomes import LockBusy, LockGranted, LockLost, LockQueued, LockReleased
from cluster.requests import Overloaded, Unavailable, Unknown

LockKey = Annotated[bytes, msgspec.Meta(min_length=1, max_length=1_024)]
Ended = LockGranted | LockReleased | LockBusy | LockLost | LockQueued | Unavailable | Overloaded | Unknown


class Waiting(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Somebody who waits."""

    key: LockKey
    slot: int
    """Of the node that the client is connected to."""
    number: int
    """By which that node knows it."""
    stamp: int
    """Its place in the line; 0 where no keeper has given it one yet."""
    wish: Wish

    @property
    def place(self) -> tuple[int, int, int]:
        """What the line is sorted by."""
        return self.stamp, self.slot, self.number


# -- replies ---------------------------------------------------------------------------------------------------


class LockEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=41):
    """What became of a step."""

    outcome: Ended


class LockNoted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=42):
    """Those who wait stand in the line, at these places."""

    stamps: list[tuple[int, int]]
    """(number, stamp)"""


class LockAnswered(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=43):
    """Whether the client still waits, or was told."""

    yes: bool | None
    """None: nobody can say whether it was told, for an earlier run of this node knew it, or it was long ago."""


class LockMustered(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=44):
    """All who wait here for the locks of a partition."""

    waiting: list[Waiting]


class LocksLooked(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=45):
    """In the order in which they were asked for: how many wait, and how long each grant still stands."""

    lines: list[tuple[int, list[tuple[int, float]]]]
    """(waiters, [(fence, seconds left)])"""


# -- requests --------------------------------------------------------------------------------------------------


class LockAcquire(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=41):
    """Grant the wish; if others hold the lock, put it in the line if it waits, and say so at once."""

    grant: ClassVar[type] = LockEnded
    waiting: Waiting
    waits: bool
    budget_ms: int
    """Milliseconds left when it was sent, for the attempt, not for the wait."""


class LockStep(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=42):
    """Renew what this token holds, or give it back."""

    grant: ClassVar[type] = LockEnded
    key: LockKey
    token: bytes
    is_release: bool
    budget_ms: int


class LockWaiting(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=43):
    """These wait here for locks that you keep."""

    grant: ClassVar[type] = LockNoted
    waiting: list[Waiting]


class LockWithdraw(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=44):
    """This one waits no longer."""

    grant: ClassVar[type] = LockNoted
    key: LockKey
    slot: int
    number: int


class LockLook(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=45):
    """How long are the lines, and the leases? With the value of each lock's register, as it was just read."""

    grant: ClassVar[type] = LocksLooked
    locks: list[tuple[LockKey, bytes]]


class LockConfirm(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=46):
    """Does it still wait? Its turn may have come."""

    grant: ClassVar[type] = LockAnswered
    number: int


class LockOffer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=47):
    """Its wish is granted: tell its client."""

    grant: ClassVar[type] = LockAnswered
    number: int
    granted: LockGranted


class LockMuster(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=48):
    """I keep the locks of this partition from now on: who waits for them with you?"""

    grant: ClassVar[type] = LockMustered
    partition: int


LockRequest = LockAcquire | LockStep | LockWaiting | LockWithdraw | LockLook | LockConfirm | LockOffer | LockMuster
