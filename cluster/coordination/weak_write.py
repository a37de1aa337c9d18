"""A weak or eventual write on its way: accepts to all home replicas, and a merge where they are refused.

The write keeps one ballot and one origin from beginning to end, so it can be sent as often as need be and is applied
at most once:

    1. accept, yielding, to all home replicas. Enough have taken it: done.
    2. refused somewhere and not enough, and the others have answered or keep silent for long: a merge round through
       the key's primary, which queues it behind the strong writes that stand in its way.
    3. no primary, or no majority for it: accept again, without yielding.
    4. still refused: kept aside on this node's disk and merged later. The client is told that nobody knows yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from cluster.coordination.drive import PATIENCE_S, SWEEP_S, Context
from cluster.coordination.handover import Handover
from cluster.membership.topology import Topology
from cluster.protocol.changes import RENEW, Merge
from cluster.protocol.messages import Accept, Accepted, Answer, Held, Lost, Outcome, Read, Refused, Settled
from cluster.protocol.weak_write import is_taken, stands_back
from cluster.requests import Unavailable, Unknown, Written
from storage.ballot import NONE
from storage.record import Record

KeepAside = Callable[[bytes, Record, Callable[[], None]], None]
"""(key, record, kept): keeps the record on disk, then calls kept."""


class WeakWrite:
    """One write. `on_outcome` is called exactly once."""

    def __init__(
        self,
        context: Context,
        handover: Handover,
        keep_aside: KeepAside,
        topology: Topology,
        key: bytes,
        record: Record,
        needed: int,
        deadline_s: float,
        on_outcome: Callable[[Written | Unknown | Unavailable], None],
    ) -> None:
        self._context, self._handover, self._keep_aside, self._topology = context, handover, keep_aside, topology
        self._key, self._record, self._needed = key, record, needed
        self._on_outcome: Callable[[Written | Unknown | Unavailable], None] | None = on_outcome
        self._slots = topology.replicas_of(key)
        self._taken: set[str] = set()
        self._refused_by: set[int] = set()
        self._waiting: set[int] = set()
        self._yields = True
        self._is_asking = False
        self._is_merged = False
        self._may_be_somewhere = False
        self.deadline_s = deadline_s
        self.patience_s = float("inf")

    def start(self) -> None:
        """Begins."""
        self._context.sweeper.add(self)
        self._context.ballots.when_durable(partial(self._send, self._slots, True))

    def expire(self) -> None:
        """The deadline has passed."""
        if self._refused_by and not self._is_merged:
            self._keep_aside(self._key, self._record, lambda: None)
        self._finish_unknown()

    def hurry(self) -> None:
        """Some have refused and the others keep silent, perhaps for long: it goes on without them."""
        self.patience_s = float("inf")
        if self._is_asking:
            self._fall_back()

    def _send(self, slots: tuple[int, ...], yielding: bool) -> None:
        self._waiting.update(slots)
        self._yields, self._is_asking = yielding, True
        accept = Accept(self._key, self._record, NONE, yielding)
        for slot in slots:
            self._context.transport.send(slot, accept, self._answered)

    def _answered(self, slot: int, answer: Answer) -> None:
        self._waiting.discard(slot)
        if is_taken(answer, self._record):
            self._count((self._topology.by_slot[slot].name,))
        elif stands_back(answer, self._record):
            self._refused_by.add(slot)
            self.patience_s = min(self.patience_s, self._context.clock.monotonic_s() + PATIENCE_S)
        if type(answer) is Refused:
            self._context.ballots.absorb(answer.highest)
        elif type(answer) is Accepted or (type(answer) is Lost and answer.sent):
            self._may_be_somewhere = True
        if self._is_asking and self._on_outcome is not None and self._have_all_spoken():
            self._fall_back()

    def _have_all_spoken(self) -> bool:
        """Whether all have answered, or some have refused and those who keep silent seem dead."""
        return not (self._is_anybody_expected() if self._refused_by else self._waiting)

    def _is_anybody_expected(self) -> bool:
        """Whether an answer is missing from a node that seems alive."""
        return any(self._context.transport.is_alive(slot) for slot in self._waiting)

    def _fall_back(self) -> None:
        """No more answers are to be expected, and it is not enough."""
        self._is_asking = False
        if not self._refused_by:
            self._finish_unknown()
        elif self._yields:
            needed = max(self._needed, self._topology.majority)
            self._handover.submit(self._key, Merge(self._record), needed, self.deadline_s, self._merged)
        else:
            self._keep_aside(self._key, self._record, self._finish_unknown)

    def _merged(self, outcome: Outcome) -> None:
        if self._on_outcome is None:
            return
        if isinstance(outcome, Written | Settled):
            self._is_merged = True
            self._count(outcome.replicas)
            self._ask_holders()
        else:
            again, self._refused_by = tuple(self._refused_by), set()
            self._send(again, False)

    # -- merged, but more replicas were asked for than a majority -------------------------------------------------

    def _ask_holders(self) -> None:
        """The key is settled on this write or a newer one: who of the others holds that too?"""
        if self._on_outcome is None:
            return
        missing = [slot for slot in self._slots if self._topology.by_slot[slot].name not in self._taken]
        self._waiting = set(missing)
        for slot in missing:
            self._context.transport.send(slot, Read(self._key, value=False), self._held)

    def _held(self, slot: int, answer: Answer) -> None:
        self._waiting.discard(slot)
        if type(answer) is Held and answer.record is not None and answer.record.origin >= self._record.origin:
            self._count((self._topology.by_slot[slot].name,))
        if self._on_outcome is not None and not self._is_anybody_expected():
            asyncio.get_running_loop().call_later(SWEEP_S, self._bring_along)

    def _bring_along(self) -> None:
        """Proposes the settled record again, so that the replicas take it that have not."""
        if self._on_outcome is not None:
            majority = self._topology.majority
            self._handover.submit(self._key, RENEW, majority, self.deadline_s, lambda _: self._ask_holders())

    def _count(self, names: tuple[str, ...]) -> None:
        self._taken.update(names)
        if len(self._taken) >= self._needed:
            self._finish_written()

    def _finish_written(self) -> None:
        names = tuple(sorted(self._taken))
        self._finish(Written(self._record.origin, len(names), names))

    def _finish_unknown(self) -> None:
        names = tuple(sorted(self._taken))
        if self._may_be_somewhere or self._waiting or self._refused_by:
            self._finish(Unknown(self._needed, len(names), names, self._record.origin))
        else:
            self._finish(Unavailable(self._needed, len(names), names))

    def _finish(self, outcome: Written | Unknown | Unavailable) -> None:
        self._context.sweeper.discard(self)
        on_outcome, self._on_outcome = self._on_outcome, None
        if on_outcome is not None:
            on_outcome(outcome)
