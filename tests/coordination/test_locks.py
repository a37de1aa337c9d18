"""Locks on real nodes in virtual time: keepers that die, pause or are mistaken, desks that do, and late messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import pytest

from cluster.locks import lease_watch
from cluster.locks import lock as lock_module
from cluster.locks.desk import FRESH_SHARE, LockDesk
from cluster.locks.keeper import CONFIRM_S, SILENT_S
from cluster.locks.lock_state import Grant, Identity, LockState, Wish, acquired, decode, lock_key, released
from cluster.locks.outcomes import LockBusy, LockGranted, LockLost, LockReleased, LockShown
from cluster.locks.vote import Proposal, Voted
from cluster.protocol.lock_messages import LockAcquire, LockConfirm, LockOffer, LockStep, LockWaiting
from cluster.requests import Unavailable, Unknown
from storage.memory import MemoryFolder
from tests.coordination.lock_schedules import Violation, run_schedule
from tests.coordination.lockers import Connection, Locker, lock_led_by
from tests.coordination.three_nodes import TURN_S, Cluster, Fate, form_cluster, until

LEASES_S = 60.0
SEEDS, MUTANT_SEEDS = 24, 60


async def held_by(cluster: Cluster, lock: str, at: int = 1) -> list[str]:
    shown = await cluster.nodes[at].locks.show(lock, 5.0)
    assert isinstance(shown, LockShown)
    return [holder.owner for holder in shown.holders]


async def test_a_lock_goes_from_hand_to_hand_through_any_node() -> None:
    cluster = await form_cluster()
    fences = []
    for at in (0, 1, 2, 0):
        locker = Locker(cluster, f"at {at}")
        outcome = await locker.acquire(at, "lock")
        assert isinstance(outcome, LockGranted)
        fences.append(outcome.fence)
        other = await Locker(cluster, "other").acquire((at + 1) % 3, "lock")
        assert isinstance(other, LockBusy)
        assert other.owner == f"at {at}"
        released = await cluster.nodes[(at + 2) % 3].locks.release("lock", locker.token, 5.0)
        assert released == LockReleased(outcome.fence)
        assert isinstance(await cluster.nodes[at].locks.release("lock", locker.token, 5.0), LockLost)
    assert fences == sorted(set(fences))


async def test_a_keeper_that_dies_while_its_line_is_long_leaves_it_in_order() -> None:
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    first = Locker(cluster, "first")
    await first.acquire(1, lock)
    order: list[str] = []

    async def turn(name: str, at: int) -> None:
        locker = Locker(cluster, name)
        assert isinstance(await locker.acquire(at, lock, wait_s=300), LockGranted)
        order.append(name)
        await cluster.nodes[at].locks.release(lock, locker.token, 5.0)

    turns = []
    for number in range(12):
        turns.append(asyncio.ensure_future(turn(f"w{number}", 1 + number % 2)))
        await asyncio.sleep(TURN_S)
    cluster.network.cut_off(0)
    assert isinstance(await cluster.nodes[2].locks.release(lock, first.token, 5.0), LockReleased)
    await asyncio.gather(*turns)
    assert order == [f"w{number}" for number in range(12)]


async def test_a_new_keeper_asks_who_waits_before_it_grants_anything() -> None:
    """Node 1 becomes the keeper and is asked by its own client first; the one that waits at node 2 came before."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    keepers = cluster.topology.replicas_of(lock_key(lock))
    holder, early, late = (Locker(cluster, name) for name in ("holder", "early", "late"))
    await holder.acquire(keepers[1], lock)
    waiting = asyncio.ensure_future(early.acquire(keepers[2], lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    cluster.network.treat(Fate.SILENT, LockWaiting)  # no desk speaks unasked
    cluster.network.cut_off(0)
    await cluster.nodes[keepers[1]].locks.release(lock, holder.token, 5.0)
    outcome = await late.acquire(keepers[1], lock)
    assert isinstance(outcome, LockBusy)
    assert outcome.owner == "early"
    assert isinstance(await waiting, LockGranted)


async def test_a_lease_is_counted_anew_by_a_new_keeper_and_never_shorter() -> None:
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    loop = asyncio.get_running_loop()
    holder = Locker(cluster, "holder", ttl_s=10)
    await holder.acquire(1, lock)
    began_s = loop.time()
    await asyncio.sleep(6)
    cluster.network.cut_off(0)
    contender = Locker(cluster, "contender")
    outcome = await contender.acquire(2, lock, wait_s=60)
    assert isinstance(outcome, LockGranted)
    assert loop.time() - began_s >= 10
    assert isinstance(await cluster.nodes[1].locks.renew(lock, holder.token, 5.0), LockLost)


async def test_a_renewal_through_a_keeper_that_others_take_for_dead_keeps_the_lease() -> None:
    """Two nodes keep the lock. The one that watches sees the renewal in the register, for it takes over by a change
    of exactly the grant that it has watched."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    keepers = cluster.topology.replicas_of(lock_key(lock))
    holder = Locker(cluster, "holder", ttl_s=10)
    await holder.acquire(0, lock)
    contender = asyncio.ensure_future(Locker(cluster, "contender").acquire(keepers[1], lock, wait_s=50))
    await asyncio.sleep(TURN_S)
    cluster.network.treat(Fate.UNSENT, LockAcquire, LockWaiting, LockStep, source=keepers[1], target=0)
    for _ in range(8):
        await asyncio.sleep(4)
        assert isinstance(await cluster.nodes[0].locks.renew(lock, holder.token, 5.0), LockGranted)
        assert not contender.done()
        assert await held_by(cluster, lock) == ["holder"]
    contender.cancel()


async def test_a_grant_whose_desk_can_not_be_reached_is_given_back_and_the_next_has_it() -> None:
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    holder = Locker(cluster, "holder")
    await holder.acquire(0, lock)
    lost = asyncio.ensure_future(Locker(cluster, "lost", ttl_s=LEASES_S).acquire(1, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    following = asyncio.ensure_future(Locker(cluster, "following").acquire(2, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    cluster.network.treat(Fate.UNSENT, LockOffer, LockConfirm, target=1, then=None)
    began_s = asyncio.get_running_loop().time()
    await cluster.nodes[0].locks.release(lock, holder.token, 5.0)
    assert isinstance(await following, LockGranted)
    assert asyncio.get_running_loop().time() - began_s < 2 * SILENT_S
    lost.cancel()


async def test_an_offer_that_is_lost_is_made_again_and_is_the_same_grant() -> None:
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    holder, waiter = Locker(cluster, "holder"), Locker(cluster, "waiter", ttl_s=LEASES_S)
    await holder.acquire(0, lock)
    waiting = asyncio.ensure_future(waiter.acquire(1, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    cluster.network.treat(Fate.LOST, LockOffer)
    await cluster.nodes[0].locks.release(lock, holder.token, 5.0)
    await asyncio.sleep(TURN_S)
    cluster.network.heal()
    outcome = await waiting
    assert isinstance(outcome, LockGranted)
    assert await held_by(cluster, lock) == ["waiter"]


async def test_who_waits_is_not_taken_for_one_who_waited_before_its_node_died() -> None:
    """The keeper has not yet forgotten that one, and must not offer its grant to the first who asks the new process."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    holder, lost, waiter = (Locker(cluster, name, ttl_s=LEASES_S) for name in ("holder", "lost", "waiter"))
    await holder.acquire(0, lock)
    died = asyncio.ensure_future(lost.acquire(1, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    node = await cluster.begin(1, await cluster.end(1))
    await until(lambda: node.locks.desk._context.roster.writable((0, 1, 2)) == [0, 1, 2])
    waiting = asyncio.ensure_future(waiter.acquire(1, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    await cluster.nodes[0].locks.release(lock, holder.token, 5.0)
    granted = await waiting
    assert isinstance(granted, LockGranted)
    assert await held_by(cluster, lock) == ["waiter"]
    assert await cluster.nodes[1].locks.renew(lock, waiter.token, 5.0) == granted
    died.cancel()


async def test_a_told_grant_is_not_given_back_when_a_second_keeper_offers_it_too() -> None:
    """The answer to the offer is lost; the waiter stands in another keeper's line, too."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    keepers = cluster.topology.replicas_of(lock_key(lock))
    holder, waiter = Locker(cluster, "holder"), Locker(cluster, "waiter", ttl_s=LEASES_S)
    await holder.acquire(0, lock)
    waiting = asyncio.ensure_future(waiter.acquire(keepers[2], lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    line = cluster.nodes[keepers[2]].locks.desk._muster(cluster_partition(cluster, lock))
    second = cluster.nodes[keepers[1]].locks.keeper
    await cluster.nodes[0].locks.release(lock, holder.token, 5.0)
    granted = await waiting
    assert isinstance(granted, LockGranted)
    (grant,) = state_of(cluster, lock).grants
    second.offer(line[0], grant)  # it had confirmed before the first one's offer came
    await asyncio.sleep(1)
    assert await held_by(cluster, lock) == ["waiter"]


@pytest.mark.parametrize("is_up_again", [False, True])
async def test_a_told_grant_stands_when_its_desk_dies_and_a_second_keeper_finds_it(is_up_again: bool) -> None:
    """The second one had asked the desk before the first one's grant. Its offer meets nobody, or a desk that knows of
    nothing; and the holder has come to another node."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    _, second, desk = cluster.topology.replicas_of(lock_key(lock))
    holder, waiter = Locker(cluster, "holder"), Locker(cluster, "waiter", ttl_s=LEASES_S)
    await holder.acquire(0, lock)
    waiting = asyncio.ensure_future(waiter.acquire(desk, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    (in_line,) = cluster.nodes[desk].locks.desk._muster(cluster_partition(cluster, lock))
    cluster.network.treat(Fate.DELIVERED, LockConfirm, source=second, answer_after_s=CONFIRM_S / 2)
    cluster.nodes[second].locks.keeper._keep(lock_key(lock)).add(in_line)
    await asyncio.sleep(TURN_S)
    await cluster.nodes[0].locks.release(lock, holder.token, 5.0)
    granted = await waiting
    assert isinstance(granted, LockGranted)
    (told,) = state_of(cluster, lock).grants
    folder = await cluster.end(desk)
    if is_up_again:
        await cluster.begin(desk, folder)
    await until(lambda: state_of(cluster, lock).grants != (told,))
    await asyncio.sleep(1)
    (found,) = state_of(cluster, lock).grants
    assert (found.fence, found.renewals) == (told.fence, told.renewals + 1)
    assert await cluster.nodes[second].locks.renew(lock, waiter.token, 5.0) == granted


async def test_a_grant_that_a_second_keeper_has_told_meanwhile_is_not_given_back_by_who_made_it() -> None:
    """The first one's offer can't be sent. Until it has asked who is next, the second one's is."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    _, second, desk = cluster.topology.replicas_of(lock_key(lock))
    holder, waiter, following = (Locker(cluster, name, ttl_s=LEASES_S) for name in ("holder", "waiter", "following"))
    await holder.acquire(0, lock)
    waiting = asyncio.ensure_future(waiter.acquire(desk, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    (in_line,) = cluster.nodes[desk].locks.desk._muster(cluster_partition(cluster, lock))
    stays = asyncio.ensure_future(following.acquire(desk, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    kept = cluster.nodes[second].locks.keeper._keep(lock_key(lock))
    cluster.network.treat(Fate.DELIVERED, LockConfirm, source=0, answer_after_s=CONFIRM_S / 2)
    cluster.network.treat(Fate.UNSENT, LockOffer, source=0, then=lambda: kept.add(in_line))
    released = asyncio.ensure_future(cluster.nodes[0].locks.release(lock, holder.token, 5.0))
    granted = await waiting
    assert isinstance(granted, LockGranted)
    await asyncio.sleep(1)
    assert isinstance(released.result(), LockReleased)
    assert await held_by(cluster, lock) == ["waiter"]
    assert not stays.done()
    stays.cancel()


@pytest.mark.parametrize("fate", [Fate.UNSENT, Fate.DELIVERED])
async def test_a_grant_that_its_client_can_not_be_told_of_is_given_back_at_once(fate: Fate) -> None:
    """Its desk can't be reached, or its client has gone meanwhile."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    holder, lost = (Locker(cluster, name, ttl_s=LEASES_S) for name in ("holder", "lost"))
    await holder.acquire(0, lock)
    waiting = asyncio.ensure_future(lost.acquire(1, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    following = asyncio.ensure_future(Locker(cluster, "following").acquire(2, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    offers: list[str] = []

    def offered() -> None:
        offers.extend(grant.owner for grant in state_of(cluster, lock).grants)
        lost.connection.end()

    cluster.network.treat(fate, LockOffer, target=1, then=offered)
    began_s = asyncio.get_running_loop().time()
    await cluster.nodes[0].locks.release(lock, holder.token, 5.0)
    assert isinstance(await following, LockGranted)
    assert offers == ["lost"]
    assert asyncio.get_running_loop().time() - began_s < SILENT_S
    assert await waiting is None or isinstance(waiting.result(), LockBusy)


async def test_a_found_grant_whose_client_has_gone_is_given_back_for_its_desk_knows_that_nobody_was_told() -> None:
    """A keeper made it and died; the next one has found it, and its client goes while it is offered."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    holder, gone = (Locker(cluster, name, ttl_s=LEASES_S) for name in ("holder", "gone"))
    await holder.acquire(0, lock)
    desk = cluster.topology.replicas_of(lock_key(lock))[2]
    waiting = asyncio.ensure_future(gone.acquire(desk, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    cluster.network.treat(Fate.LOST, LockOffer, then=lambda: cluster.network.cut_off(0))
    await cluster.nodes[0].locks.release(lock, holder.token, 5.0)
    (made,) = state_of(cluster, lock).grants
    assert (made.owner, made.renewals) == ("gone", 0)
    cluster.network.rules[:1] = []
    cluster.network.treat(Fate.DELIVERED, LockOffer, then=gone.connection.end)
    assert not isinstance(await waiting, LockGranted)
    assert state_of(cluster, lock).grants
    await until(lambda: not any(node.locks.keeper._kept for node in cluster.nodes))
    assert await held_by(cluster, lock) == []


async def test_who_has_gone_before_the_grant_is_passed_over_and_after_it_holds_nothing() -> None:
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    holder, gone = Locker(cluster, "holder"), Locker(cluster, "gone", ttl_s=LEASES_S)
    await holder.acquire(0, lock)
    left = asyncio.ensure_future(gone.acquire(1, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    stays = asyncio.ensure_future(Locker(cluster, "stays").acquire(2, lock, wait_s=100))
    await asyncio.sleep(TURN_S)
    gone.connection.end()
    await left
    await cluster.nodes[0].locks.release(lock, holder.token, 5.0)
    assert isinstance(await stays, LockGranted)

    free = lock_led_by(cluster, 1)
    absent = Connection()
    absent.end()
    await Locker(cluster, "absent", ttl_s=LEASES_S, connection=absent).acquire(2, free)
    await asyncio.sleep(1)
    assert await held_by(cluster, free) == []


async def test_a_grant_that_took_long_is_renewed_before_it_is_told() -> None:
    """The answer is on its way for most of the lease. The client hears of it only once the lease has begun anew."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    slow_s = 10 * FRESH_SHARE + 1
    cluster.network.treat(Fate.DELIVERED, LockAcquire, answer_after_s=slow_s)
    locker = Locker(cluster, "slow", ttl_s=10)
    outcome = await locker.acquire(1, lock, timeout_s=8)
    assert isinstance(outcome, LockGranted)
    told_s = asyncio.get_running_loop().time()
    cluster.network.heal()
    contender = await Locker(cluster, "contender").acquire(2, lock, wait_s=60)
    assert isinstance(contender, LockGranted)
    assert asyncio.get_running_loop().time() - told_s >= 10 - 2 * TURN_S


async def test_a_grant_that_is_over_before_it_can_be_told_is_not_told() -> None:
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    await Locker(cluster, "nobody").acquire(0, lock_led_by(cluster, 0), timeout_s=1)
    await asyncio.sleep(11)  # the keeper knows by now who waits, and asks no desk
    cluster.network.treat(Fate.DELIVERED, LockAcquire, source=1, answer_after_s=12)
    late = asyncio.ensure_future(Locker(cluster, "late", ttl_s=10).acquire(1, lock, wait_s=100))
    await asyncio.sleep(1)
    other = Locker(cluster, "other", ttl_s=LEASES_S)
    assert isinstance(await other.acquire(2, lock, wait_s=100), LockGranted)
    await asyncio.sleep(5)
    assert not late.done()
    assert await held_by(cluster, lock) == ["other"]
    cluster.network.heal()
    await cluster.nodes[2].locks.release(lock, other.token, 5.0)
    assert isinstance(await late, LockGranted)


async def test_nobody_is_left_holding_what_a_client_was_told_is_unknown() -> None:
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    cluster.network.treat(Fate.ANSWER_LOST, LockAcquire)
    outcome = await Locker(cluster, "unlucky", ttl_s=LEASES_S).acquire(1, lock)
    assert isinstance(outcome, Unknown)
    cluster.network.heal()
    await asyncio.sleep(1)
    assert await held_by(cluster, lock) == []


async def test_a_keeper_that_falls_silent_is_not_waited_for() -> None:
    """It is paused in the midst of a step. Once it seems dead the next one is asked: no step is harmful twice."""
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    loop = asyncio.get_running_loop()
    for step in ("acquire", "renew", "release"):
        locker = Locker(cluster, step)
        if step != "acquire":
            assert isinstance(await locker.acquire(1, lock), LockGranted)
        cluster.network.treat(Fate.SILENT, target=0)
        loop.call_later(1.0, cluster.network.down.add, 0)
        began_s = loop.time()
        if step == "acquire":
            assert isinstance(await locker.acquire(1, lock), LockGranted)
        elif step == "renew":
            assert isinstance(await cluster.nodes[1].locks.renew(lock, locker.token, 5.0), LockGranted)
        else:
            assert isinstance(await cluster.nodes[1].locks.release(lock, locker.token, 5.0), LockReleased)
        assert loop.time() - began_s < 3
        cluster.network.heal()
        await cluster.nodes[1].locks.release(lock, locker.token, 5.0)


async def test_a_second_grant_by_a_keeper_that_wakes_up_is_given_back() -> None:
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    loop = asyncio.get_running_loop()
    locker = Locker(cluster, "locker", ttl_s=LEASES_S)
    asked: list[LockAcquire] = []
    keeper = cluster.nodes[0].locks.keeper
    handle = keeper.handle

    def asleep(request: object, age_ms: int, respond: object, token: int) -> None:
        asked.append(request)  # type: ignore[arg-type]
        loop.call_later(3.0, handle, request, age_ms, respond, token)

    keeper.handle = asleep  # type: ignore[method-assign, assignment]
    loop.call_later(1.0, cluster.network.down.add, 0)
    assert isinstance(await locker.acquire(1, lock), LockGranted)
    assert isinstance(await cluster.nodes[1].locks.release(lock, locker.token, 5.0), LockReleased)
    keeper.handle = handle  # type: ignore[method-assign]
    cluster.network.heal()
    await asyncio.sleep(4)
    assert asked
    assert await held_by(cluster, lock) == []


async def test_a_lost_majority_is_told_as_such() -> None:
    cluster = await form_cluster()
    lock = lock_led_by(cluster, 0)
    holder = Locker(cluster, "holder")
    await holder.acquire(0, lock)
    cluster.network.cut_off(1)
    cluster.network.cut_off(2)
    for outcome in (
        await Locker(cluster, "other").acquire(0, lock),
        await cluster.nodes[0].locks.renew(lock, holder.token, 5.0),
        await cluster.nodes[0].locks.release(lock, holder.token, 5.0),
        await cluster.nodes[0].locks.propose("vote", Proposal("c", b"1"), 5.0),
    ):
        assert isinstance(outcome, Unavailable)
        assert (outcome.needed, outcome.got) == (2, 1)


async def test_a_node_that_stops_ends_its_waits() -> None:
    cluster = await form_cluster()
    await Locker(cluster, "holder").acquire(0, "lock")
    waiting = asyncio.ensure_future(Locker(cluster, "waiter").acquire(1, "lock", wait_s=100))
    await asyncio.sleep(TURN_S)
    cluster.nodes[1].locks.stop_waiting()
    outcome = await waiting
    assert isinstance(outcome, Unavailable)
    assert "stopping" in outcome.reason


async def test_a_vote_proposed_everywhere_at_once_has_one_winner() -> None:
    cluster = await form_cluster()
    for number in range(50):
        told = await asyncio.gather(
            *(
                node.locks.propose(f"v{number}", Proposal(f"c{slot}", b"1"), 5.0)
                for slot, node in enumerate(cluster.nodes)
            )
        )
        voted = [outcome for outcome in told if isinstance(outcome, Voted)]
        assert len(voted) == 3
        assert len({outcome.decision.winner.candidate for outcome in voted}) == 1
        assert sum(outcome.is_new for outcome in voted) == 1


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_at_most_one_holds_a_lock_whatever_the_network_does(seed: int) -> None:
    await run_schedule(seed)


def lease_is_broken_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender waits for half of the lease."""
    monkeypatch.setattr(lease_watch, "RATE_MARGIN", 0.5)


def renewal_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender that has watched a grant for a lease takes it over, whether it was renewed meanwhile or not."""
    monkeypatch.setattr(Grant, "identity", property(lambda grant: (grant.fence, 0)))


def takeover_is_of_any_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender whose watch is over takes the lock from whoever holds it by then."""

    def acquired_over_all(state: LockState, wish: Wish, over: Collection[Identity], now_ms: int) -> LockState | None:
        return acquired(state, wish, [grant.identity for grant in state.grants] if over else (), now_ms)

    monkeypatch.setattr(lock_module, "acquired", acquired_over_all)


def fence_is_reset_on_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that nobody holds is forgotten, and its next fence counts from nothing."""

    def released_and_forgotten(state: LockState, token: bytes, only: Identity | None) -> LockState | None:
        left = released(state, token, only)
        return LockState(0, 1, left.grants) if left is not None else None

    def acquired_without_time(
        state: LockState, wish: Wish, over: Collection[Identity], now_ms: int
    ) -> LockState | None:
        return acquired(state, wish, over, 0)

    monkeypatch.setattr(lock_module, "released", released_and_forgotten)
    monkeypatch.setattr(lock_module, "acquired", acquired_without_time)


def told_grant_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A desk that is offered a grant which it has told already says that nobody is there."""
    monkeypatch.setattr(LockDesk, "_offered", lambda desk, number, granted: (
        number in desk._waiters and desk._tell(desk._waiters[number], granted)
    ))  # fmt: skip
    monkeypatch.setattr(LockDesk, "_confirm", lambda desk, number: True)


@pytest.mark.parametrize(
    "break_it",
    [
        lease_is_broken_early,
        renewal_is_not_seen,
        takeover_is_of_any_grant,
        fence_is_reset_on_release,
        told_grant_is_given_back,
    ],
)
async def test_a_rule_that_is_left_out_is_missed(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that can't fail proves nothing."""
    break_it(monkeypatch)
    for seed in range(MUTANT_SEEDS):
        try:
            await run_schedule(seed)
        except Violation as violation:
            print(f"seed {seed}: {violation}")
            return
    pytest.fail(f"{MUTANT_SEEDS} schedules saw nothing wrong")


def state_of(cluster: Cluster, lock: str) -> LockState:
    """What the newest replica has on disk."""
    folders: list[MemoryFolder] = [node.engine.folder for node in cluster.nodes]
    states = [folder.states[lock_key(lock)] for folder in folders if lock_key(lock) in folder.states]
    records = [state.record for state in states if state.record is not None]
    return decode(max(records, key=lambda record: record.origin).value) if records else LockState()


def cluster_partition(cluster: Cluster, lock: str) -> int:
    return cluster.nodes[0].trees.partition_of(lock_key(lock))
