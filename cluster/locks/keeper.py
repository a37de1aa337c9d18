"""The keeper: what the primary of a lock's key does for it. It grants in the order of arrival, and watches the leases.

Who holds a lock is in the register and nowhere else: two nodes that both take themselves for the keeper can do no harm,
they only don't know each other's lines. Here, in memory, is what may be lost with the node: who waits, and since when
each grant has been seen (lease_watch.py). The next keeper asks all desks who waits before it grants anything, and
begins to watch anew.

    a lock is free          released, or its lease is over: whoever is first in the line is asked for (LockConfirm), the
                            grant is written, and its desk is told (LockOffer)
    its client has gone     the desk says so: before the grant the next one has the turn, after it the grant is given
                            back at once, if nobody else can have told it
    its node is silent      its waiters are passed over for a moment; the others don't wait for them
    it is released          and somebody waits: one change of the register takes the one grant away and makes the other

Nothing is polled and nothing is written for those who wait. Only a line looks at its register now and then, once for
all in it, in case another node took itself for the keeper and the lock was released there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush

import structlog

from cluster.coordination.drive import Context
from cluster.locks.kept_lock import KeptLock, granted
from cluster.locks.lease_watch import LeaseWatch
from cluster.locks.lock import Lock
from cluster.locks.lock_state import Grant, decode
from cluster.locks.replicated_register import ReplicatedRegisters
from cluster.membership.placement import partition_of
from cluster.membership.topology import Topology
from cluster.protocol.lock_messages import (
    Ended,
    LockAcquire,
    LockAnswered,
    LockConfirm,
    LockEnded,
    LockLook,
    LockMuster,
    LockMustered,
    LockNoted,
    LockOffer,
    LocksLooked,
    LockStep,
    LockWaiting,
    LockWithdraw,
    Waiting,
)
from cluster.protocol.messages import Answer, Lost
from cluster.replica.replica import Respond
from cluster.tasks import Tasks

CONFIRM_S = 0.3
"""How long a desk may take to say that its client is still there: far above a healthy answer."""
SILENT_S = 1.0
"""How long the waiters of a node that did not say so are passed over, before it is asked again."""
MUSTER_S = 1.0
"""How long a new keeper waits for the desks to say who waits. Only the order rests on it."""
TICK_S = 0.1

Request = LockAcquire | LockStep | LockWaiting | LockWithdraw | LockLook
log = structlog.get_logger()


class Keeper:
    """The locks whose keys this node is the primary of. Implements Keeping (kept_lock.py)."""

    def __init__(
        self,
        context: Context,
        registers: ReplicatedRegisters,
        topology: Callable[[], Topology],
        own_slot: int,
        tasks: Tasks,
    ) -> None:
        self._context, self._registers, self._topology, self._own_slot = context, registers, topology, own_slot
        self._tasks = tasks
        self._clock = context.clock
        self._watch = LeaseWatch(context.clock)
        self._kept: dict[bytes, KeptLock] = {}
        self._reigns: dict[int, asyncio.Future[None]] = {}
        """Partition -> done once its desks have said who waits. Only while this node is its primary."""
        self._silent_until_s: dict[int, float] = {}
        self._ends: list[tuple[float, bytes]] = []
        """When the leases of which locks may be over: a heap with each lock once."""
        self._watched: set[bytes] = set()

    # -- what desks ask ----------------------------------------------------------------------------------------

    def handle(self, request: Request, age_ms: int, respond: Respond, token: int) -> None:
        """Does what a desk asks; respond(token, reply) follows."""

        def end(outcome: Ended) -> None:
            respond(token, LockEnded(outcome))

        match request:
            case LockAcquire(waiting=waiting, waits=waits):
                left_s = max(0.001, (request.budget_ms - age_ms) / 1000)
                kept = self._keep(waiting.key)
                kept.submit(partial(kept.acquire, waiting, waits, left_s, end))
            case LockStep(key=key, token=secret):
                left_s = max(0.001, (request.budget_ms - age_ms) / 1000)
                kept = self._keep(key)
                if request.is_release:
                    kept.submit(partial(kept.release, secret, left_s, end))
                else:
                    self._tasks.spawn(kept.renew(secret, left_s, end), "renew a lock")
            case LockWaiting(waiting=waiting):
                respond(token, LockNoted([(one.number, self._keep(one.key).add(one)) for one in waiting]))
            case LockWithdraw(key=key):
                if key in self._kept:
                    self._kept[key].line.remove(request.slot, request.number)
                respond(token, LockNoted([]))
            case LockLook(locks=locks):
                respond(token, LocksLooked([self._look(key, value) for key, value in locks]))

    def _look(self, key: bytes, value: bytes) -> tuple[int, list[tuple[int, float]]]:
        state = decode(value)
        self._watch.heard_of(key, state)
        self.seen(key)
        kept = self._kept.get(key)
        left = [(grant.fence, self._watch.left_s(key, grant)) for grant in state.grants]
        return len(kept.line) if kept is not None else 0, left

    def _keep(self, key: bytes) -> KeptLock:
        kept = self._kept.get(key)
        if kept is None:
            lock = Lock(key, self._registers.of(key), self._watch)
            kept = self._kept[key] = KeptLock(lock, self._watch, self, self._clock, self._tasks)
        return kept

    # -- Keeping -----------------------------------------------------------------------------------------------

    async def reign(self, key: bytes) -> None:
        """See Keeping. Where another node is the primary, whoever asks here could not reach it: nobody is mustered."""
        partition = partition_of(key, self._topology().partitions)
        mustered = self._reigns.get(partition)
        if mustered is None:
            if not self._registers.is_own(key):
                return
            mustered = self._reigns[partition] = asyncio.get_running_loop().create_future()
            self._muster(partition, mustered)
        if not mustered.done():
            await asyncio.wait([mustered], timeout=MUSTER_S)
            _done(mustered)

    def _muster(self, partition: int, mustered: asyncio.Future[None]) -> None:
        transport = self._context.transport
        asked = {member.slot for member in self._topology().members if transport.is_alive(member.slot)}

        def answered(slot: int, answer: Answer) -> None:
            if isinstance(answer, LockMustered):
                for waiting in answer.waiting:
                    self._keep(waiting.key).add(waiting)
            asked.discard(slot)
            if not asked:
                _done(mustered)

        for slot in list(asked):
            transport.send(slot, LockMuster(partition), answered)

    async def confirm(self, waiting: Waiting) -> bool | None:
        """See Keeping."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._context.transport.send(
            waiting.slot,
            LockConfirm(waiting.number),
            lambda _, answer: None if answered.done() else answered.set_result(answer),
        )
        try:
            answer = await asyncio.wait_for(answered, CONFIRM_S)
        except TimeoutError:
            answer = Lost(sent=True)
        if isinstance(answer, LockAnswered):
            return answer.yes
        self._silent_until_s[waiting.slot] = self._clock.monotonic_s() + SILENT_S
        return None

    def offer(self, waiting: Waiting, grant: Grant) -> None:
        """See Keeping."""
        offer = LockOffer(waiting.number, granted(grant, waiting.wish))
        self._context.transport.send(waiting.slot, offer, partial(self._offered, waiting, grant))

    def _offered(self, waiting: Waiting, grant: Grant, slot: int, answer: Answer) -> None:
        is_told = answer.yes if isinstance(answer, LockAnswered) else None
        if is_told:
            return
        if is_told is None and (grant.renewals or (isinstance(answer, Lost) and answer.sent)):
            # Its client may have been told: by this offer or, where the grant was found and not made, by another
            # keeper's, before its desk died. If not, its desk announces it again, and is offered the same grant.
            log.info("a lock is granted, and nobody knows whether its holder was told", slot=slot)
            return
        kept = self._keep(waiting.key)
        kept.submit(partial(kept.give_back, grant))

    def silent(self) -> frozenset[int]:
        """See Keeping."""
        if not self._silent_until_s:
            return frozenset()
        now_s = self._clock.monotonic_s()
        self._silent_until_s = {slot: until_s for slot, until_s in self._silent_until_s.items() if until_s > now_s}
        return frozenset(self._silent_until_s)

    def seen(self, key: bytes) -> None:
        """See Keeping."""
        ends_s = self._watch.next_end_s(key)
        if ends_s is not None and key not in self._watched:
            self._watched.add(key)
            heappush(self._ends, (self._clock.monotonic_s() + ends_s, key))

    def idle(self, key: bytes) -> None:
        """See Keeping."""
        self._kept.pop(key, None)

    # -- what time brings --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ends leases that are over though nobody waits for them, and notices where this node is no longer primary."""
        while True:
            await asyncio.sleep(TICK_S)
            self._end_leases()
            self._abdicate()

    def _end_leases(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._ends and self._ends[0][0] <= now_s:
            _, key = heappop(self._ends)
            self._watched.discard(key)
            if not self._watch.over(key):
                self.seen(key)  # it was renewed, or granted anew
            elif self._registers.is_own(key):
                kept = self._keep(key)
                kept.submit(kept.expire)

    def _abdicate(self) -> None:
        topology = self._topology()
        for partition in list(self._reigns):
            slots = topology.replica_slots[partition]
            if self._registers.handover.primary_of(slots) != self._own_slot:
                _done(self._reigns.pop(partition))


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
