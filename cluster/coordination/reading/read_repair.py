"""Read repair: a read that saw replicas differ brings them together, once its answer has left.

What it sends obeys the one rule. A replica that is behind is sent the record as an ordinary accept; where a promise
is in the way, a round through the key's primary clears it. A replica that is ahead of what the read returned holds
a weak write that waits to be merged, or a strong one that was not finished: its record is fetched and brought in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cluster.coordination.drive import Context
from cluster.membership.topology import Topology
from cluster.protocol.changes import RENEW, Merge
from cluster.protocol.messages import Accept, Answer, Held, Outcome, Read, Refused
from storage.ballot import NONE
from storage.record import Record

REPAIR_S = 5.0
"""How long a repair may take; the next read begins another."""


class Repair:
    """The repair of one key after one read."""

    def __init__(self, context: Context, topology: Topology, key: bytes) -> None:
        self._context, self._topology, self._key = context, topology, key
        self._record: Record | None = None
        self._is_proposed = False

    def begin(self, returned: Record | None, held: Mapping[int, Record | None]) -> None:
        """returned: what the read gave, with its value. held: what each replica was seen with, perhaps without."""
        ballot = _ballot(returned)
        ahead = [slot for slot, record in held.items() if _ballot(record) > ballot]
        if ahead:
            self._context.transport.send(ahead[0], Read(self._key, value=True), self._fetched)
        elif returned is not None:
            self._spread(returned, tuple(slot for slot, record in held.items() if _ballot(record) < ballot))

    def _fetched(self, slot: int, answer: Answer) -> None:
        """The newer record, in full: it goes to all the others."""
        if type(answer) is Held and answer.record is not None:
            others = tuple(other for other in self._topology.replicas_of(self._key) if other != slot)
            self._spread(answer.record, others)

    def _spread(self, record: Record, slots: tuple[int, ...]) -> None:
        self._record = record
        # Like a weak write it steps back where a strong proposer is at work, whose write it would else make unknown.
        accept = Accept(self._key, record, NONE, yielding=record.weak)
        for slot in slots:
            self._context.transport.send(slot, accept, self._spread_to)

    def _spread_to(self, slot: int, answer: Answer) -> None:
        """A refusal by a promise is cleared by a round of the primary, once."""
        record = self._record
        assert record is not None, "nothing is spread before it is known"
        if type(answer) is not Refused or answer.ballot >= record.ballot or self._is_proposed:
            return
        self._is_proposed = True
        clear_promise(self._context, self._topology, self._key, record, _ignore)


def clear_promise(
    context: Context, topology: Topology, key: bytes, record: Record, on_end: Callable[[Outcome], None]
) -> None:
    """A promise whose proposer has died keeps a replica from taking this record: a round of the primary clears it.

    Called where an accept was refused, and not for a newer record. on_end is told how the round ended, in REPAIR_S at
    most; Settled when all that a majority knew of is on a majority again, and was sent to the others.
    """
    deadline_s = context.clock.monotonic_s() + REPAIR_S
    if record.weak:
        context.hand_over(key, Merge(record), topology.majority, deadline_s, _ignore)
    # A merge that finds the write settled already does not bring the last replica along.
    context.hand_over(key, RENEW, topology.majority, deadline_s, on_end)


def _ignore(outcome: object) -> None:
    """What a repair does not reach is left to the next one."""


def _ballot(record: Record | None) -> int:
    return record.ballot if record is not None else NONE
