"""The coordinator: carries out one request of an application, whichever node it came to.

    strong read     ask a majority, settle if they differ            glances.py, protocol/reader.py
      with a fence  let the primary settle it, marked with the fence
    strong write    hand the change to the key's primary             handover.py, primary.py, protocol/proposer.py
      with a fence  first see that its lock has granted it           granted_fences.py
    weak, eventual  one round of reads, or of accepts                protocol/reader.py, weak_writing.py

What happens to a request whose client has gone: it goes on. The conversation belongs to the sweeper, not to the
task that awaits it; cancelling that task cancels nothing that was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from cluster.coordination.drive import Context, Drive
from cluster.coordination.expiry import is_doubtful, is_expired, settle
from cluster.coordination.granted_fences import GrantedFences
from cluster.coordination.reading.glances import Glances
from cluster.coordination.reading.read_repair import Repair
from cluster.coordination.writing.handover import Handover
from cluster.coordination.writing.weak_writing import WeakWriter
from cluster.levels import Level
from cluster.membership.topology import Topology
from cluster.protocol.changes import Put, highest_seen
from cluster.protocol.messages import Outcome, Settled
from cluster.protocol.reader import Agreed, NeedsSettling, Newest, StrongRead, WeakRead
from cluster.replica.replica import Replica
from cluster.requests import (
    BadFence,
    Conflict,
    Fence,
    FencedReadOutcome,
    Found,
    Overloaded,
    ReadOutcome,
    ReadRequest,
    TimedOut,
    Unavailable,
    Unknown,
    WriteOutcome,
    WriteRequest,
)
from cluster.tasks import safely
from storage.record import Record


class Coordinator:
    """Reads and writes of single keys; listings are in reading/listing.py."""

    def __init__(
        self,
        context: Context,
        replica: Replica,
        topology: Callable[[], Topology],
        own_slot: int,
        weak_writer: WeakWriter,
        handover: Handover,
    ) -> None:
        self._context, self._replica, self._weak_writer = context, replica, weak_writer
        self._is_readable = context.roster.is_readable
        self._topology, self._own_slot = topology, own_slot
        self._handover, self._turn = handover, 0
        self._glances = Glances(context)
        self._granted = GrantedFences(self.read, lambda: topology().majority)

    async def read(self, request: ReadRequest) -> ReadOutcome:
        """Reads a key as the request's level demands; its fence is for read_fenced()."""
        outcome: asyncio.Future[ReadOutcome] = asyncio.get_running_loop().create_future()
        self.begin_read(request, partial(set_once, outcome))
        return await outcome

    def begin_read(self, request: ReadRequest, on_outcome: Callable[[ReadOutcome], None]) -> None:
        """The same; on_outcome is called once, maybe before this returns."""
        topology = self._topology()
        slots = topology.replicas_of(request.key)
        own = self._own_slot
        if request.level is not Level.STRONG and request.needed == 1 and own in slots and self._is_readable(own):
            state = self._replica.peek_committed(request.key)
            if state is not None:
                on_outcome(Found(self.shown(state.record), 1, (topology.by_slot[own].name,)))
                return
        alive = self._nearest_first(slots)
        if len(alive) < request.needed:
            on_outcome(Unavailable(request.needed, len(alive), topology.names(alive)))
            return
        reading = _Reading(self, topology, request, slots, alive, on_outcome)
        if request.level is Level.STRONG and request.needed == topology.majority == 2 and alive[0] == own:
            state = self._replica.glimpse(request.key)
            if state is not None and not is_doubtful(self._context, state.record):
                self._glances.add(alive[1], request.key, state.record, reading)
                return
        reading.start()

    async def read_fenced(self, request: ReadRequest, fence: Fence) -> FencedReadOutcome:
        """Reads a key at the strong level, once it remembers the fence: from then on no earlier holder writes there."""
        deadline_s = self._context.clock.monotonic_s() + request.timeout_s
        refusal = await self._why_not_under(fence, request.key, request.timeout_s)
        if refusal is not None:
            return refusal
        change = settle(self._context, fence)
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        set_settled = partial(set_once, settled)
        self._context.hand_over(request.key, change, request.needed, deadline_s, set_settled)
        outcome = await settled
        if isinstance(outcome, Settled):
            names, record = outcome.replicas, outcome.record
            if record is not None:
                self._context.ballots.absorb(record.ballot)
            return change.conflict(record, names) or Found(record, len(names), names)
        if isinstance(outcome, Unavailable | Overloaded):
            return outcome
        heard = outcome.replicas if isinstance(outcome, Unknown) else ()
        return TimedOut(request.needed, len(heard), heard)

    async def write(self, request: WriteRequest) -> WriteOutcome:
        """Writes or deletes a key as the request's level demands."""
        deadline_s = self._context.clock.monotonic_s() + request.timeout_s
        if request.fence is not None:
            refusal = await self._why_not_under(request.fence, request.key, request.timeout_s)
            if refusal is not None:
                return refusal
        outcome: asyncio.Future[WriteOutcome] = asyncio.get_running_loop().create_future()
        self._begin_write(request, deadline_s, partial(set_once, outcome))
        return await outcome

    def begin_write(self, request: WriteRequest, on_outcome: Callable[[WriteOutcome], None]) -> None:
        """The same for a write without a fence; on_outcome is called once, maybe before this returns."""
        self._begin_write(request, self._context.clock.monotonic_s() + request.timeout_s, on_outcome)

    def begin_writes(
        self, requests: Sequence[WriteRequest], timeout_s: float, on_outcome: Callable[[int, WriteOutcome], None]
    ) -> None:
        """Strong writes of different keys, without a fence, that need as many replicas and have this time together.

        on_outcome(place, outcome) is called once for each, maybe before this returns.
        """
        now_ms = self._context.ballots.now_ms()
        puts = [(request.key, _put_of(request, now_ms)) for request in requests]
        deadline_s = self._context.clock.monotonic_s() + timeout_s
        self._handover.submit_many(
            puts, requests[0].needed, deadline_s, cast("Callable[[int, Outcome], None]", on_outcome)
        )

    def _begin_write(
        self, request: WriteRequest, deadline_s: float, on_outcome: Callable[[WriteOutcome], None]
    ) -> None:
        if request.level is Level.STRONG:
            put = _put_of(request, self._context.ballots.now_ms())
            self._context.hand_over(
                request.key, put, request.needed, deadline_s, cast("Callable[[Outcome], None]", on_outcome)
            )
        else:
            self._weak_writer.begin(request, deadline_s, on_outcome)

    async def _why_not_under(
        self, fence: Fence, key: bytes, timeout_s: float
    ) -> Conflict | BadFence | Unavailable | Overloaded | None:
        """Why the key must not be asked under this fence; None when it may be, and then it has the last word.

        A number that is too low for the key is called so, whether its lock granted it or somebody made it up.
        """
        refusal = await self._granted.refusal(fence, timeout_s)
        if isinstance(refusal, BadFence) and fence.number < refusal.highest:
            found = await self.read(ReadRequest(key, Level.STRONG, self._topology().majority, timeout_s))
            if isinstance(found, Found) and (seen := highest_seen(found.record, fence)) > fence.number:
                there = found.record if found.record is not None and found.record.value is not None else None
                version = there.origin if there is not None else None
                return Conflict(version, found.acks, found.replicas, fence=seen)
        return refusal

    def shown(self, record: Record | None) -> Record | None:
        """What a weak read makes of a record: an expired value is not there."""
        return record.deleted() if record and is_expired(self._context, record) else record

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


