"""The primary: the one proposer of a key's strong writes, while everybody agrees on who it is.

Strong writes of a key queue here instead of duelling. Only speed depends on it: two nodes that both believe to be
the primary are two proposers, and CASPaxos is safe with any number of them.

One attempt at a time per key: a prepared ballot shared by two coroutines would be one ballot used twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from cluster.coordination.drive import Context, Drive
from cluster.membership.topology import Topology
from cluster.protocol.changes import Change, Put
from cluster.protocol.messages import Outcome, Settled
from cluster.protocol.prepared import PreparedBallots
from cluster.protocol.proposer import Chosen, Proposer, Refuted, Uncertain
from cluster.requests import Conflict, Overloaded, Unavailable, Unknown, Written

QUEUE_MAX = 1_000
"""Changes that wait for one key. At some hundred a second and key the last would wait longer than any timeout."""
RETRY_AFTER_S = 1.0

OnOutcome = Callable[[Outcome], None]


class Primary:
    """Proposes changes, key by key."""

    def __init__(self, context: Context, prepared: PreparedBallots, topology: Callable[[], Topology]) -> None:
        self._context, self._prepared, self._topology = context, prepared, topology
        self._queues: dict[bytes, deque[_Proposal]] = {}

    def submit(self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
        """Proposes the change once those before it on this key have ended; on_outcome follows exactly once."""
        proposal = _Proposal(self, key, change, needed, deadline_s, on_outcome)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque()
            proposal.start()
        elif len(queue) >= QUEUE_MAX:
            on_outcome(Overloaded(RETRY_AFTER_S))
        else:
            queue.append(proposal)

    def next(self, key: bytes) -> None:
        """The proposal of this key has ended: begins the one that waits longest."""
        now_s = self._context.clock.monotonic_s()
        queue = self._queues[key]
        while queue:
            proposal = queue.popleft()
            if proposal.deadline_s > now_s:
                asyncio.get_running_loop().call_soon(proposal.start)  # not here: a queue is deeper than the stack
                return
            proposal.on_outcome(Overloaded(RETRY_AFTER_S))  # its time ran out in the queue: nothing was sent
        del self._queues[key]


class _Proposal:
    """One change on its way."""

    __slots__ = ("change", "deadline_s", "key", "needed", "on_outcome", "primary", "proposer", "topology")

    def __init__(
        self, primary: Primary, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome
    ) -> None:
        self.primary, self.key, self.change = primary, key, change
        self.needed, self.deadline_s, self.on_outcome = needed, deadline_s, on_outcome
        self.topology = primary._topology()
        self.proposer = Proposer(
            key,
            change,
            majority=self.topology.majority,
            needed=needed,
            tick=primary._context.ballots.tick,
            prepared=primary._prepared,
        )

    def start(self) -> None:
        context, slots = self.primary._context, self.topology.replicas_of(self.key)
        alive = tuple(slot for slot in slots if context.transport.is_alive(slot))
        if len(alive) < self.needed:
            self._finish(Unavailable(self.needed, len(alive), self._names(alive)))
            return
        Drive(context, self.proposer.run(), slots, self.deadline_s, self._ended, self._expired).start()

    def _ended(self, end: Chosen | Refuted | Uncertain) -> None:
        names = self._names(end.slots)
        if isinstance(end, Chosen):
            self._finish(Written(end.record.origin, len(names), names))
        elif isinstance(end, Uncertain):
            self._finish(Unknown(self.needed, len(names), names, end.origin))
        elif isinstance(self.change, Put):
            present = end.record is not None and end.record.value is not None
            version = end.record.origin if end.record is not None and present else None
            self._finish(Conflict(version, len(names), names))
        else:
            self._finish(Settled(end.record, names))

    def _expired(self) -> None:
        sent = self.proposer.sent
        got = self.proposer.granted
        self._finish(Unavailable(self.needed, got, ()) if sent is None else Unknown(self.needed, got, (), sent))

    def _finish(self, outcome: Outcome) -> None:
        self.on_outcome(outcome)
        self.primary.next(self.key)

    def _names(self, slots: tuple[int, ...]) -> tuple[str, ...]:
        by_slot = self.topology.by_slot
        return tuple(sorted(by_slot[slot].name for slot in slots))
