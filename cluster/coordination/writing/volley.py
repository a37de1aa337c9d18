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

import asyncio
from collections.abc import Iterable
from typing import Protocol

import structlog

from cluster.coordination.drive import Context
from cluster.membership.topology import Topology
from cluster.protocol.messages import Accept, Answer, Taken, Volley
from cluster.tasks import safely

VOLLEY_BYTES_MAX = 1024 * 1024
"""In one volley before its last write: what waits for all of them must not wait for long, and a frame must hold it."""
ACCEPT_OVERHEAD_BYTES = 100
FENCE_OVERHEAD_BYTES = 12
log = structlog.get_logger()


class Shot(Protocol):
    """One write of a volley: see primary.py and weak_writing.py."""

    key: bytes
    topology: Topology
    deadline_s: float

    @property
    def quorum(self) -> int:
        """How many replicas have to take it."""
        ...

    def too_few(self, alive: list[int]) -> bool:
        """Whether it needs more replicas than these; then that is its answer."""
        ...

    def straight_accept(self) -> Accept | None:
        """What is to be sent where nothing stands in the way."""
        ...

    def converse(self, begun: Accept | None = None) -> None:
        """It goes its own way; begun: the accept that was sent already."""
        ...

    def chosen(self, accept: Accept, slots: tuple[int, ...], names: tuple[str, ...], is_prepared: bool) -> None:
        """So many have it on disk; is_prepared: and have promised the next ballot."""
        ...

    def doubtful(self, accept: Accept, slots: tuple[int, ...]) -> None:
        """Its deadline has passed, and too few replicas are known to have it: these."""
        ...


class Volleys:
    """Gathers the writes of one turn of the loop."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._gathered: list[Shot] = []

    def add(self, shot: Shot) -> None:
        """It begins at the end of this turn. Replicas decide them in the order in which they came."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._fire)
        self._gathered.append(shot)

    def _fire(self) -> None:
        shots, self._gathered = self._gathered, []
        alike: dict[tuple[tuple[int, ...], int], tuple[Topology, list[Shot]]] = {}
        for shot in shots:
            kind = shot.topology.voters_of(shot.key), shot.quorum
            sharing = alike.get(kind)
            if sharing is None:
                sharing = alike[kind] = (shot.topology, [])
            sharing[1].append(shot)
        for (slots, quorum), (topology, together) in alike.items():
            self._send(together, self._context.roster.writable(slots), topology, quorum)

    def _send(self, shots: Iterable[Shot], alive: list[int], topology: Topology, quorum: int) -> None:
        """Whatever one of them raises, the others go: nobody else would ever begin them."""
        volley = _UnderWay(self._context, alive, topology, quorum)
        for shot in shots:
            if shot.too_few(alive):
                continue
            accept = _straight(shot)
            if accept is None:
                safely(shot.converse)
                continue
            if volley.bytes >= VOLLEY_BYTES_MAX:
                safely(volley.begin)
                volley = _UnderWay(self._context, alive, topology, quorum)
            volley.add(shot, accept)
        if volley.accepts:
            safely(volley.begin)


def _straight(shot: Shot) -> Accept | None:
    try:
        return shot.straight_accept()
    except Exception:  # of somebody's function (Compute): its own conversation has a deadline
        log.exception("a change failed")
        return None


class _UnderWay:
    """One volley, until all of it is chosen or left."""

    __slots__ = (
        "_asked",
        "_context",
        "_is_over",
        "_outstanding",
        "_quorum",
        "_shots",
        "_taken_by",
        "_topology",
        "_unpromised",
        "accepts",
        "bytes",
        "deadline_s",
        "patience_s",
    )

    def __init__(self, context: Context, asked: list[int], topology: Topology, quorum: int) -> None:
        self._context, self._asked, self._topology, self._quorum = context, asked, topology, quorum
        self._shots: dict[int, Shot] = {}
        """By place, those that are neither chosen nor left."""
        self._taken_by: list[int] = []
        self._unpromised: set[int] = set()
        self._outstanding = len(asked)
        self._is_over = False
        self.accepts: list[Accept] = []
        self.bytes = 0
        """About as many as it takes on the wire."""
        self.deadline_s = self.patience_s = float("inf")

    def add(self, shot: Shot, accept: Accept) -> None:
        """One more, before it begins."""
        self._shots[len(self.accepts)] = shot
        self.accepts.append(accept)
        self.bytes += _size(accept)
        self.deadline_s = min(self.deadline_s, shot.deadline_s)

    def begin(self) -> None:
        """Sends it, as soon as its ballots may leave this node."""
        context = self._context
        context.sweeper.add(self)
        if context.ballots.check_durable():
            self._ask()
        else:
            context.ballots.when_durable(self._ask)

    def _ask(self) -> None:
        if self._is_over:
            return
        volley = Volley(self.accepts)
        for slot in self._asked:
            self._context.transport.send(slot, volley, self._answered)

    def _answered(self, slot: int, answer: Answer) -> None:
        if self._is_over:
            return
        self._outstanding -= 1
        if type(answer) is Taken:
            for place in answer.left:  # before it counts: what was left there is not taken by it
                self._leave(place)
            self._taken_by.append(slot)
            self._unpromised.update(answer.unpromised)
            if len(self._taken_by) == self._quorum:
                self._chosen()
        elif len(self._taken_by) + self._outstanding < self._quorum:
            for place in list(self._shots):
                self._leave(place)
        if not self._shots:
            self._end()

    def _leave(self, place: int) -> None:
        shot = self._shots.pop(place, None)
        if shot is not None:
            safely(shot.converse, self.accepts[place])

    def _chosen(self) -> None:
        slots = tuple(self._taken_by)
        names = self._topology.names(slots)
        shots, self._shots = self._shots, {}
        for place, shot in shots.items():
            safely(shot.chosen, self.accepts[place], slots, names, place not in self._unpromised)

    def _end(self) -> None:
        self._is_over = True
        self.accepts = []  # a slow replica's answer is still waited for elsewhere, and holds on to this
        self._context.sweeper.discard(self)

    def expire(self) -> None:
        """The time of one of them, at least, has run out."""
        now_s = self._context.clock.monotonic_s()
        for place, shot in list(self._shots.items()):
            if shot.deadline_s <= now_s:
                del self._shots[place]
                safely(shot.doubtful, self.accepts[place], tuple(self._taken_by))
        if self._shots:
            self.deadline_s = min(shot.deadline_s for shot in self._shots.values())
            self._context.sweeper.add(self)
        else:
            self._end()

    def hurry(self) -> None:
        """A quorum is all that it waits for."""


def _size(accept: Accept) -> int:
    record = accept.record
    size = ACCEPT_OVERHEAD_BYTES + len(accept.key) + len(record.value or b"") + len(record.content_type)
    if record.fences is not None:
        size += sum(FENCE_OVERHEAD_BYTES + len(lock) for lock in record.fences)
    return size
