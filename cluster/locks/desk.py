"""The desk: the node that a client came to. It holds the client's connection, and speaks with the keeper for it.

A wait lives here. The keeper has it in a line, which is lost with the keeper; so the desk announces who waits to
whoever is the primary of the lock's key, when that changes and every now and then, and each keeps its place.

A grant is told only after a look at the time. The keeper counts the lease from when it saw the grant, the client from
when it asked or was told; between the two stands what this node knows, when the client was last known to be there
before the grant. If that is long ago, by the lease's measure, the grant is renewed before it is told.

A grant that can't be told is given back: its client has gone, or was told something else meanwhile. Which grants were
told is remembered for a while, for two keepers may offer the same one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial

from cluster.coordination.drive import BUDGET_SHARE, Context
from cluster.locks.lock_state import Wish
from cluster.locks.outcomes import (
    AcquireOutcome,
    Client,
    LockBusy,
    LockGranted,
    LockLost,
    LockQueued,
    LockReleased,
    ReleaseOutcome,
    RenewOutcome,
)
from cluster.membership.placement import partition_of
from cluster.membership.topology import Topology
from cluster.protocol.lock_messages import (
    Ended,
    LockAcquire,
    LockAnswered,
    LockConfirm,
    LockEnded,
    LockMuster,
    LockMustered,
    LockNoted,
    LockOffer,
    LockStep,
    LockWaiting,
    LockWithdraw,
    Waiting,
)
from cluster.protocol.messages import Answer, Lost
from cluster.replica.replica import Respond
from cluster.requests import Overloaded, Unavailable, Unknown
from cluster.tasks import Tasks

TICK_S = 0.1
"""How often the desk looks whether a keeper has changed, or died, while somebody waits for it."""
ANNOUNCE_S = 2.0
"""How often a keeper is told of all who wait, whether it knows them or not."""
ANNOUNCED_MAX = 1_000
"""Waiters in one message."""
FRESH_SHARE = 0.25
"""Of a lease: what may have passed of it when its holder is told."""
GIVE_BACK_S = 5.0
"""How long it is tried to give a grant back that nobody was told of; then its lease ends it."""
TOLD_MAX = 20_000
"""Grants remembered to have been told."""
NUMBER_BITS = 60
"""Of the first waiter's number: two runs of a node never meet, and a signed word has room for all that follow."""

Request = LockConfirm | LockOffer | LockMuster


class _Waiter:
    """One client that asks for a lock."""

    def __init__(self, waiting: Waiting, client: Client, waits: bool, now_s: float) -> None:
        self.waiting, self.client, self.waits = waiting, client, waits
        self.ended: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        """What became of it; None where the client has gone."""
        self.confirmed_s = now_s
        """When the client was last known to be there, before the grant."""
        self.keeper, self.announced_s = -1, float("-inf")
        """The slot of the node that has it in its line, or is being told of it, and since when."""
        self.asked = 0
        """How often a keeper was asked for it."""

    def end(self, how: Ended | None) -> None:
        """The first end counts."""
        if not self.ended.done():
            self.ended.set_result(how)


