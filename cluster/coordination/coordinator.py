"""The coordinator: carries out one request of an application, whichever node it came to.

    strong read     ask a majority, settle if they differ            protocol/reader.py
    strong write    hand the change to the key's primary             handover.py, primary.py, protocol/proposer.py
    weak, eventual  one round of reads, or of accepts                protocol/reader.py, protocol/weak_write.py

What happens to a request whose client has gone: it goes on. The conversation belongs to the sweeper, not to the
task that awaits it; cancelling that task cancels nothing that was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from cluster.coordination.drive import Context, Drive
from cluster.coordination.read_repair import Repair
from cluster.levels import Level
from cluster.membership.topology import Topology
from cluster.protocol.changes import SETTLE, Put
from cluster.protocol.messages import Outcome, Settled
from cluster.protocol.reader import Agreed, NeedsSettling, Newest, StrongRead, WeakRead
from cluster.protocol.weak_write import Outrun, Stuck, Taken, WeakWrite
from cluster.replica.replica import Replica
from cluster.requests import (
    Found,
    Overloaded,
    ReadOutcome,
    ReadRequest,
    TimedOut,
    Unavailable,
    Unknown,
    WriteOutcome,
    WriteRequest,
    Written,
)
from storage.ballot import NONE
from storage.record import Record

KeepAside = Callable[[bytes, Record, Callable[[], None]], None]
"""(key, record, kept): keeps the record on disk, then calls kept."""


class Coordinator:
    """Reads and writes of single keys; listings are in listing.py."""

    def __init__(
        self,
        context: Context,
        replica: Replica,
        topology: Callable[[], Topology],
        own_slot: int,
        keep_aside: KeepAside,
        clock_offset_max_s: float,
    ) -> None:
        self._context, self._replica, self._clock_offset_max_s = context, replica, clock_offset_max_s
        self._is_readable = context.roster.is_readable
        self._topology, self._own_slot, self._keep_aside = topology, own_slot, keep_aside
        self._turn = 0

    async def read(self, request: ReadRequest) -> ReadOutcome:
        """Reads a key as the request's level demands."""
        topology = self._topology()
        slots = topology.replicas_of(request.key)
        own = self._own_slot
        if request.level is not Level.STRONG and request.needed == 1 and own in slots and self._is_readable(own):
            state = self._replica.peek_committed(request.key)
            if state is not None:
                return Found(state.record, 1, (topology.by_slot[self._own_slot].name,))
        alive = self._nearest_first(slots)
        if len(alive) < request.needed:
            return Unavailable(request.needed, len(alive), topology.names(alive))
        outcome: asyncio.Future[ReadOutcome] = asyncio.get_running_loop().create_future()
        _Reading(self, topology, request, slots, alive, outcome).start()
        return await outcome

    async def write(self, request: WriteRequest) -> WriteOutcome:
        """Writes or deletes a key as the request's level demands."""
        deadline_s = self._context.clock.monotonic_s() + request.timeout_s
        outcome: asyncio.Future[WriteOutcome] = asyncio.get_running_loop().create_future()
        if request.level is Level.STRONG:
            change = Put(request.value, request.content_type, request.condition)
            set_outcome = partial(_set, outcome)
            self._context.hand_over(request.key, change, request.needed, deadline_s, set_outcome)
        else:
            topology = self._topology()
            alive = self._context.roster.writable(topology.replicas_of(request.key))
            if len(alive) < request.needed:
                return Unavailable(request.needed, len(alive), topology.names(alive))
            _WeakWriting(self, topology, request, deadline_s, outcome).start()
        return await outcome

    def _nearest_first(self, slots: tuple[int, ...]) -> tuple[int, ...]:
        """The live replicas: this node first if it is one, the others in turn, so that they share the reading."""
        is_readable = self._context.roster.is_readable
        others = [slot for slot in slots if slot != self._own_slot and is_readable(slot)]
        if len(others) > 1:
            self._turn += 1
            cut = self._turn % len(others)
            others = others[cut:] + others[:cut]
        own_first = self._own_slot in slots and is_readable(self._own_slot)
        return (self._own_slot, *others) if own_first else tuple(others)


