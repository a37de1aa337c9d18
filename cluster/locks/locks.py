"""Locks and votes of a cluster, put together: what the layer above asks for (kvstore/http/backend.py, LockBackend)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from cluster.coordination.drive import Context
from cluster.coordination.writing.handover import Handover
from cluster.coordination.writing.primary import Primary
from cluster.levels import Level
from cluster.locks.desk import LockDesk
from cluster.locks.keeper import Keeper
from cluster.locks.lock_state import LockState, Wish, decode, lock_key, name_of_lock
from cluster.locks.outcomes import (
    AcquireOutcome,
    Client,
    HolderShown,
    LockBusy,
    LockFailure,
    LockShown,
    LocksListed,
    LookFailure,
    ReleaseOutcome,
    RenewOutcome,
)
from cluster.locks.register import MayBeChanged, NotChanged
from cluster.locks.replicated_register import ReplicatedRegisters
from cluster.locks.vote import Decision, Proposal, Vote, Voted, vote_key
from cluster.membership.topology import Topology
from cluster.protocol.lock_messages import (
    LockConfirm,
    LockLook,
    LockMuster,
    LockOffer,
    LockRequest,
    LocksLooked,
)
from cluster.protocol.messages import Answer, Unfit
from cluster.replica.replica import Respond
from cluster.requests import (
    Listed,
    ListOutcome,
    ListRequest,
    Overloaded,
    ReadOutcome,
    ReadRequest,
    TimedOut,
    Unavailable,
    Unknown,
)
from cluster.tasks import Tasks

LOOK_S = 0.5
"""How long the keepers may take to say who waits, and how long leases still run; without it the rest is shown."""
PAGE = 500

_Look = tuple[int, dict[int, float]]
"""How many wait, and the seconds left of each grant by its fence."""


class ClusterLocks:
    """One node's part in the locks and votes of its cluster."""

    def __init__(
        self,
        context: Context,
        primary: Primary,
        handover: Handover,
        topology: Callable[[], Topology],
        own_slot: int,
        tasks: Tasks,
        *,
        read: Callable[[ReadRequest], Awaitable[ReadOutcome]],
        page: Callable[[ListRequest], Awaitable[ListOutcome]],
    ) -> None:
        self._context, self._topology, self._own_slot, self._page = context, topology, own_slot, page
        self._registers = ReplicatedRegisters(context, primary, handover, topology, own_slot, read)
        self.desk = LockDesk(context, topology, own_slot, tasks)
        self.keeper = Keeper(context, self._registers, topology, own_slot, tasks)

    def handle(self, request: LockRequest, age_ms: int, why_unfit: str | None, respond: Respond, token: int) -> None:
        """Answers another node, or this one. why_unfit: what stands against this node's proposing anything."""
        if isinstance(request, LockConfirm | LockOffer | LockMuster):
            self.desk.handle(request, respond, token)
        elif why_unfit is not None:
            respond(token, Unfit(why_unfit))
        else:
            self.keeper.handle(request, age_ms, respond, token)

    # -- LockBackend -------------------------------------------------------------------------------------------

    async def acquire(self, name: str, wish: Wish, wait_s: float, timeout_s: float, client: Client) -> AcquireOutcome:
        """See LockBackend."""
        outcome = await self.desk.acquire(lock_key(name), wish, wait_s, timeout_s, client)
        if outcome is not None:
            return outcome
        shown = await self.show(name, timeout_s) if client.is_here else None
        if isinstance(shown, TimedOut):
            return Unavailable(shown.needed, shown.got, shown.replicas)
        if isinstance(shown, Unavailable | Overloaded):
            return shown
        if shown is None or not shown.holders:  # gone, or just released: those who waited before have the turn
            return LockBusy("", 0.0, wish.permits)
        holder = shown.holders[0]
        left_s = holder.ttl_ms / 1000 if holder.left_s is None else holder.left_s
        return LockBusy(holder.owner, left_s, shown.permits)

    async def renew(self, name: str, token: bytes, timeout_s: float) -> RenewOutcome:
        """See LockBackend."""
        return await self.desk.renew(lock_key(name), token, timeout_s)

    async def release(self, name: str, token: bytes, timeout_s: float) -> ReleaseOutcome:
        """See LockBackend."""
        return await self.desk.release(lock_key(name), token, timeout_s)

    def stop_waiting(self) -> None:
        """See LockBackend."""
        self.desk.stop_waiting("it is stopping")

    async def show(self, name: str, timeout_s: float) -> LockShown | LookFailure:
        """See LockBackend."""
        key = lock_key(name)
        try:
            value = await self._registers.of(key).read(timeout_s)
        except NotChanged as refusal:
            return _why_not_read(refusal)
        (shown,) = await self._shown([(key, value or b"")])
        return shown

    async def list_held(
        self, prefix: str, after: str | None, limit: int, timeout_s: float
    ) -> LocksListed | LookFailure:
        """See LockBackend."""
        deadline_s = self._context.clock.monotonic_s() + timeout_s
        held: list[LockShown] = []
        behind = lock_key(after) if after is not None else None
        while True:
            left_s = deadline_s - self._context.clock.monotonic_s()
            majority = self._topology().majority
            if left_s <= 0:
                return TimedOut(majority, 0, ())
            listed = await self._page(ListRequest(lock_key(prefix), behind, PAGE, True, Level.STRONG, majority, left_s))
            if not isinstance(listed, Listed):
                return listed
            values = [(entry.key, entry.record.value or b"") for entry in listed.entries]
            held += [shown for shown in await self._shown(values) if shown.holders]
            behind = listed.next_after
            if len(held) > limit or (len(held) == limit and behind is not None):
                return LocksListed(held[:limit], held[limit - 1].name)
            if behind is None:
                return LocksListed(held, None)

    async def _shown(self, values: Sequence[tuple[bytes, bytes]]) -> list[LockShown]:
        """The locks in these registers, with what their keepers know of them."""
        states = {key: decode(value) if value else LockState() for key, value in values}
        by_keeper: defaultdict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
        for key, value in values:
            keeper = self._registers.handover.primary_of(self._topology().replicas_of(key))
            if keeper is not None and value:
                by_keeper[keeper].append((key, value))
        looks: dict[bytes, _Look] = {}
        asked = [self._look(slot, some, looks) for slot, some in by_keeper.items()]
        if asked:
            await asyncio.wait(asked, timeout=LOOK_S)
        return [_shown(name_of_lock(key), states[key], looks.get(key)) for key, _ in values]

    def _look(self, slot: int, locks: list[tuple[bytes, bytes]], looks: dict[bytes, _Look]) -> asyncio.Future[None]:
        looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(_: int, answer: Answer) -> None:
            if isinstance(answer, LocksLooked):
                for (key, _value), (waiters, left) in zip(locks, answer.lines, strict=False):
                    looks[key] = waiters, dict(left)
            if not looked.done():
                looked.set_result(None)

        self._context.transport.send(slot, LockLook(locks), answered)
        return looked

    async def propose(self, name: str, proposal: Proposal, timeout_s: float) -> Voted | LockFailure:
        """See LockBackend."""
        try:
            return await self._vote(name).propose(proposal, timeout_s)
        except (NotChanged, MayBeChanged) as failure:
            return _why_not_changed(failure)

    async def decision(self, name: str, timeout_s: float) -> Decision | LookFailure | None:
        """See LockBackend."""
        try:
            return await self._vote(name).decision(timeout_s)
        except NotChanged as refusal:
            return _why_not_read(refusal)

    def _vote(self, name: str) -> Vote:
        return Vote(self._registers.of(vote_key(name)))


def _shown(name: str, state: LockState, look: _Look | None) -> LockShown:
    waiters, left = look if look is not None else (0, {})
    holders = tuple(
        HolderShown(grant.owner, grant.fence, grant.ttl_ms, left.get(grant.fence))
        for grant in state.grants
        if left.get(grant.fence) != 0.0  # over, though its keeper has not ended it yet
    )
    return LockShown(name, state.fence, state.permits, holders, waiters)


def _why_not_read(refusal: NotChanged) -> LookFailure:
    why = refusal.why
    assert isinstance(why, Unavailable | Overloaded | TimedOut), why
    return why


def _why_not_changed(failure: NotChanged | MayBeChanged) -> LockFailure:
    why = failure.why
    assert isinstance(why, Unavailable | Overloaded | Unknown), why
    return why