class LockDesk:
    """Who waits for locks at this node, and the steps that its clients ask for."""

    def __init__(self, context: Context, topology: Callable[[], Topology], own_slot: int, tasks: Tasks) -> None:
        self._context, self._topology, self._own_slot, self._tasks = context, topology, own_slot, tasks
        self._clock = context.clock
        self._waiters: dict[int, _Waiter] = {}
        self._told: OrderedDict[int, int] = OrderedDict()
        """Number -> the fence of the grant that its client was told of."""
        self._numbers = self._forgotten = context.random.getrandbits(NUMBER_BITS)
        """Not from 0: a keeper may still have those in its line who waited before this node died, and would offer
        their grants to others of the same number. Of numbers up to the second one only those in _told are known."""
        self._is_announcing = False
        self._closed = ""

    def __len__(self) -> int:
        return len(self._waiters)

    # -- what clients ask --------------------------------------------------------------------------------------

    async def acquire(
        self, key: bytes, wish: Wish, wait_s: float, timeout_s: float, client: Client
    ) -> AcquireOutcome | None:
        """See LockBackend. None where the wait is over, or nobody is there any more to be told."""
        deadline_s = self._clock.monotonic_s() + wait_s
        self._numbers += 1
        waiting = Waiting(key, self._own_slot, self._numbers, 0, wish)
        while True:
            waiter = _Waiter(waiting, client, wait_s > 0, self._clock.monotonic_s())
            left_s = deadline_s - waiter.confirmed_s if waiter.waits else timeout_s
            outcome = await self._ended(waiter, left_s, timeout_s)
            if isinstance(outcome, Unknown):
                self._give_back(key, wish.token)
            if not isinstance(outcome, LockGranted):
                assert not isinstance(outcome, LockQueued | LockReleased | LockLost)
                return outcome
            told = await self._fresh(waiter, outcome, timeout_s)
            if told is not None:
                return told
            waiting = waiter.waiting  # its lease was over before it could be told: it has its place in the line again

    async def _ended(self, waiter: _Waiter, left_s: float, timeout_s: float) -> Ended | None:
        """What the keeper makes of it, within that time."""
        number = waiter.waiting.number
        if waiter.waits:
            if self._closed:
                return self._unavailable()
            self._waiters[number] = waiter
            waiter.client.when_gone(partial(waiter.end, None))
            self._announce()
        self._ask(waiter, timeout_s)
        ends_s = self._clock.monotonic_s() + left_s
        try:
            while not waiter.ended.done() and (left_s := ends_s - self._clock.monotonic_s()) > 0:
                await asyncio.wait([waiter.ended], timeout=left_s if waiter.waits else min(left_s, TICK_S))
                if not waiter.waits and not waiter.ended.done() and not self._is_there(waiter.keeper):
                    self._ask(waiter, left_s)
            waiter.end(None if waiter.waits else Unknown(self._topology().majority, 0, (), None))
            return waiter.ended.result()
        finally:
            is_told = number in self._told  # then the keeper knows
            if self._waiters.pop(number, None) is not None and waiter.keeper >= 0 and not is_told:
                withdraw = LockWithdraw(waiter.waiting.key, self._own_slot, number)
                self._context.transport.send(waiter.keeper, withdraw, _ignore)

    async def _fresh(self, waiter: _Waiter, granted: LockGranted, timeout_s: float) -> AcquireOutcome | None:
        """What its client is told of the grant; None where it is over already."""
        key, wish = waiter.waiting.key, waiter.waiting.wish
        if not waiter.client.is_here:
            self._give_back(key, wish.token)
            return granted
        if self._clock.monotonic_s() - waiter.confirmed_s <= wish.ttl_ms / 1000 * FRESH_SHARE:
            return granted
        renewed = await self.renew(key, wish.token, timeout_s)
        if isinstance(renewed, LockGranted):
            return renewed
        if isinstance(renewed, LockLost):
            return None
        self._give_back(key, wish.token)
        return Unknown(self._topology().majority, 0, (), None)

    async def renew(self, key: bytes, token: bytes, timeout_s: float) -> RenewOutcome:
        """See LockBackend."""
        outcome = await self._step(key, token, False, timeout_s)
        assert not isinstance(outcome, LockReleased)
        return outcome

    async def release(self, key: bytes, token: bytes, timeout_s: float) -> ReleaseOutcome:
        """See LockBackend."""
        outcome = await self._step(key, token, True, timeout_s)
        assert not isinstance(outcome, LockGranted)
        return outcome

    def stop_waiting(self, reason: str) -> None:
        """From now on nobody can wait here; those who do are told so."""
        self._closed = reason
        for waiter in list(self._waiters.values()):
            waiter.end(self._unavailable())

    def _unavailable(self) -> Unavailable:
        return Unavailable(self._topology().majority, 0, (), self._closed)

    # -- asking the keeper -------------------------------------------------------------------------------------

    def _ask(self, waiter: _Waiter, timeout_s: float) -> None:
        """Asks the key's primary for the lock, or who is next in line to be it, until one could be asked.

        May be called again when that one is silent: asking twice takes no second grant, and one that comes too late
        is given back.
        """
        key, deadline_s = waiter.waiting.key, self._clock.monotonic_s() + timeout_s
        waiter.asked = this = waiter.asked + 1
        candidates = self._keepers(key)
        if isinstance(candidates, Unavailable):
            waiter.end(candidates)
            return

        def offer() -> None:
            budget_s = deadline_s - self._clock.monotonic_s()
            if not candidates or budget_s <= 0:
                waiter.end(Unavailable(self._topology().majority, 0, ()))
                return
            waiter.keeper, waiter.announced_s = candidates.pop(0), self._clock.monotonic_s()
            acquire = LockAcquire(waiter.waiting, waiter.waits, int(budget_s * BUDGET_SHARE * 1000))
            self._context.transport.send(waiter.keeper, acquire, answered)

        def answered(slot: int, answer: Answer) -> None:
            if isinstance(answer, LockEnded):
                if waiter.asked == this or isinstance(answer.outcome, LockGranted):
                    self._answered(waiter, answer.outcome)
            elif waiter.asked != this:
                return
            elif not isinstance(answer, Lost) or not answer.sent:
                offer()
            elif not waiter.waits:  # else whoever becomes the keeper is told of it
                waiter.end(Unknown(self._topology().majority, 0, (), None))

        offer()

    def _answered(self, waiter: _Waiter, outcome: Ended) -> None:
        if isinstance(outcome, LockQueued):
            self._placed(waiter, outcome.stamp)
        elif not isinstance(outcome, LockGranted):
            waiter.end(outcome)
        elif not self._tell(waiter, outcome):
            self._give_back(waiter.waiting.key, waiter.waiting.wish.token)

    def _tell(self, waiter: _Waiter, granted: LockGranted) -> bool | None:
        """Whether the client is, or was, told of this very grant; None where that can't be said."""
        number = waiter.waiting.number
        if waiter.ended.done() or not waiter.client.is_here:
            return self._was_told(number, granted)
        self._told[number] = granted.fence
        if len(self._told) > TOLD_MAX:
            forgotten, _ = self._told.popitem(last=False)
            self._forgotten = max(self._forgotten, forgotten)
        waiter.end(granted)
        return True

    def _was_told(self, number: int, granted: LockGranted) -> bool | None:
        """Of one that waits no longer, see _tell(). False: its client was told of no grant, and never will be."""
        fence = self._told.get(number)
        if fence is not None:
            return fence == granted.fence or None  # it may have renewed this one, though it was told of another
        return False if self._forgotten < number <= self._numbers else None

    def _placed(self, waiter: _Waiter, stamp: int) -> None:
        one = waiter.waiting
        waiter.waiting = Waiting(one.key, one.slot, one.number, stamp, one.wish)

    def _keepers(self, key: bytes) -> list[int] | Unavailable:
        """Whom to ask, in this order; why there is no use in asking."""
        topology = self._topology()
        alive = self._context.roster.writable(topology.replicas_of(key))
        if len(alive) < topology.majority:
            return Unavailable(topology.majority, len(alive), topology.names(alive))
        return alive

    async def _step(
        self, key: bytes, token: bytes, is_release: bool, timeout_s: float
    ) -> LockGranted | LockReleased | LockLost | Unavailable | Overloaded | Unknown:
        """Renewing twice does no harm, nor does releasing; so whoever may have done it is not waited for."""
        candidates = self._keepers(key)
        if isinstance(candidates, Unavailable):
            return candidates
        majority, deadline_s, may_be_done = self._topology().majority, self._clock.monotonic_s() + timeout_s, False
        for slot in candidates:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                break
            answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            step = LockStep(key, token, is_release, int(left_s * BUDGET_SHARE * 1000))
            self._context.transport.send(slot, step, partial(_note, answered))
            answer = await self._answer(answered, slot, deadline_s)
            if isinstance(answer, LockEnded):
                outcome = answer.outcome
                assert not isinstance(outcome, LockBusy | LockQueued)
                if isinstance(outcome, LockLost) and is_release and may_be_done:
                    break  # by the one that was asked before, or the token never held it
                return outcome
            may_be_done = may_be_done or (isinstance(answer, Lost) and answer.sent)
        return Unknown(majority, 0, (), None) if may_be_done else Unavailable(majority, 0, ())

    async def _answer(self, answered: asyncio.Future[Answer], slot: int, deadline_s: float) -> Answer:
        """What comes from that node, until the deadline, or until it seems to have died."""
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            await asyncio.wait([answered], timeout=min(left_s, TICK_S))
            if answered.done():
                return answered.result()
            if not self._is_there(slot):
                break
        return Lost(sent=True)

    def _is_there(self, slot: int) -> bool:
        return self._context.roster.is_writable(slot)

    def _give_back(self, key: bytes, token: bytes) -> None:
        """Nobody was told of this grant, if there is one."""
        self._tasks.spawn(self.release(key, token, GIVE_BACK_S), "give a lock back")

    # -- what keepers ask --------------------------------------------------------------------------------------

    def handle(self, request: Request, respond: Respond, token: int) -> None:
        """Answers a keeper at once."""
        match request:
            case LockConfirm(number=number):
                respond(token, LockAnswered(self._confirm(number)))
            case LockOffer(number=number, granted=granted):
                respond(token, LockAnswered(self._offered(number, granted)))
            case LockMuster(partition=partition):
                respond(token, LockMustered(self._muster(partition)))

    def _confirm(self, number: int) -> bool:
        waiter = self._waiters.get(number)
        if waiter is None or waiter.ended.done() or not waiter.client.is_here:
            return False
        waiter.confirmed_s = self._clock.monotonic_s()
        return True

    def _offered(self, number: int, granted: LockGranted) -> bool | None:
        waiter = self._waiters.get(number)
        return self._was_told(number, granted) if waiter is None else self._tell(waiter, granted)

    def _muster(self, partition: int) -> list[Waiting]:
        partitions = self._topology().partitions
        return [
            waiter.waiting
            for waiter in self._waiters.values()
            if not waiter.ended.done() and partition_of(waiter.waiting.key, partitions) == partition
        ]

    # -- announcing --------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        if not self._is_announcing:
            self._is_announcing = True
            self._tasks.spawn(self._announce_while_any_waits(), "announce who waits")

    async def _announce_while_any_waits(self) -> None:
        try:
            while self._waiters:
                await asyncio.sleep(TICK_S)
                self._announce_due()
        finally:
            self._is_announcing = False

    def _announce_due(self) -> None:
        """Tells keepers of those who wait: each that has changed, and the others every now and then."""
        now_s = self._clock.monotonic_s()
        topology = self._topology()
        keepers: dict[bytes, int | None] = {}
        due: defaultdict[int, list[_Waiter]] = defaultdict(list)
        for waiter in self._waiters.values():
            key = waiter.waiting.key
            if key not in keepers:
                keepers[key] = next(iter(self._context.roster.writable(topology.replicas_of(key))), None)
            keeper = keepers[key]
            if keeper is not None and (keeper != waiter.keeper or now_s - waiter.announced_s >= ANNOUNCE_S):
                waiter.keeper, waiter.announced_s = keeper, now_s
                due[keeper].append(waiter)
        for keeper, waiters in due.items():
            for start in range(0, len(waiters), ANNOUNCED_MAX):
                some = waiters[start : start + ANNOUNCED_MAX]
                message = LockWaiting([waiter.waiting for waiter in some])
                self._context.transport.send(keeper, message, partial(self._noted, some))

    def _noted(self, waiters: list[_Waiter], slot: int, answer: Answer) -> None:
        if isinstance(answer, LockNoted):
            for number, stamp in answer.stamps:
                waiter = self._waiters.get(number)
                if waiter is not None:
                    self._placed(waiter, stamp)
        else:
            for waiter in waiters:
                waiter.keeper = -1  # it is told again at the next look


def _note(answered: asyncio.Future[Answer], slot: int, answer: Answer) -> None:
    if not answered.done():
        answered.set_result(answer)


def _ignore(slot: int, answer: Answer) -> None:
    """Nothing follows from it."""
