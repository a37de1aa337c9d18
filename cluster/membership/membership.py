"""Membership: the topology this node acts under, and how the first one comes to be.

A folder that knows its topology goes by that. A new one forms epoch 1 from the list of first members, which is the
same on every node. Zones are part of it, for placement depends on them, but each node may be told only its own: then
the first topology is complete once every member has said its zone in a handshake, and until then nobody votes.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.membership.topology import Topology

FORMING = 0
"""The epoch before the first."""


class Membership:
    """The current topology. Until it is formed its epoch is 0 and it must not be acted under."""

    def __init__(self, topology: Topology, *, unheard: set[str], on_formed: Callable[[Topology], None]) -> None:
        """unheard: the members whose zones are still to be told. on_formed puts the first topology on disk."""
        self._on_formed = on_formed
        self._unheard = unheard
        self.topology = msgspec.structs.replace(topology, epoch=FORMING) if unheard else topology

    @property
    def is_formed(self) -> bool:
        """Whether requests may be served."""
        return self.topology.epoch != FORMING

    @property
    def unheard(self) -> list[str]:
        """The members that have not yet said where they stand."""
        return sorted(self._unheard)

    def admit(self, name: str, zone: str) -> str | None:
        """A peer has introduced itself and proved the secret. Gives the reason to refuse it, or None."""
        member = self.topology.by_name.get(name)
        if member is None:
            return f"{name} is no member of this cluster; compare --members of both"
        if name in self._unheard:
            self._learn(name, zone)
        elif member.zone != zone:
            return (
                f"{name} says it stands in zone {zone!r}, this node knows it in {member.zone!r}; give every node its "
                "--zone or none, and start a node that moved with a new folder and name"
            )
        return None

    def _learn(self, name: str, zone: str) -> None:
        members = tuple(
            msgspec.structs.replace(member, zone=zone) if member.name == name else member
            for member in self.topology.members
        )
        self._unheard.discard(name)
        epoch = FORMING if self._unheard else FORMING + 1
        self.topology = msgspec.structs.replace(self.topology, members=members, epoch=epoch)
        if self.is_formed:
            self._on_formed(self.topology)
