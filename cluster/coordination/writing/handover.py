"""Handing a change to the primary of its key.

A write has one proposer. A change that may have reached a node is never handed to another and never sent again: a
paused primary that wakes up would apply it a second time. What surely was not sent may go to the next in line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cluster.coordination.drive import BUDGET_SHARE, Context
from cluster.coordination.writing.handing_many import HandingMany, OnOutcomeOf, Writes
from cluster.coordination.writing.primary import OnOutcome, Primary
from cluster.membership.topology import Topology
from cluster.protocol.changes import Change, Merge
from cluster.protocol.messages import Answer, Forward, Forwarded, Lost, Outcome
from cluster.requests import Unavailable, Unknown
from cluster.tasks import safely

TOGETHER_BYTES_MAX = 16 * 1024
"""A larger value is handed over by itself, so that the others do not wait for its bytes."""


class Handover:
    """Finds the primary of a key and lets it propose."""

    def __init__(self, context: Context, primary: Primary, topology: Callable[[], Topology], own_slot: int) -> None:
        self._context, self._primary, self._topology, self._own_slot = context, primary, topology, own_slot
        self.handed_over = 0
        """Changes for which another node was the primary."""

    def primary_of(self, slots: tuple[int, ...]) -> int | None:
        """The first node of a replica set that seems alive and fit."""
        return next((slot for slot in slots if self._context.roster.is_writable(slot)), None)

    def submit(self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
        """Lets the key's primary propose the change; on_outcome follows exactly once, by the deadline."""
        topology = self._topology()
        slots = topology.replicas_of(key)
        alive = self._context.roster.writable(slots)
        if len(alive) < needed:
            on_outcome(Unavailable(needed, len(alive), topology.names(alive)))
        elif alive[0] == self._own_slot:
            self._primary.submit(key, change, needed, deadline_s, on_outcome)
        else:
            self.handed_over += 1
            self._offer(key, change, needed, deadline_s, on_outcome, alive)

    def submit_many(self, puts: Writes, needed: int, deadline_s: float, on_outcome: OnOutcomeOf) -> None:
        """The same for puts of different keys: those of one primary go to it together. Each is a change for itself."""
        topology = self._topology()
        replicas_of, own_slot = topology.replicas_of, self._own_slot
        primaries: dict[tuple[int, ...], int | None] = {}
        """Of the replica sets that were met: its primary, None where there are too few replicas."""
        places_of: dict[int, list[int]] = {}
        for place, (key, put) in enumerate(puts):
            slots = replicas_of(key)
            if slots not in primaries:
                alive = self._context.roster.writable(slots)
                primaries[slots] = alive[0] if len(alive) >= needed else None
            primary = primaries[slots]
            if primary == own_slot:
                self._primary.submit(key, put, needed, deadline_s, partial(on_outcome, place))
            elif primary is None or (put.value is not None and len(put.value) > TOGETHER_BYTES_MAX):
                self.submit(key, put, needed, deadline_s, partial(on_outcome, place))
            else:
                places_of.setdefault(primary, []).append(place)
        for primary, places in places_of.items():
            self.handed_over += len(places)
            handing = HandingMany(self._context, puts, places, needed, deadline_s, on_outcome, self.offer_to_others)
            handing.offer(primary)

    def offer_to_others(
        self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome, but: int
    ) -> None:
        """The same for a change that this node surely did not take."""
        alive = self._context.roster.writable(self._topology().replicas_of(key))
        self._offer(key, change, needed, deadline_s, on_outcome, [slot for slot in alive if slot != but])

    def _offer(
        self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome, candidates: list[int]
    ) -> None:
        handing = _Handing(self._context, self._primary, self._own_slot, key, change, needed, deadline_s, on_outcome)
        handing.offer(candidates)


class _Handing:
    """One change, offered to one node after another until one has it."""

    __slots__ = (
        "_candidates",
        "_change",
        "_context",
        "_key",
        "_needed",
        "_on_outcome",
        "_own_slot",
        "_primary",
        "deadline_s",
        "patience_s",
    )

    def __init__(
        self,
        context: Context,
        primary: Primary,
        own_slot: int,
        key: bytes,
        change: Change,
        needed: int,
        deadline_s: float,
        on_outcome: OnOutcome,
    ) -> None:
        self._context, self._primary, self._own_slot = context, primary, own_slot
        self._key, self._change, self._needed = key, change, needed
        self._on_outcome: OnOutcome | None = on_outcome
        self.deadline_s, self.patience_s = deadline_s, float("inf")

    def offer(self, candidates: list[int]) -> None:
        """Begins with the first of them."""
        self._candidates = candidates
        self._context.sweeper.add(self)
        self._offer_next()

    def expire(self) -> None:
        """It was handed over and nothing came back in time."""
        self._end(self._nobody_knows())

    def hurry(self) -> None:
        """Nobody else may be asked."""

    def _offer_next(self) -> None:
        budget_s = self.deadline_s - self._context.clock.monotonic_s()
        if not self._candidates or budget_s <= 0:
            self._end(Unavailable(self._needed, 0, ()))
            return
        slot = self._candidates.pop(0)
        if slot == self._own_slot:
            self._context.sweeper.discard(self)  # the primary keeps the deadline, and knows more when it comes
            self._primary.submit(self._key, self._change, self._needed, self.deadline_s, self._end)
            return
        forward = Forward(self._key, self._change, self._needed, int(budget_s * BUDGET_SHARE * 1000))
        self._context.transport.send(slot, forward, self._answered)

    def _answered(self, slot: int, answer: Answer) -> None:
        if self._on_outcome is None:
            return
        if type(answer) is Forwarded:
            self._end(answer.outcome)
        elif type(answer) is Lost and answer.sent:
            self._end(self._nobody_knows())
        else:  # not sent, or refused before anything was done with it
            self._offer_next()

    def _end(self, outcome: Outcome) -> None:
        self._context.sweeper.discard(self)
        on_outcome, self._on_outcome = self._on_outcome, None
        if on_outcome is not None:
            safely(on_outcome, outcome)

    def _nobody_knows(self) -> Unknown:
        origin = self._change.record.origin if isinstance(self._change, Merge) else None
        return Unknown(self._needed, 0, (), origin)
