"""Rounds that leave this replica out: how it learns what is true of keys that it has forgotten.

A replica that forgot may have promised, or accepted, what nobody else knows. So a round that is to find the truth asks
the others alone, as many of them as share a replica with every majority that this one can have been part of, and under
a ballot above all that it can have answered before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from cluster.coordination.drive import Context, Drive
from cluster.membership.topology import Topology
from cluster.protocol.changes import SETTLE
from cluster.protocol.messages import Answer, Lost, Request
from cluster.protocol.prepared import PreparedBallots
from cluster.protocol.proposer import Chosen, Proposer, Refuted, Uncertain
from storage.ballot import ballot_of, unix_ms_of
from storage.record import Record

SETTLE_S = 5.0
"""How long one round may take; it is tried again."""
ANSWER_S = 10.0
"""How long a message to a replica may take; it is sent again."""


class Settlement(NamedTuple):
    """What a round without this replica left on the others."""

    record: Record | None
    promised: int
    """The highest ballot of the round: this replica promises it from now on."""


class Rounds:
    """Asks the others."""

    def __init__(
        self, context: Context, topology: Callable[[], Topology], own_slot: int, clock_offset_max_s: float
    ) -> None:
        self._context, self._topology, self._own_slot = context, topology, own_slot
        self._offset_ms = int(clock_offset_max_s * 1000)
        self.seen: dict[int, int] = {}
        """The highest ballot that each peer said it knows of, by slot."""

    def heard(self, slot: int, ballot: int) -> None:
        """A peer has said which ballots it knows of: none above this one."""
        self.seen[slot] = max(ballot, self.seen.get(slot, 0))

    def others(self, partition: int) -> tuple[int, ...]:
        """The other replicas of a partition."""
        return tuple(slot for slot in self._topology().replica_slots[partition] if slot != self._own_slot)

    @property
    def needed(self) -> int:
        """How many of the others share a replica with every majority that this one was part of.

        A majority has majority - 1 of the n - 1 others beside it. With three replicas these are both others.
        """
        topology = self._topology()
        return topology.n - topology.majority + 1

    def above_all(self, margin: bool = True) -> int:
        """No ballot that was given out up to now is above this one.

        By the clocks: twice the allowed offset above ours, for another's may be ahead by one and ours behind by one.
        By what was heard: ballots run ahead of the clocks after a restart, or after a clock that was wrong. With
        `margin` that lies twice the offset below, for the sake of nodes that were not heard.
        """
        ballots = self._context.ballots
        heard_ms = max((unix_ms_of(ballot) for ballot in (ballots.highest, *self.seen.values())), default=0)
        ahead_ms = 2 * self._offset_ms
        return ballot_of(max(ballots.now_ms() + ahead_ms, heard_ms + (ahead_ms if margin else 1)), 0, 0)

    async def durable(self) -> None:
        """Returns when every ballot given out so far may leave this node."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._context.ballots.when_durable(lambda: None if done.done() else done.set_result(None))
        await done

    async def ask(self, slot: int, request: Request) -> Answer:
        """One message to one replica; Lost when nothing came in time."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def on_answer(_: int, answer: Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        self._context.transport.send(slot, request, on_answer)
        try:
            return await asyncio.wait_for(answered, ANSWER_S)
        except TimeoutError:
            return Lost(sent=True)

    async def settle(self, key: bytes, slots: tuple[int, ...], above: int) -> Settlement | None:
        """Settles the key on the others, under ballots above that one. None: they could not be brought together now."""
        highest = above

        def tick(lower: int) -> int:
            nonlocal highest
            highest = self._context.ballots.tick(max(lower, above))
            return highest

        proposer = Proposer(key, SETTLE, majority=self.needed, tick=tick, prepared=PreparedBallots(lambda _: None))
        ended: asyncio.Future[Chosen | Refuted | Uncertain | None] = asyncio.get_running_loop().create_future()

        def end(result: Chosen | Refuted | Uncertain | None = None) -> None:
            if not ended.done():
                ended.set_result(result)

        deadline_s = self._context.clock.monotonic_s() + SETTLE_S
        Drive(self._context, key, proposer.run(), slots, deadline_s, end, end).start()
        result = await ended
        return Settlement(result.record, highest) if isinstance(result, Refuted) else None
