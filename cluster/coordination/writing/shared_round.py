"""A shared round: one message to each replica about several keys, one reply, one count of votes, one timer.

What a replica leaves out of its reply is not granted by it. Where a quorum can't be had without those that left it out,
the key has a conversation of its own: nothing here has to understand what went wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from cluster.coordination.drive import Context
from cluster.membership.topology import Topology
from cluster.protocol.messages import Answer, Lost, PromisedMany, Request, Taken
from cluster.tasks import safely

PATIENCE_S = 0.05
"""How long what one replica did not grant waits for the others: they answer in a fraction of that, or not soon."""


class Votes(NamedTuple):
    """Who has granted something, and from whom no answer will come."""

    slots: tuple[int, ...]
    names: tuple[str, ...]
    lost: tuple[int, ...]


class Member(Protocol):
    """One write that takes part."""

    key: bytes
    topology: Topology
    deadline_s: float

    @property
    def quorum(self) -> int:
        """How many replicas have to grant it."""
        ...


MemberType = TypeVar("MemberType", bound=Member)
Begin = Callable[[list[MemberType], tuple[int, ...], Topology, int], None]
"""(members, their replicas, topology, quorum)"""


class Gathering(Generic[MemberType]):
    """Those that come in one turn of the loop; at its end they begin, those together that ask the same replicas."""

    def __init__(self, begin: Begin[MemberType]) -> None:
        self._begin = begin
        self._gathered: list[MemberType] = []

    def add(self, member: MemberType) -> None:
        """One more of this turn."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._end_of_turn)
        self._gathered.append(member)

    def _end_of_turn(self) -> None:
        members, self._gathered = self._gathered, []
        alike: dict[tuple[tuple[int, ...], int], tuple[Topology, list[MemberType]]] = {}
        for member in members:
            kind = member.topology.voters_of(member.key), member.quorum
            sharing = alike.get(kind)
            if sharing is None:
                sharing = alike[kind] = (member.topology, [])
            sharing[1].append(member)
        for (slots, quorum), (topology, together) in alike.items():
            safely(self._begin, together, slots, topology, quorum)


class SharedRound(Generic[MemberType]):
    """One of them, until each of its members is decided or left. Subclasses say what is asked and what comes of it."""

    __slots__ = (
        "_asked",
        "_context",
        "_granted_by",
        "_is_over",
        "_left_by",
        "_lost",
        "_members",
        "_outstanding",
        "_quorum",
        "_topology",
        "deadline_s",
        "patience_s",
    )

    def __init__(self, context: Context, asked: list[int], topology: Topology, quorum: int) -> None:
        self._context, self._asked, self._topology, self._quorum = context, asked, topology, quorum
        self._members: dict[int, MemberType] = {}
        """By place, those that are neither decided nor left."""
        self._lost: list[int] = []
        """From whom no answer will come."""
        self._granted_by: list[int] = []
        """Who has answered and granted all but what it left out."""
        self._left_by: dict[int, list[int]] = {}
        """Of the places that somebody left out: who."""
        self._outstanding = len(asked)
        self._is_over = False
        self.deadline_s = self.patience_s = float("inf")

    hedges = False
    """Whether members have conversations that do without slow replicas: then they don't wait here for these either,
    once somebody has not granted what was asked."""

    # -- what a subclass brings --------------------------------------------------------------------------------------

    def request(self) -> Request:
        """What each replica is asked."""
        raise NotImplementedError

    def noted(self, answer: Taken | PromisedMany) -> None:
        """A replica has granted all but what it left out."""

    def decided(self, place: int, member: MemberType) -> None:
        """A quorum has granted this one."""
        raise NotImplementedError

    def all_decided(self, members: Mapping[int, MemberType]) -> None:
        """A quorum has granted all of these; nobody left any of them out."""
        for place, member in members.items():
            safely(self.decided, place, member)

    def left(self, place: int, member: MemberType) -> None:
        """This one goes its own way."""
        raise NotImplementedError

    def overdue(self, place: int, member: MemberType) -> None:
        """The time of this one has run out."""
        raise NotImplementedError

    # -- the round ---------------------------------------------------------------------------------------------------

    def join(self, place: int, member: MemberType) -> None:
        """One more, before it begins."""
        self._members[place] = member
        self.deadline_s = min(self.deadline_s, member.deadline_s)

    def begin(self) -> None:
        """Asks, as soon as the ballots may leave this node."""
        context = self._context
        context.sweeper.add(self)
        if context.ballots.check_durable():
            self._ask()
        else:
            context.ballots.when_durable(self._ask)

    def _ask(self) -> None:
        if self._is_over:
            return
        request = self.request()
        for slot in self._asked:
            self._context.transport.send(slot, request, self._answered)

    def _answered(self, slot: int, answer: Answer) -> None:
        if self._is_over:
            return
        self._outstanding -= 1
        if type(answer) is Taken or type(answer) is PromisedMany:
            self._granted_by.append(slot)
            for place in answer.left:
                self._left_by.setdefault(place, []).append(slot)
            self.noted(answer)
        elif type(answer) is Lost:
            self._lost.append(slot)
        granted = len(self._granted_by)
        if self._left_by or granted + self._outstanding < self._quorum:
            self._count_each()
        elif granted == self._quorum:
            members, self._members = self._members, {}
            self.all_decided(members)
        if not self._members:
            self.end()
        elif self.patience_s == float("inf") and (self._left_by or self._is_hedging):
            self.patience_s = self._context.clock.monotonic_s() + PATIENCE_S

    @property
    def _is_hedging(self) -> bool:
        return self.hedges and len(self._granted_by) + self._outstanding < len(self._asked)

    def _count_each(self) -> None:
        granted = len(self._granted_by)
        for place, member in list(self._members.items()):
            votes = granted - len(self._left_by.get(place, ()))
            if votes >= self._quorum:
                del self._members[place]
                safely(self.decided, place, member)
            elif votes + self._outstanding < self._quorum:
                self._leave(place)

    def _leave(self, place: int) -> None:
        safely(self.left, place, self._members.pop(place))

    def votes(self, place: int | None = None) -> Votes:
        """Who has granted this one so far, or one that nobody has left out."""
        left_by = () if place is None else self._left_by.get(place, ())
        slots = tuple([slot for slot in self._granted_by if slot not in left_by])
        return Votes(slots, self._topology.names(slots), tuple(self._lost))

    def end(self) -> None:
        """All are decided or left: whatever still comes is ignored."""
        self._is_over = True
        self._context.sweeper.discard(self)

    def expire(self) -> None:
        """The time of one of them, at least, has run out."""
        now_s = self._context.clock.monotonic_s()
        for place, member in list(self._members.items()):
            if member.deadline_s <= now_s:
                del self._members[place]
                safely(self.overdue, place, member)
        if self._members:
            self.deadline_s = min(member.deadline_s for member in self._members.values())
            self._context.sweeper.add(self)
        else:
            self.end()

    def hurry(self) -> None:
        """What somebody did not grant, and others are slow to, does not wait for them: they may be paused."""
        self.patience_s = float("inf")
        for place in [place for place in self._members if self._is_hedging or place in self._left_by]:
            self._leave(place)
        if not self._members:
            self.end()