class _WeakWriting:
    """One weak or eventual write on its way."""

    __slots__ = ("_coordinator", "_deadline_s", "_outcome", "_record", "_request", "_topology", "_write")

    def __init__(
        self,
        coordinator: Coordinator,
        topology: Topology,
        request: WriteRequest,
        deadline_s: float,
        outcome: asyncio.Future[WriteOutcome],
    ) -> None:
        self._coordinator, self._topology, self._request = coordinator, topology, request
        self._deadline_s, self._outcome = deadline_s, outcome
        # A record that lies here may be stamped far ahead, by a clock that was wrong before this node last started.
        state = coordinator._replica.peek(request.key)
        self._make_record(above=NONE if state is None else state.ballot)

    def _make_record(self, above: int) -> None:
        ballots, allowed_s = self._coordinator._context.ballots, self._coordinator._clock_offset_max_s
        request, topology = self._request, self._topology
        ballot = ballots.tick(above)
        self._record = Record(ballot, ballot, True, request.value, request.content_type)
        self._write = WeakWrite(
            request.key,
            self._record,
            needed=request.needed,
            majority=topology.majority,
            replicas=topology.n,
            name_of=lambda slot: topology.by_slot[slot].name,
            horizon=lambda ballot: ballots.horizon(ballot, allowed_s),
        )

    def start(self) -> None:
        """Begins."""
        key, slots = self._request.key, self._topology.replicas_of(self._request.key)
        context = self._coordinator._context
        Drive(context, key, self._write.run(), slots, self._deadline_s, self._ended, self._fell_short).start()

    def _ended(self, end: Taken | Stuck | Outrun) -> None:
        if isinstance(end, Taken):
            names = tuple(sorted(self._write.taken))
            _set(self._outcome, Written(self._record.origin, len(names), names))
        elif isinstance(end, Outrun):
            self._make_record(above=end.highest)
            self.start()
        else:
            self._fell_short()

    def _fell_short(self) -> None:
        """Not enough, and no time or no way to go on."""
        if self._write.must_be_kept:
            self._coordinator._keep_aside(self._request.key, self._record, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        names, needed = tuple(sorted(self._write.taken)), self._request.needed
        if self._write.may_be_applied or self._write.must_be_kept:
            _set(self._outcome, Unknown(needed, len(names), names, self._record.origin))
        else:
            _set(self._outcome, Unavailable(needed, len(names), names))


class _Reading:
    """One read on its way."""

    __slots__ = ("_coordinator", "_deadline_s", "_outcome", "_read", "_request", "_slots", "_topology")

    def __init__(
        self,
        coordinator: Coordinator,
        topology: Topology,
        request: ReadRequest,
        slots: tuple[int, ...],
        alive: tuple[int, ...],
        outcome: asyncio.Future[ReadOutcome],
    ) -> None:
        self._coordinator, self._topology, self._request, self._slots = coordinator, topology, request, slots
        self._outcome = outcome
        self._deadline_s = coordinator._context.clock.monotonic_s() + request.timeout_s
        first = alive[: request.needed]
        self._read: StrongRead | WeakRead
        if request.level is Level.STRONG:
            self._read = StrongRead(request.key, majority=topology.majority, needed=request.needed, first=first)
        else:
            at_once = alive if request.level is Level.EVENTUAL and coordinator._own_slot not in alive else first
            self._read = WeakRead(request.key, needed=request.needed, first=at_once)

    def start(self) -> None:
        """Begins."""
        context = self._coordinator._context
        Drive(
            context, self._request.key, self._read.run(), self._slots, self._deadline_s, self._ended, self._expired
        ).start()

    def _ended(self, end: Agreed | Newest | NeedsSettling) -> None:
        if isinstance(end, NeedsSettling):
            self._coordinator._context.hand_over(
                self._request.key, SETTLE, self._topology.majority, self._deadline_s, self._settled
            )
            return
        names = self._topology.names(end.slots)
        if end.record is not None:  # whoever read it here and writes here next means to replace it
            self._coordinator._context.ballots.absorb(end.record.ballot)
        _set(self._outcome, Found(end.record, len(names), names))
        Repair(self._coordinator._context, self._topology, self._request.key).begin(end.record, self._read.held)

    def _settled(self, outcome: Outcome) -> None:
        """What the primary made of it; a read that met trouble may simply begin anew."""
        if isinstance(outcome, Settled):
            names = tuple(sorted({*outcome.replicas, *self._topology.names(self._read.held)}))
            _set(self._outcome, Found(outcome.record, len(names), names))
        elif isinstance(outcome, Unavailable | Overloaded):
            _set(self._outcome, outcome)
        else:
            _set(self._outcome, TimedOut(self._request.needed, len(self._read.held), ()))

    def _expired(self) -> None:
        _set(self._outcome, TimedOut(self._request.needed, len(self._read.held), ()))


def _set(future: asyncio.Future[Any], value: object) -> None:
    """Sets the result, unless the one who awaits it has gone or has it already."""
    if not future.done():
        future.set_result(value)
