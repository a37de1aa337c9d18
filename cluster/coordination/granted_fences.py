"""Granted fences: whether a lock ever granted the fence that a write bears.

A key refuses for good what comes under a lower fence than it has seen. So a number that was only mistyped, or made up,
must not get to a key: it could close it to all who hold the lock in truth. What the lock has granted stands in its
register, and only grows. So what was read of it once is a lower bound for ever, and a fence that it covers needs no
second look; nor does one that is too low, for the key decides on that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from cluster.levels import Level
from cluster.locks.lock_state import decode, lock_key
from cluster.requests import BadFence, Fence, Found, Overloaded, ReadOutcome, ReadRequest, Unavailable

LOCKS_MAX = 10_000
"""Locks that a node remembers the highest fence of: 5 MB where all names are of the longest kind. One that has fallen
out costs a read."""

Read = Callable[[ReadRequest], Awaitable[ReadOutcome]]


class GrantedFences:
    """What one node knows of them."""

    def __init__(self, read: Read, majority: Callable[[], int]) -> None:
        self._read, self._majority = read, majority
        self._highest: OrderedDict[str, int] = OrderedDict()

    async def refusal(self, fence: Fence, timeout_s: float) -> BadFence | Unavailable | Overloaded | None:
        """Why a write must not bear this fence; None when the lock has granted it, or a higher one."""
        if self._remembered(fence.lock) >= fence.number:
            return None
        needed = self._majority()
        outcome = await self._read(ReadRequest(lock_key(fence.lock), Level.STRONG, needed, timeout_s))
        if isinstance(outcome, Found):
            highest = decode(outcome.record.value if outcome.record is not None else None).fence
            self._remember(fence.lock, highest)
            return None if highest >= fence.number else BadFence(highest)
        if isinstance(outcome, Overloaded):
            return outcome
        reason = "too few replicas of the lock's register answer, so that nobody can say whether it granted the fence"
        return Unavailable(needed, outcome.got, outcome.replicas, reason)

    def _remembered(self, lock: str) -> int:
        highest = self._highest.get(lock, 0)
        if highest:
            self._highest.move_to_end(lock)
        return highest

    def _remember(self, lock: str, highest: int) -> None:
        self._highest[lock] = max(highest, self._highest.get(lock, 0))
        self._highest.move_to_end(lock)
        if len(self._highest) > LOCKS_MAX:
            self._highest.popitem(last=False)
