"""The ledger: what anti-entropy found and did, for status and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.membership.topology import Topology


@dataclass(slots=True)
class Tally:
    """What one comparison found and did."""

    differed: set[bytes] = field(default_factory=set)
    """Keys that differed, and still did a moment later."""
    fetched: int = 0
    """Records taken over from others."""
    sent: int = 0
    """Records that others took over."""
    cleared: int = 0
    """Keys on which a promise stood in the way, and which a round brought together."""
    messages: int = 0
    """Requests, each with its reply."""
    comparing_bytes: int = 0
    """Of sums, digests and rows, both ways, as they are encoded."""
    record_bytes: int = 0
    """Of records and what asks for them, both ways: keys, values, and an estimate of what is around them."""

    @property
    def moved(self) -> int:
        """Records that found their way."""
        return self.fetched + self.sent + self.cleared


@dataclass(slots=True)
class Totals:
    """The same over all comparisons since the start."""

    keys_differed: int = 0
    keys_fetched: int = 0
    keys_sent: int = 0
    keys_cleared: int = 0
    messages: int = 0
    comparing_bytes: int = 0
    record_bytes: int = 0

    def add(self, tally: Tally) -> None:
        """One more comparison has ended."""
        self.keys_differed += len(tally.differed)
        self.keys_fetched += tally.fetched
        self.keys_sent += tally.sent
        self.keys_cleared += tally.cleared
        self.messages += tally.messages
        self.comparing_bytes += tally.comparing_bytes
        self.record_bytes += tally.record_bytes


class Standing(NamedTuple):
    """How many of this node's partitions were equal with all their replicas when they were last compared."""

    in_sync: int
    differing: int
    unchecked: int
    """With some replica they were not compared yet since this node started."""


class Ledger:
    """One node's."""

    def __init__(self, topology: Callable[[], Topology], own_slot: int) -> None:
        self._topology, self._own_slot = topology, own_slot
        self.totals = Totals()
        self.differing: dict[int, set[int]] = {}
        """By the peer's slot: the partitions that differed when they were last compared; absent before the first."""
        self.compared_s: dict[int, float] = {}
        """By the peer's slot: when that was, by the monotonic clock."""
        self.asked_s: dict[int, float] = {}
        """By the peer's slot: when it last compared itself with this node."""

    def shared_with(self, slot: int) -> list[int]:
        """The partitions that this node and that one hold."""
        sets = self._topology().replica_slots
        return [number for number, slots in enumerate(sets) if slot in slots and self._own_slot in slots]

    def others(self, partition: int) -> list[int]:
        """The other replicas of a partition."""
        return [slot for slot in self._topology().replica_slots[partition] if slot != self._own_slot]

    def compared(self, slot: int, differing: set[int], now_s: float) -> None:
        """All partitions shared with that peer were compared."""
        self.differing[slot], self.compared_s[slot] = differing, now_s

    def standing(self) -> Standing:
        """How this node's partitions stand."""
        counts = [0, 0, 0]
        for partition, slots in enumerate(self._topology().replica_slots):
            if self._own_slot in slots:
                counts[self._standing_of(partition)] += 1
        return Standing(*counts)

    def _standing_of(self, partition: int) -> int:
        seen = [self.differing.get(slot) for slot in self.others(partition)]
        if any(differing is not None and partition in differing for differing in seen):
            return 1
        return 2 if None in seen else 0

    @property
    def last_round_s(self) -> float | None:
        """When all peers that share partitions had last been compared with; None before the first time."""
        peers = {slot for member in self._topology().members if self.shared_with(slot := member.slot)}
        moments = [self.compared_s.get(slot) for slot in peers - {self._own_slot}]
        known = [moment for moment in moments if moment is not None]
        return min(known) if known and len(known) == len(moments) else None