class _Reading:
    """One read on its way."""

    __slots__ = ("_alive", "_coordinator", "_on_outcome", "_read", "_request", "_slots", "_topology", "deadline_s")

    def __init__(
        self,
        coordinator: Coordinator,
        topology: Topology,
        request: ReadRequest,
        slots: tuple[int, ...],
        alive: tuple[int, ...],
        on_outcome: Callable[[ReadOutcome], None],
    ) -> None:
        self._coordinator, self._topology, self._request, self._slots = coordinator, topology, request, slots
        self._on_outcome = on_outcome
        self.deadline_s = coordinator._context.clock.monotonic_s() + request.timeout_s
        self._alive = alive

    def agreed(self, record: Record | None, other: int) -> None:
        """This node and another, a majority, hold the same: that is the answer."""
        coordinator = self._coordinator
        if record is not None:
            coordinator._context.ballots.absorb(record.ballot)
        safely(self._on_outcome, Found(record, 2, self._topology.names((coordinator._own_slot, other))))

    def start(self) -> None:
        """Begins a conversation of its own."""
        coordinator, topology, request, alive = self._coordinator, self._topology, self._request, self._alive
        context, first = coordinator._context, alive[: request.needed]
        self._read: StrongRead | WeakRead
        if request.level is Level.STRONG:
            self._read = StrongRead(request.key, majority=topology.majority, needed=request.needed, first=first)
        else:
            at_once = alive if request.level is Level.EVENTUAL and coordinator._own_slot not in alive else first
            self._read = WeakRead(request.key, needed=request.needed, first=at_once)
        Drive(
            context, self._request.key, self._read.run(), self._slots, self.deadline_s, self._ended, self._expired
        ).start()

    def _ended(self, end: Agreed | Newest | NeedsSettling) -> None:
        context = self._coordinator._context
        if isinstance(end, NeedsSettling) or (isinstance(end, Agreed) and is_doubtful(context, end.record)):
            change, majority = settle(context), self._topology.majority
            context.hand_over(self._request.key, change, majority, self.deadline_s, self._settled)
            return
        names = self._topology.names(end.slots)
        if end.record is not None:  # whoever read it here and writes here next means to replace it
            context.ballots.absorb(end.record.ballot)
        shown = self._coordinator.shown(end.record) if isinstance(end, Newest) else end.record
        safely(self._on_outcome, Found(shown, len(names), names))
        Repair(context, self._topology, self._request.key).begin(end.record, self._read.held)

    def _settled(self, outcome: Outcome) -> None:
        """What the primary made of it; a read that met trouble may simply begin anew."""
        if isinstance(outcome, Settled):
            names = tuple(sorted({*outcome.replicas, *self._topology.names(self._read.held)}))
            safely(self._on_outcome, Found(outcome.record, len(names), names))
        elif isinstance(outcome, Unavailable | Overloaded):
            safely(self._on_outcome, outcome)
        else:
            self._expired()

    def _expired(self) -> None:
        heard = self._topology.names(self._read.held)
        safely(self._on_outcome, TimedOut(self._request.needed, len(heard), heard))


def _put_of(request: WriteRequest, now_ms: int) -> Put:
    moment_ms = request.expires_at_ms(now_ms)
    return Put(request.value, request.content_type, request.condition, moment_ms, now_ms, request.fence)


def set_once(future: asyncio.Future[Any], value: object) -> None:
    """Sets the result, unless the one who awaits it has gone or has it already."""
    if not future.done():
        future.set_result(value)
