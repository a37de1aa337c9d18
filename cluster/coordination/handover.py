"""Handing a change to the primary of its key.

A write has one proposer. A change that may have reached a node is never handed to another and never sent again: a
paused primary that wakes up would apply it a second time. What surely was not sent may go to the next in line.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.coordination.drive import Context
from cluster.coordination.primary import OnOutcome, Primary
from cluster.membership.topology import Topology
from cluster.protocol.changes import Change, Merge, Put
from cluster.protocol.messages import Answer, Forward, Forwarded, Lost
from cluster.requests import Unavailable, Unknown
from storage.ballot import NONE

BUDGET_SHARE = 0.95
"""Of the time left, what the primary may use: its answer has to travel back, and says more than a timeout."""


class Handover:
    """Finds the primary of a key and lets it propose."""

    def __init__(self, context: Context, primary: Primary, topology: Callable[[], Topology], own_slot: int) -> None:
        self._context, self._primary, self._topology, self._own_slot = context, primary, topology, own_slot

    def primary_of(self, slots: tuple[int, ...]) -> int | None:
        """The first live node of a replica set."""
        return next((slot for slot in slots if self._context.transport.is_alive(slot)), None)

    def submit(self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
        """Lets the key's primary propose the change; on_outcome follows exactly once, after it or by the deadline."""
        topology = self._topology()
        slots = topology.replicas_of(key)
        alive = [slot for slot in slots if self._context.transport.is_alive(slot)]
        if len(alive) < needed:
            names = tuple(sorted(topology.by_slot[slot].name for slot in alive))
            on_outcome(Unavailable(needed, len(alive), names))
            return
        _Handing(self, key, change, needed, deadline_s, on_outcome, alive).hand()

    def propose_here(self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
        """This node is the primary."""
        self._primary.submit(key, change, needed, deadline_s, on_outcome)


class _Handing:
    """One change, offered to one node after another until one has it."""

    __slots__ = ("_change", "_deadline_s", "_handover", "_key", "_left", "_needed", "_on_outcome")

    def __init__(
        self,
        handover: Handover,
        key: bytes,
        change: Change,
        needed: int,
        deadline_s: float,
        on_outcome: OnOutcome,
        candidates: list[int],
    ) -> None:
        self._handover, self._key, self._change, self._needed = handover, key, change, needed
        self._deadline_s, self._on_outcome, self._left = deadline_s, on_outcome, candidates

    def hand(self) -> None:
        """Offers it to the next in line."""
        handover = self._handover
        budget_s = self._deadline_s - handover._context.clock.monotonic_s()
        if not self._left or budget_s <= 0:
            self._on_outcome(Unavailable(self._needed, 0, ()))
            return
        slot = self._left.pop(0)
        if slot == handover._own_slot:
            handover.propose_here(self._key, self._change, self._needed, self._deadline_s, self._on_outcome)
            return
        forward = Forward(self._key, self._change, self._needed, int(budget_s * BUDGET_SHARE * 1000))
        handover._context.transport.send(slot, forward, self._answered)

    def _answered(self, slot: int, answer: Answer) -> None:
        if type(answer) is Forwarded:
            self._on_outcome(answer.outcome)
        elif type(answer) is Lost and answer.sent:
            self._on_outcome(self._nobody_knows())
        else:  # not sent, or refused before anything was done with it
            self.hand()

    def _nobody_knows(self) -> Unknown | Unavailable:
        if isinstance(self._change, Put):
            return Unknown(self._needed, 0, (), None)
        origin = self._change.record.origin if isinstance(self._change, Merge) else NONE
        return Unknown(self._needed, 0, (), origin)
