"""Granted fences: whether a lock ever granted the fence that a write or a read bears.

A key refuses for good what comes under a lower fence than it has seen. So a number that was only mistyped, or made up,
must not get to a key: it could close it to all who hold the lock in truth. What the lock has granted lately stands in
its register. That a fence was granted is true for ever, so it is looked up once. One from long ago, which the register
remembers no more, gets to the key, and the key decides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from cluster.levels import Level
from cluster.locks.lock_state import decode, lock_key
from cluster.requests import BadFence, Fence, Found, Overloaded, ReadOutcome, ReadRequest, Unavailable

REMEMBERED_MAX = 10_000
"""Fences that a node knows to have been granted: 5 MB where all names are of the longest kind. One that has fallen out
costs a read."""

Read = Callable[[ReadRequest], Awaitable[ReadOutcome]]


class GrantedFences:
    """What one node knows of them."""

    def __init__(self, read: Read, majority: Callable[[], int]) -> None:
        self._read, self._majority = read, majority
        self._granted: OrderedDict[Fence, None] = OrderedDict()

    async def refusal(self, fence: Fence, timeout_s: float) -> BadFence | Unavailable | Overloaded | None:
        """Why a request must not bear this fence; None when the lock has granted it."""
        if fence in self._granted:
            self._granted.move_to_end(fence)
            return None
        needed = self._majority()
        outcome = await self._read(ReadRequest(lock_key(fence.lock), Level.STRONG, needed, timeout_s))
        if isinstance(outcome, Found):
            state = decode(outcome.record.value if outcome.record is not None else None)
            if not state.may_have_granted(fence.number):
                return BadFence(state.fence)
            self._remember(fence)
            return None
        if isinstance(outcome, Overloaded):
            return outcome
        reason = "too few replicas of the lock's register answer, so that nobody can say whether it granted the fence"
        return Unavailable(needed, outcome.got, outcome.replicas, reason)

    def _remember(self, fence: Fence) -> None:
        self._granted[fence] = None
        if len(self._granted) > REMEMBERED_MAX:
            self._granted.popitem(last=False)
