"""Canvasses: the plain puts of one turn of the loop for which no ballot is prepared ask for promises together.

The first write ever to a key, and one to a key that was not written for long, need a round of promises before their
accepts. A put that asks for nothing but to be written does not depend on what is there, as long as that bears no
fences: so many of them share one message to each replica and one reply, and then go in a volley (volley.py).

The rules are those of any other prepare: each key has a ballot of its own, promised for itself. What a replica leaves
out, for whatever reason, is left to a conversation of its own (protocol/proposer.py), which begins anew: a promise
that nobody uses stands in nobody's way for long.
"""

from __future__ import annotations

from typing import Protocol

from cluster.coordination.drive import Context
from cluster.coordination.writing.shared_round import Gathering, Member, SharedRound
from cluster.membership.topology import Topology
from cluster.protocol.messages import Accept, Prepare, PrepareMany
from cluster.tasks import safely

TOGETHER_MAX = 512
"""Keys of one message: each is loaded from disk if need be before the reply to all of them."""


class Candidate(Member, Protocol):
    """One put that has no prepared ballot: see primary.py."""

    def promised(self, ballot: int) -> None:
        """A majority has promised it, and holds nothing that bears fences."""
        ...

    def converse(self, begun: Accept | None = None) -> None:
        """It goes its own way, with nothing begun."""
        ...

    def unpromised(self, promises: int) -> None:
        """Its deadline has passed, and so many replicas have promised; nothing of it was sent."""
        ...


class Canvasses:
    """Gathers the puts of one turn of the loop."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.add = Gathering(self._begin).add

    def _begin(self, candidates: list[Candidate], slots: tuple[int, ...], topology: Topology, quorum: int) -> None:
        alive = self._context.roster.writable(slots)
        for first in range(0, len(candidates), TOGETHER_MAX):
            canvass = _Canvass(self._context, alive, topology, quorum)
            for candidate in candidates[first : first + TOGETHER_MAX]:
                canvass.add(candidate, self._context.ballots.tick())
            safely(canvass.begin)


class _Canvass(SharedRound[Candidate]):
    """One of them, until all of it is promised or left."""

    __slots__ = ("_prepares",)

    def __init__(self, context: Context, asked: list[int], topology: Topology, quorum: int) -> None:
        super().__init__(context, asked, topology, quorum)
        self._prepares: list[Prepare] = []

    def add(self, candidate: Candidate, ballot: int) -> None:
        """One more, before it begins."""
        self.join(len(self._prepares), candidate)
        self._prepares.append(Prepare(candidate.key, ballot))

    def request(self) -> PrepareMany:
        """See SharedRound."""
        return PrepareMany(self._prepares)

    def decided(self, place: int, member: Candidate) -> None:
        """See SharedRound."""
        member.promised(self._prepares[place].ballot)

    def left(self, place: int, member: Candidate) -> None:
        """See SharedRound."""
        member.converse()

    def end(self) -> None:
        """See SharedRound. A slow replica's answer is still waited for elsewhere, and holds on to this."""
        super().end()
        self._prepares = []

    def overdue(self, place: int, member: Candidate) -> None:
        """See SharedRound."""
        member.unpromised(len(self.votes(place).slots))
