"""Volleys: the writes that a node begins in one turn of the loop go out together, where nothing stands in their way.

Under load most writes find replicas that are there, nobody else at their key, and, where they are strong, a prepared
ballot: one round of accepts, granted. Then a message, a reply, a count of votes and a timer for each of them is work
without news. So those that begin in the same turn of the loop share one message to each replica, one reply and one
count.

The rules are those of any other write: each accept has its own ballot, and each replica decides each for itself
(protocol/acceptor.py). Whatever does not go straight is left to a conversation of its own (protocol/proposer.py and
weak_write.py), which asks for that very accept once more: who has it grants it again. So nothing here has to
understand what went wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import structlog

from cluster.coordination.drive import Context
from cluster.coordination.writing.shared_round import Gathering, Member, SharedRound, Votes
from cluster.membership.topology import Topology
from cluster.protocol.messages import Accept, PromisedMany, Taken, Volley
from cluster.tasks import safely

VOLLEY_BYTES_MAX = 1024 * 1024
"""In one volley before its last write: what waits for all of them must not wait for long, and a frame must hold it."""
ACCEPT_OVERHEAD_BYTES = 100
FENCE_OVERHEAD_BYTES = 12
log = structlog.get_logger()


class Shot(Member, Protocol):
    """One write of a volley: see primary.py and weak_writing.py."""

    def too_few(self, alive: list[int]) -> bool:
        """Whether it needs more replicas than these; then that is its answer."""
        ...

    def straight_accept(self) -> Accept | None:
        """What is to be sent where nothing stands in the way."""
        ...

    def converse(self, begun: Accept | None = None) -> None:
        """It goes its own way; begun: the accept that was sent already."""
        ...

    def chosen(self, accept: Accept, votes: Votes, is_prepared: bool) -> None:
        """As many as it asked for have it on disk; is_prepared: and have promised the next ballot."""
        ...

    def doubtful(self, accept: Accept, votes: Votes) -> None:
        """Its deadline has passed, and too few replicas are known to have it."""
        ...


class Volleys:
    """Gathers the writes of one turn of the loop. Replicas decide them in the order in which they came."""

    def __init__(self, context: Context, kind: type[VolleyRound] | None = None) -> None:
        self._context, self._kind = context, kind or VolleyRound
        self.add = Gathering(self._begin).add

    def _begin(self, shots: list[Shot], slots: tuple[int, ...], topology: Topology, quorum: int) -> None:
        """Whatever one of them raises, the others go: nobody else would ever begin them."""
        alive = self._context.roster.writable(slots)
        volley = self._kind(self._context, alive, topology, quorum)
        for shot in shots:
            try:
                if shot.too_few(alive):
                    continue
                accept = shot.straight_accept()
            except Exception:  # of somebody's function (Compute): its own conversation has a deadline
                log.exception("a change failed")
                accept = None
            if accept is None:
                safely(shot.converse)
                continue
            if volley.bytes >= VOLLEY_BYTES_MAX:
                safely(volley.begin)
                volley = self._kind(self._context, alive, topology, quorum)
            volley.add(shot, accept)
        if volley.accepts:
            safely(volley.begin)


class VolleyRound(SharedRound[Shot]):
    """One volley, until all of it is chosen or left."""

    __slots__ = ("_unpromised", "accepts", "bytes")

    def __init__(self, context: Context, asked: list[int], topology: Topology, quorum: int) -> None:
        super().__init__(context, asked, topology, quorum)
        self._unpromised: set[int] = set()
        self.accepts: list[Accept] = []
        self.bytes = 0
        """About as many as it takes on the wire."""

    def add(self, shot: Shot, accept: Accept) -> None:
        """One more, before it begins."""
        self.join(len(self.accepts), shot)
        self.accepts.append(accept)
        self.bytes += _size(accept)

    def request(self) -> Volley:
        """See SharedRound."""
        return Volley(self.accepts)

    def noted(self, answer: Taken | PromisedMany) -> None:
        """See SharedRound."""
        assert type(answer) is Taken
        self._unpromised.update(answer.unpromised)

    def decided(self, place: int, member: Shot) -> None:
        """See SharedRound."""
        member.chosen(self.accepts[place], self.votes(place), place not in self._unpromised)

    def all_decided(self, members: Mapping[int, Shot]) -> None:
        """See SharedRound."""
        accepts, votes, unpromised = self.accepts, self.votes(), self._unpromised
        for place, shot in members.items():
            safely(shot.chosen, accepts[place], votes, place not in unpromised)

    def left(self, place: int, member: Shot) -> None:
        """See SharedRound."""
        member.converse(self.accepts[place])

    def overdue(self, place: int, member: Shot) -> None:
        """See SharedRound."""
        member.doubtful(self.accepts[place], self.votes(place))

    def end(self) -> None:
        """See SharedRound. A slow replica's answer is still waited for elsewhere, and holds on to this."""
        super().end()
        self.accepts = []


class HedgingRound(VolleyRound):
    """One of writes whose conversations do without slow replicas."""

    __slots__ = ()
    hedges = True


def _size(accept: Accept) -> int:
    record = accept.record
    size = ACCEPT_OVERHEAD_BYTES + len(accept.key) + len(record.value or b"") + len(record.content_type)
    if record.fences is not None:
        size += sum(FENCE_OVERHEAD_BYTES + len(lock) for lock in record.fences)
    return size
