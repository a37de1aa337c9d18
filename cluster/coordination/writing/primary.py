"""The primary: the one proposer of a key's strong writes, while everybody agrees on who it is.

Strong writes of a key queue here instead of duelling. Only speed depends on it: two nodes that both believe to be
the primary are two proposers, and CASPaxos is safe with any number of them.

One attempt at a time per key: a prepared ballot shared by two coroutines would be one ballot used twice. Plain writes
that wait for one key go together (together.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, cast

import msgspec

from cluster.coordination.drive import Context, Drive
from cluster.coordination.writing.canvass import Canvasses
from cluster.coordination.writing.shared_round import Votes
from cluster.coordination.writing.together import ROOM, is_plain_put, outcome_of_earlier, run_behind
from cluster.coordination.writing.volley import Volleys
from cluster.membership.topology import Topology
from cluster.pressure.key_line import KeyLine
from cluster.protocol.changes import Change, Compute, Put, Settle
from cluster.protocol.messages import Accept, Outcome, Settled
from cluster.protocol.prepared import Prepared, PreparedBallots
from cluster.protocol.proposer import Chosen, Proposer, Refuted, Uncertain, accept_after_promises, straight_accept
from cluster.protocol.spread import Spread
from cluster.protocol.steps import Answers, Step
from cluster.requests import Overloaded, Unavailable, Unknown, Written
from cluster.tasks import safely
from storage.ballot import NONE
from storage.record import Record

RETRY_AFTER_S = 1.0

OnOutcome = Callable[[Outcome], None]


class Computed(msgspec.Struct, frozen=True, gc=False):
    """What a Compute left on a majority, and whether it put it there."""

    record: Record | None
    is_new: bool


OnComputed = Callable[[Computed | Unavailable | Overloaded | Unknown], None]


class Primary:
    """Proposes changes, key by key."""

    def __init__(
        self,
        context: Context,
        prepared: PreparedBallots,
        topology: Callable[[], Topology],
        *,
        clock_offset_max_s: float,
    ) -> None:
        self._context, self._prepared, self._topology = context, prepared, topology
        self._clock_offset_max_ms = int(clock_offset_max_s * 1000)
        self._lines: dict[bytes, KeyLine[_Proposal] | None] = {}
        """Of the keys that somebody's turn it is at; None where nobody has waited for his."""
        self._now_s = context.clock.monotonic_s
        self._volleys, self._canvasses = Volleys(context), Canvasses(context)
        self.refused = 0
        """Changes that found the line of their key too long."""

    def submit(self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
        """Proposes the change once those before it on this key have ended.

        on_outcome follows exactly once, by the deadline.
        """
        proposal = _Proposal(self, key, change, needed, deadline_s, on_outcome)
        if key not in self._lines:
            self._lines[key] = None
            proposal.start()
            return
        line = self._lines[key]
        if line is None:
            line = self._lines[key] = KeyLine()
        if wait_s := line.too_long_s(self._now_s(), deadline_s):
            self.refused += 1
            on_outcome(Overloaded(wait_s))
        else:
            line.waiting.append(proposal)
            self._context.sweeper.add(proposal)

    def compute(self, key: bytes, compute: Compute, deadline_s: float, on_outcome: OnComputed) -> None:
        """The same for a function of this node's own."""
        self.submit(key, cast(Change, compute), self._topology().majority, deadline_s, cast(OnOutcome, on_outcome))

    def release(self, key: bytes) -> None:
        """The change of this key is decided: the one that waits longest begins."""
        line = self._lines[key]
        while line is not None and line.waiting:
            proposal = line.waiting.popleft()
            if not proposal.is_over:
                line.turn_begins(self._now_s())
                self._context.sweeper.discard(proposal)
                asyncio.get_running_loop().call_soon(proposal.start)  # not here: a queue is deeper than the stack
                return
        del self._lines[key]


class _Proposal:
    """One change: in the queue, then under way, then, where more than a majority was asked for, spreading."""

    __slots__ = (
        "_along",
        "_ballot",
        "_is_canvassed",
        "_on_outcome",
        "_primary",
        "_proposer",
        "_spread",
        "change",
        "deadline_s",
        "is_over",
        "key",
        "needed",
        "patience_s",
        "topology",
    )

    def __init__(
        self, primary: Primary, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome
    ) -> None:
        self._primary, self.key, self.needed = primary, key, needed
        self.change: Change | Compute = change
        self._on_outcome = on_outcome
        self._along: list[_Proposal] = []
        """Those behind it that go with it; then its change is the last one's."""
        self._ballot = NONE
        """Promised by a majority to this change, and not yet used."""
        self._is_canvassed = False
        """Whether promises were asked for together with others."""
        self.topology = primary._topology()
        self.deadline_s, self.patience_s = deadline_s, float("inf")
        self.is_over = False

    def expire(self) -> None:
        """Its time ran out in the queue: nothing was sent."""
        self._answer(Overloaded(RETRY_AFTER_S))

    def hurry(self) -> None:
        """A queue is not hurried."""

    def start(self) -> None:
        """Its turn has come."""
        self._primary._volleys.add(self)

    @property
    def quorum(self) -> int:
        """A majority, whatever was asked for: then it is chosen."""
        return self.topology.majority

    def too_few(self, alive: list[int]) -> bool:
        """Whether it needs more replicas than these; then that is its answer."""
        if len(alive) >= self.needed:
            return False
        self._release_and_answer(Unavailable(self.needed, len(alive), self.topology.names(alive)))
        return True

    def promised(self, ballot: int) -> None:
        """A majority has promised it, and nothing that is there has a say in this change."""
        self._ballot = ballot
        self._primary._volleys.add(self)

    def unpromised(self, promises: int) -> None:
        """Its time ran out while replicas were asked to promise."""
        self._release_and_answer(Unavailable(self.needed, promises, ()))

    def straight_accept(self) -> Accept | None:
        """What is to be sent where nothing stands in the way; a ballot that can't be used that way stays prepared."""
        primary = self._primary
        if self._ballot:
            put, ballot, self._ballot = cast(Put, self.change), self._ballot, NONE
            return accept_after_promises(self.key, put, ballot, primary._context.ballots.tick)
        prepared, line = primary._prepared.take(self.key), primary._lines[self.key]
        if prepared is None:
            return None
        if line is not None:
            return self._straight_with_others(prepared, line)
        return self._straight(self.change, prepared, primary._context.ballots.tick)

    def _straight_with_others(self, prepared: Prepared, line: KeyLine[_Proposal]) -> Accept | None:
        """The same at a key where others wait: those that can go along do."""
        primary = self._primary
        along: list[_Proposal] = []
        places = 0
        if prepared.ballot == line.roomy:
            along, places = run_behind(self, line.waiting, self.topology.majority, primary._now_s())
        change = along[-1].change if along else self.change
        tick = partial(primary._context.ballots.tick, room=ROOM) if line.waiting else primary._context.ballots.tick
        accept = self._straight(change, prepared, tick)
        if accept is not None:
            line.roomy = accept.next_ballot if line.waiting else 0
            self.change, self._along, line.served = change, along, 1 + len(along)
            for _ in range(places):
                primary._context.sweeper.discard(line.waiting.popleft())
            self.deadline_s = min(proposal.deadline_s for proposal in (self, *along))
        return accept

    def _straight(self, change: Change | Compute, prepared: Prepared, tick: Callable[..., int]) -> Accept | None:
        """A ballot that was not used, or whose change has failed, stays prepared."""
        accept = None
        try:
            accept = straight_accept(self.key, change, prepared, tick)
        finally:
            if accept is None:
                self._primary._prepared.put(self.key, *prepared)
        return accept

    def converse(self, begun: Accept | None = None) -> None:
        """Proposes it with all that may happen on the way. begun: the accept that was sent already."""
        primary = self._primary
        if begun is None and not self._is_canvassed and is_plain_put(self.change):
            self._is_canvassed = True
            primary._canvasses.add(self)
            return
        self._proposer = Proposer(
            self.key,
            self.change,
            majority=self.topology.majority,
            tick=primary._context.ballots.tick,
            prepared=primary._prepared,
            now_ms=primary._context.ballots.now_ms,
            clock_offset_max_ms=primary._clock_offset_max_ms,
        )
        steps = self._proposer.run() if begun is None else self._proposer.carry_on(begun)
        self._drive(steps, self._decided, self._undecided)

    def chosen(self, accept: Accept, votes: Votes, is_prepared: bool) -> None:
        """A majority took it with the first message."""
        record, (slots, names, _) = accept.record, votes
        if is_prepared:
            self._primary._prepared.put(self.key, accept.next_ballot, record)
        if len(slots) < self.needed or isinstance(self.change, Compute):
            self._decided(Chosen(record, slots))
        else:
            self._release_and_answer(Written(record.origin, len(names), names))

    def doubtful(self, accept: Accept, votes: Votes) -> None:
        """Its time ran out while replicas were asked with the first message."""
        self._release_and_answer(Unknown(self.needed, len(votes.slots), (), accept.record.origin))

    def _decided(self, end: Chosen | Refuted | Uncertain) -> None:
        names = self.topology.names(end.slots)
        if not isinstance(end, Uncertain) and len(names) < self.needed and self._is_wanted(end):
            assert end.record is not None, "what is chosen, or remembered, is there"
            self._primary.release(self.key)
            self._spread_out(end.record)
        elif isinstance(self.change, Compute) and not isinstance(end, Uncertain):
            self._release_and_answer(cast(Outcome, Computed(end.record, isinstance(end, Chosen))))
        elif isinstance(end, Chosen):
            self._release_and_answer(Written(end.record.origin, len(names), names))
        elif isinstance(end, Uncertain):
            self._release_and_answer(Unknown(self.needed, len(names), names, end.origin))
        elif isinstance(self.change, Put):
            self._release_and_answer(self.change.conflict(end.record, names))
        else:
            self._release_and_answer(Settled(end.record, names))

    def _undecided(self) -> None:
        """The deadline came first."""
        proposer = self._proposer
        if proposer.sent is None:
            self._release_and_answer(Unavailable(self.needed, proposer.promised, ()))
        else:
            self._release_and_answer(Unknown(self.needed, proposer.accepted, (), proposer.sent))

    def _is_wanted(self, end: Chosen | Refuted) -> bool:
        """Whether it is what was asked for; a refusal waits for no more replicas than it takes."""
        return isinstance(end, Chosen) or (isinstance(self.change, Settle) and self.change.is_remembered(end.record))

    def _spread_out(self, record: Record) -> None:
        """The change is applied; more replicas than a majority are to have it before the answer."""
        majority = self.topology.majority
        self._spread = Spread(self.key, record, needed=self.needed, majority=majority)

        def reached(slots: tuple[int, ...]) -> None:
            names = self.topology.names(slots)
            is_read = isinstance(self.change, Settle)
            self._answer(Settled(record, names) if is_read else Written(record.origin, len(names), names))

        def fell_short() -> None:
            names = self.topology.names(self._spread.slots)
            self._answer(Unknown(self.needed, max(len(names), majority), names, record.origin))

        self._drive(self._spread.run(), reached, fell_short)

    def _drive(
        self,
        steps: Generator[Step, Answers, Any],
        on_end: Callable[[Any], None],
        on_expire: Callable[[], None],
    ) -> None:
        slots = self.topology.replicas_of(self.key)
        Drive(self._primary._context, self.key, steps, slots, self.deadline_s, on_end, on_expire).start()

    def _release_and_answer(self, outcome: Outcome) -> None:
        self._primary.release(self.key)
        self._answer(outcome)

    def _answer(self, outcome: Outcome) -> None:
        self.is_over = True
        if not self._along:
            safely(self._on_outcome, outcome)
            return
        behind = len(self._along)
        for place, proposal in enumerate((self, *self._along)):
            safely(proposal._on_outcome, outcome_of_earlier(outcome, behind - place))
