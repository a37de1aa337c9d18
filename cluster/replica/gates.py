"""Gates: how a member keeps still below a ballot while a floor is raised to it (cluster/repair/floors/).

    up        nothing at or below the ballot has been accepted or kept aside here since, or the gate is broken
    sealed    from its confirmation on, an accept at or below the ballot is refused, for any key of the partition

The first only watches, so that replicas can be compared while they work; what they showed then is still true when the
gate is confirmed. The second keeps it true until the floor itself does. A seal is never lowered, for whoever raises
the floor may have reached others already; it goes when this replica's own floor has risen to it. A restart forgets
both, and with them the right to purge: nobody can know then what was accepted between.

Pure: no I/O, no clock; the time comes in.
"""

from __future__ import annotations

from storage.ballot import NONE

GATE_S = 60.0
"""How long a gate stays up for a confirmation. Raising a floor takes a few round trips."""


class _Gate:
    __slots__ = ("broken_by", "floor", "until_s")

    def __init__(self, floor: int, until_s: float) -> None:
        self.floor, self.until_s = floor, until_s
        self.broken_by = ""


class Gates:
    """One member's gates and seals, by partition; at most one gate each."""

    def __init__(self) -> None:
        self._gates: dict[int, _Gate] = {}
        self._seals: dict[int, int] = {}

    @property
    def are_any(self) -> bool:
        """Whether anything has to be looked at: mostly nothing has."""
        return bool(self._gates or self._seals)

    def is_busy(self, partition: int) -> bool:
        """Whether a floor is being raised there."""
        return partition in self._gates or partition in self._seals

    def put_up(self, partition: int, floor: int, now_s: float) -> None:
        """Watches from now on. In place of the gate that was up, unless this very one was."""
        gate = self._gates.get(partition)
        if gate is None or gate.floor != floor:
            self._gates[partition] = _Gate(floor, now_s + GATE_S)

    def note(self, partition: int, ballot: int, what: str) -> None:
        """Something this old was accepted here, or kept aside: a gate above it is broken."""
        gate = self._gates.get(partition)
        if gate is not None and ballot <= gate.floor and not gate.broken_by:
            gate.broken_by = what

    def why_not(self, partition: int, floor: int) -> str | None:
        """Why that gate has not held until now; None when it has."""
        gate = self._gates.get(partition)
        if gate is None or gate.floor != floor:
            return "its gate is not up any more"
        return gate.broken_by or None

    def seal(self, partition: int, floor: int) -> None:
        """The gate has held, and all replicas are equal below it: from now on nothing as old is accepted."""
        self._seals[partition] = max(floor, self._seals.get(partition, NONE))
        self.take_down(partition)

    def sealed(self, partition: int) -> int:
        """Nothing at or below this ballot is accepted in the partition; NONE where nothing is sealed."""
        return self._seals.get(partition, NONE)

    def may_purge(self, partition: int, floor: int) -> bool:
        """Whether what this replica holds up to that ballot is still what it was when it was compared."""
        return self.sealed(partition) >= floor

    def purged(self, partition: int, floor: int) -> None:
        """The floor is there, and keeps what the seal kept."""
        if self.sealed(partition) <= floor:
            self._seals.pop(partition, None)

    def void(self, partition: int) -> None:
        """What this replica holds there came by another way than accepts: nothing can be said of it any more."""
        self._gates.pop(partition, None)
        self._seals.pop(partition, None)

    def take_down(self, partition: int) -> None:
        """Nobody will ask for a confirmation of this gate."""
        self._gates.pop(partition, None)

    def expire(self, now_s: float) -> None:
        """Takes down the gates of those who have not come back. Seals stay."""
        for partition in [partition for partition, gate in self._gates.items() if gate.until_s <= now_s]:
            del self._gates[partition]
