"""The coordinator: carries out one request of an application, whichever node it came to.

    strong read     ask a majority, settle if they differ            protocol/reader.py
    strong write    hand the change to the key's primary             handover.py, primary.py, protocol/proposer.py
    weak, eventual  one round of reads, or of accepts                protocol/reader.py, weak_write.py

What happens to a request whose client has gone: it goes on. The conversation belongs to the sweeper, not to the
task that awaits it; cancelling that task cancels nothing that was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cluster.coordination.drive import Context, Drive
from cluster.coordination.handover import Handover
from cluster.coordination.weak_write import KeepAside, WeakWrite
from cluster.levels import Level
from cluster.membership.topology import Topology
from cluster.protocol.changes import SETTLE, Put
from cluster.protocol.messages import Accept, Answer, Outcome, Settled
from cluster.protocol.reader import Agreed, NeedsSettling, Newest, StrongRead, WeakRead
from cluster.replica.replica import Replica
from cluster.requests import (
    Conflict,
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


class Coordinator:
    """Reads and writes of single keys; listings are in listing.py."""

    def __init__(
        self,
        context: Context,
        handover: Handover,
        replica: Replica,
        topology: Callable[[], Topology],
        own_slot: int,
        keep_aside: KeepAside,
    ) -> None:
        self._context, self._handover, self._replica = context, handover, replica
        self._topology, self._own_slot, self._keep_aside = topology, own_slot, keep_aside
        self._turn = 0

    async def read(self, request: ReadRequest) -> ReadOutcome:
        """Reads a key as the request's level demands."""
        topology = self._topology()
        slots = topology.replicas_of(request.key)
        if request.level is not Level.STRONG and request.needed == 1 and self._own_slot in slots:
            state = self._replica.peek_committed(request.key)
            if state is not None:
                return Found(state.record, 1, (topology.by_slot[self._own_slot].name,))
        alive = self._nearest_first(slots)
        if len(alive) < request.needed:
            return Unavailable(request.needed, len(alive), _names(topology, alive))
        outcome: asyncio.Future[ReadOutcome] = asyncio.get_running_loop().create_future()
        _Reading(self, topology, request, slots, alive, outcome).start()
        return await outcome

    async def write(self, request: WriteRequest) -> WriteOutcome:
        """Writes or deletes a key as the request's level demands."""
        deadline_s = self._context.clock.monotonic_s() + request.timeout_s
        outcome: asyncio.Future[WriteOutcome] = asyncio.get_running_loop().create_future()
        if request.level is Level.STRONG:
            change = Put(request.value, request.content_type, request.condition)

            def ended(result: Outcome) -> None:
                assert not isinstance(result, Settled), "a put ends in no settling"
                _set(outcome, result)

            self._handover.submit(request.key, change, request.needed, deadline_s, ended)
            return await self._or_unknown(outcome, request, deadline_s)
        return await self._write_weakly(request, deadline_s, outcome)

    async def _write_weakly(
        self, request: WriteRequest, deadline_s: float, outcome: asyncio.Future[WriteOutcome]
    ) -> WriteOutcome:
        topology = self._topology()
        alive = [slot for slot in topology.replicas_of(request.key) if self._context.transport.is_alive(slot)]
        if len(alive) < request.needed:
            return Unavailable(request.needed, len(alive), _names(topology, tuple(alive)))
        ballot = self._context.ballots.tick()
        record = Record(ballot, ballot, True, request.value, request.content_type)
        WeakWrite(
            self._context,
            self._handover,
            self._keep_aside,
            topology,
            request.key,
            record,
            request.needed,
            deadline_s,
            lambda result: _set(outcome, result),
        ).start()
        return await outcome

    async def _or_unknown(
        self, outcome: asyncio.Future[WriteOutcome], request: WriteRequest, deadline_s: float
    ) -> WriteOutcome:
        """A primary that keeps silent past the deadline leaves an unknown."""
        watch = _SilenceWatch(outcome, request.needed, deadline_s)
        self._context.sweeper.add(watch)
        try:
            return await outcome
        finally:
            self._context.sweeper.discard(watch)

    def _nearest_first(self, slots: tuple[int, ...]) -> tuple[int, ...]:
        """The live replicas: this node first if it is one, the others in turn, so that they share the reading."""
        is_alive = self._context.transport.is_alive
        others = [slot for slot in slots if slot != self._own_slot and is_alive(slot)]
        if len(others) > 1:
            self._turn += 1
            cut = self._turn % len(others)
            others = others[cut:] + others[:cut]
        return (self._own_slot, *others) if self._own_slot in slots else tuple(others)


class _SilenceWatch:
    """Ends the wait for a primary that never answers."""

    __slots__ = ("_needed", "_outcome", "deadline_s", "patience_s")

    def __init__(self, outcome: asyncio.Future[WriteOutcome], needed: int, deadline_s: float) -> None:
        self._outcome, self._needed = outcome, needed
        self.deadline_s, self.patience_s = deadline_s, float("inf")

    def expire(self) -> None:
        """The change was handed over and nothing came back."""
        _set(self._outcome, Unknown(self._needed, 0, (), None))

    def hurry(self) -> None:
        """Nobody else may be asked."""


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
        Drive(context, self._read.run(), self._slots, self._deadline_s, self._ended, self._expired).start()

    def _ended(self, end: Agreed | Newest | NeedsSettling) -> None:
        if isinstance(end, NeedsSettling):
            self._coordinator._handover.submit(
                self._request.key, SETTLE, self._topology.majority, self._deadline_s, self._settled
            )
            return
        names = _names(self._topology, end.slots)
        _set(self._outcome, Found(end.record, len(names), names))
        if end.record is not None:
            self._repair(end.record)

    def _repair(self, record: Record) -> None:
        """Brings along the replicas that were seen with something older, now that the answer is on its way."""
        behind = [slot for slot, held in self._read.held.items() if held is None or held.ballot < record.ballot]
        accept = Accept(self._request.key, record, NONE, yielding=record.weak)
        for slot in behind:
            self._coordinator._context.transport.send(slot, accept, _ignore)

    def _settled(self, outcome: Outcome) -> None:
        """What the primary made of it; a read that met trouble may simply begin anew."""
        if isinstance(outcome, Settled):
            names = tuple(sorted({*outcome.replicas, *_names(self._topology, tuple(self._read.held))}))
            _set(self._outcome, Found(outcome.record, len(names), names))
        elif isinstance(outcome, Unavailable | Overloaded):
            _set(self._outcome, outcome)
        else:
            assert isinstance(outcome, Unknown | Written | Conflict)
            _set(self._outcome, TimedOut(self._request.needed, len(self._read.held), ()))

    def _expired(self) -> None:
        _set(self._outcome, TimedOut(self._request.needed, len(self._read.held), ()))


def _ignore(slot: int, answer: Answer) -> None:
    """A repair that was refused or lost is left to the next read."""


def _set(future: asyncio.Future[Any], value: object) -> None:
    """Sets the result, unless the one who awaits it has gone or has it already."""
    if not future.done():
        future.set_result(value)


def _names(topology: Topology, slots: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(sorted(topology.by_slot[slot].name for slot in slots))
