"""The register through messages: a key of the cluster at the strong level.

Where this node is the key's primary the function goes straight into its proposer, and a change is one round trip
(CASPaxos, section 2.2). Anywhere else the change is a read and a conditional write, again and again until nobody came
between: the function stays here, and only values travel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cluster.coordination.drive import Context
from cluster.coordination.writing.handover import Handover
from cluster.coordination.writing.primary import Computed, Primary
from cluster.levels import Level
from cluster.locks.register import Changed, Function, MayBeChanged, NotChanged
from cluster.membership.topology import Topology
from cluster.protocol.changes import Compute, Put
from cluster.protocol.messages import Outcome
from cluster.requests import (
    Condition,
    ConditionKind,
    Conflict,
    Found,
    Overloaded,
    ReadOutcome,
    ReadRequest,
    TimedOut,
    Unavailable,
    Written,
)
from storage.record import Record

CONTENT_TYPE = "application/x-kvstore-register"
RETRY_AFTER_S = 1.0
_ABSENT = Condition(ConditionKind.IF_ABSENT)

Ended = Outcome | Computed


class ReplicatedRegisters:
    """Makes a register of a key."""

    def __init__(
        self,
        context: Context,
        primary: Primary,
        handover: Handover,
        topology: Callable[[], Topology],
        own_slot: int,
        read: Callable[[ReadRequest], Awaitable[ReadOutcome]],
    ) -> None:
        """read: the coordinator's."""
        self.context, self.primary, self.handover, self.read = context, primary, handover, read
        self._topology, self._own_slot = topology, own_slot

    def of(self, key: bytes) -> ReplicatedRegister:
        """The register of this key."""
        return ReplicatedRegister(key, self)

    @property
    def majority(self) -> int:
        """Replicas that must answer."""
        return self._topology().majority

    def is_own(self, key: bytes) -> bool:
        """Whether this node is the key's primary, as far as it knows."""
        return self.handover.primary_of(self._topology().replicas_of(key)) == self._own_slot


class ReplicatedRegister:
    """One key. See Register."""

    def __init__(self, key: bytes, registers: ReplicatedRegisters) -> None:
        self.key, self._registers = key, registers
        self._clock = registers.context.clock

    async def read(self, timeout_s: float) -> bytes | None:
        """See Register. `why` is an Unavailable, Overloaded or TimedOut."""
        record = await self._record(timeout_s)
        return record.value if record is not None else None

    async def change(self, function: Function, timeout_s: float) -> Changed:
        """See Register. `why` is an Unavailable or Overloaded, or an Unknown."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        if self._registers.is_own(self.key):
            return await self._compute(function, deadline_s)
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            try:
                record = await self._record(left_s)
            except NotChanged as refusal:
                if isinstance(refusal.why, TimedOut):
                    raise NotChanged(Unavailable(refusal.why.needed, refusal.why.got, ())) from None
                raise
            before = record.value if record is not None else None
            after = function(before, self._registers.context.ballots.now_ms())
            if after is None:
                return Changed(before, is_new=False)
            condition = _ABSENT
            if record is not None and before is not None:
                condition = Condition(ConditionKind.IF_VERSION, record.origin)
            outcome = await self._write(Put(after, CONTENT_TYPE, condition), deadline_s)
            if isinstance(outcome, Written):
                return Changed(after, is_new=True)
            if not isinstance(outcome, Conflict):
                raise _failure(outcome)
        raise NotChanged(Overloaded(RETRY_AFTER_S))  # others were faster each time

    async def _record(self, timeout_s: float) -> Record | None:
        found = await self._registers.read(
            ReadRequest(self.key, Level.STRONG, self._registers.majority, timeout_s),
        )
        if isinstance(found, Found):
            return found.record
        raise NotChanged(found)

    async def _compute(self, function: Function, deadline_s: float) -> Changed:
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        compute = Compute(function, self._registers.context.ballots.now_ms(), CONTENT_TYPE)
        self._registers.primary.compute(self.key, compute, deadline_s, lambda outcome: _set(ended, outcome))
        outcome = await ended
        if isinstance(outcome, Computed):
            return Changed(outcome.record.value if outcome.record is not None else None, outcome.is_new)
        raise _failure(outcome)

    async def _write(self, put: Put, deadline_s: float) -> Ended:
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        majority = self._registers.majority
        self._registers.context.hand_over(self.key, put, majority, deadline_s, lambda outcome: _set(ended, outcome))
        return await ended


def _set(ended: asyncio.Future[Ended], outcome: Ended) -> None:
    if not ended.done():  # whoever awaited it may have been cancelled; what was sent goes on
        ended.set_result(outcome)


def _failure(outcome: Ended) -> NotChanged | MayBeChanged:
    return NotChanged(outcome) if isinstance(outcome, Unavailable | Overloaded) else MayBeChanged(outcome)
