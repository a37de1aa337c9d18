"""Locks and leases in virtual time: when a lock counts as held, when it is renewed, how a body ends that lost it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import kvstore
from kvstore.client.asynchronous import AsyncClient
from kvstore.client.values import Lease, LockInfo
from kvstore.errors import KvstoreError, LockLost, OutcomeUnknown, Unavailable

TTL_S = 9.0


def now() -> float:
    return asyncio.get_running_loop().time()


class LockStore:
    """The lock operations of a store, as a test wants them to go."""

    timeout_s = 5.0

    def __init__(self) -> None:
        self.waits_s = 0.0
        """How long an acquire waits before it is granted."""
        self.breaks_off = 0
        """How many of the next acquires end without an answer."""
        self.on_renew: Callable[[], Awaitable[None]] | None = None
        self.release_error: KvstoreError | None = None
        self.told: list[tuple[str, float]] = []
        """What was asked, and when."""

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        self._note("close")

    async def acquire(self, name: str, *, owner: str, ttl_s: float, **_: Any) -> Lease:
        self._note("acquire")
        await asyncio.sleep(self.waits_s)
        if self.breaks_off:
            self.breaks_off -= 1
            raise OutcomeUnknown("the node died")
        return Lease(name, owner, "secret", 7, ttl_s)

    async def renew(self, name: str, token: str, *, timeout_s: float | None) -> None:
        self._note("renew")
        if self.on_renew is not None:
            await self.on_renew()

    async def release(self, name: str, token: str, *, timeout_s: float | None) -> None:
        self._note("release")
        if self.release_error is not None:
            raise self.release_error

    async def put(self, key: str, value: bytes, **given: Any) -> Any:
        self._note(f"put under {given['fence'].fence}")

    async def lock_info(self, name: str, **_: Any) -> LockInfo:
        return LockInfo(name, "somebody", 9, TTL_S, None, 0)

    def times(self, what: str) -> list[float]:
        """When that was asked."""
        return [round(at, 3) for told, at in self.told if told == what]

    def _note(self, what: str) -> None:
        self.told.append((what, now()))


@pytest.fixture
def store() -> LockStore:
    return LockStore()


@pytest.fixture
async def client(store: LockStore) -> AsyncClient:
    return AsyncClient(store, clock=asyncio.get_running_loop().time)  # type: ignore[arg-type]


async def refused() -> None:
    raise LockLost("another has it.")


async def unreachable() -> None:
    raise Unavailable("not now.")


async def silent() -> None:
    await asyncio.Event().wait()


# -- the lease -----------------------------------------------------------------------------------------------------


async def test_it_is_renewed_every_third_of_its_lease_and_given_back(store: LockStore, client: AsyncClient) -> None:
    async with client.lock("l", ttl=TTL_S) as lock:
        await asyncio.sleep(10)
        assert lock.is_held
        assert (lock.fence, lock.token, lock.fenced) == (7, "secret", kvstore.Fence("l", 7))
    assert not lock.is_held
    assert store.times("renew") == [3, 6, 9]
    assert store.times("release") == [10]
    await asyncio.sleep(10)
    assert len(store.told) == 5, "nothing goes on afterwards"


async def test_a_lease_counts_from_when_it_was_asked_for(store: LockStore, client: AsyncClient) -> None:
    store.waits_s, store.on_renew = 2, silent
    lock = client.lock("l", ttl=TTL_S)
    await lock.acquire()
    assert now() == 2
    await asyncio.sleep(TTL_S - 2 - 0.01)
    assert lock.is_held
    await asyncio.sleep(0.01)
    assert not lock.is_held


async def test_a_renewed_lease_counts_from_when_the_renewal_was_sent(store: LockStore, client: AsyncClient) -> None:
    async def slow_then_silent() -> None:
        store.on_renew = silent
        await asyncio.sleep(2)

    store.on_renew = slow_then_silent
    with pytest.raises(LockLost):
        async with client.lock("l", ttl=TTL_S):
            await asyncio.sleep(100)
    assert store.times("renew")[:2] == [3, 6]
    assert now() == 3 + TTL_S


async def test_who_had_to_wait_renews_before_the_body_begins(store: LockStore, client: AsyncClient) -> None:
    store.waits_s = 60
    async with client.lock("l", ttl=TTL_S) as lock:
        assert store.times("renew") == [60]
        assert lock.is_held
        await asyncio.sleep(3.5)
    assert store.times("renew") == [60, 63]


async def test_who_waited_and_was_passed_over_meanwhile_never_begins(store: LockStore, client: AsyncClient) -> None:
    store.waits_s, store.on_renew = 60, refused
    lock = client.lock("l", ttl=TTL_S)
    with pytest.raises(LockLost):
        async with lock:
            pytest.fail("the body ran without the lock")
    assert not lock.is_held
    assert store.times("release") == []


async def test_who_waited_and_can_not_renew_gives_it_back(store: LockStore, client: AsyncClient) -> None:
    store.waits_s, store.on_renew = 60, unreachable
    with pytest.raises(Unavailable):
        await client.lock("l", ttl=TTL_S).acquire()
    assert store.times("release") == [60]


async def test_a_renewal_that_fails_is_tried_again_until_the_lease_is_over(
    store: LockStore, client: AsyncClient
) -> None:
    store.on_renew = unreachable
    lock = client.lock("l", ttl=TTL_S)
    await lock.acquire()
    await asyncio.sleep(6)
    store.on_renew = None
    await asyncio.sleep(TTL_S)
    assert lock.is_held, "a later try came in time"
    store.on_renew = unreachable
    await asyncio.sleep(2 * TTL_S)
    assert not lock.is_held
    with pytest.raises(LockLost, match="could not be renewed in time"):
        lock.check()


async def test_a_renewal_that_nobody_answers_does_not_keep_it_held(store: LockStore, client: AsyncClient) -> None:
    store.on_renew = silent
    with pytest.raises(LockLost):
        async with client.lock("l", ttl=TTL_S):
            await asyncio.sleep(100)
    assert now() == TTL_S


async def test_a_failed_renewal_says_nothing_of_the_lease(store: LockStore, client: AsyncClient) -> None:
    lock = client.lock("l", ttl=TTL_S)
    await lock.acquire()
    store.on_renew = unreachable
    with pytest.raises(Unavailable):
        await lock.renew()
    assert lock.is_held
    store.on_renew = refused
    with pytest.raises(LockLost, match="another has it"):
        await lock.renew()
    assert not lock.is_held


async def test_fenced_calls_of_a_lost_lock_are_not_even_sent(store: LockStore, client: AsyncClient) -> None:
    lock = client.lock("l", ttl=TTL_S)
    with pytest.raises(LockLost):
        await client.put("k", "v", fence=lock)
    await lock.acquire()
    await client.put("k", "v", fence=lock)
    store.on_renew = refused
    await asyncio.sleep(4)
    with pytest.raises(LockLost):
        await client.put("k", "v", fence=lock)
    assert [what for what, _ in store.told if what.startswith("put")] == ["put under 7"]


# -- the body ------------------------------------------------------------------------------------------------------


async def test_a_body_that_lost_its_lock_is_cancelled(store: LockStore, client: AsyncClient) -> None:
    store.on_renew = refused
    ended: list[float] = []

    async def work() -> None:
        async with client.lock("l", ttl=TTL_S):
            try:
                await asyncio.sleep(100)
            finally:
                ended.append(now())

    with pytest.raises(LockLost, match="another has it"):
        await work()
    assert ended == [3]
    assert store.times("release") == []
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0, "what comes behind it is not cancelled"


async def test_a_cancellation_from_outside_stays_one(store: LockStore, client: AsyncClient) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with client.lock("l", ttl=TTL_S):
            entered.set()
            await asyncio.sleep(100)

    task = asyncio.ensure_future(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.times("release") == [0], "it is given back all the same"


async def test_when_both_cancel_the_one_from_outside_counts(store: LockStore, client: AsyncClient) -> None:
    async def refuse_and_cancel() -> None:
        task.cancel()
        raise LockLost("another has it.")

    async def work() -> None:
        async with client.lock("l", ttl=TTL_S):
            await asyncio.sleep(100)

    store.on_renew = refuse_and_cancel
    task = asyncio.ensure_future(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_around_it_and_within_it_work_as_ever(store: LockStore, client: AsyncClient) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), client.lock("l", ttl=TTL_S):
            await asyncio.sleep(100)
    async with client.lock("l", ttl=TTL_S):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.sleep(100)
    store.on_renew = refused
    with pytest.raises(LockLost):
        async with asyncio.timeout(50), client.lock("l", ttl=TTL_S), asyncio.timeout(40):
            await asyncio.sleep(100)


async def test_two_locks_that_are_lost_at_once_end_one_body(store: LockStore, client: AsyncClient) -> None:
    store.on_renew = refused
    with pytest.raises(LockLost):
        async with client.lock("outer", ttl=TTL_S), client.lock("inner", ttl=TTL_S):
            await asyncio.sleep(100)
    await asyncio.sleep(1)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_group_of_tasks_in_the_body_is_cancelled_with_it(store: LockStore, client: AsyncClient) -> None:
    store.on_renew = refused
    ended: list[int] = []

    async def worker(number: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(number)

    async def work() -> None:
        async with client.lock("l", ttl=TTL_S), asyncio.TaskGroup() as group:
            group.create_task(worker(1))
            group.create_task(worker(2))

    with pytest.raises(LockLost):
        await work()
    assert sorted(ended) == [1, 2]


async def test_a_body_that_ends_in_the_moment_of_the_loss_leaves_no_cancellation_behind(
    store: LockStore, client: AsyncClient
) -> None:
    is_lost = asyncio.get_running_loop().create_future()

    async def refuse() -> None:
        is_lost.set_result(None)  # the body goes on in the same turn of the loop in which it is cancelled
        raise LockLost("another has it.")

    store.on_renew = refuse
    with pytest.raises(LockLost):
        async with client.lock("l", ttl=TTL_S):
            await is_lost
    await asyncio.sleep(1)


async def test_a_body_that_ignores_its_cancellation_is_told_at_its_end(store: LockStore, client: AsyncClient) -> None:
    store.on_renew = refused

    async def work() -> None:
        async with client.lock("l", ttl=TTL_S):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)

    with pytest.raises(LockLost):
        await work()
    await asyncio.sleep(1)


async def test_an_error_of_the_body_is_raised_and_told_of_the_loss(store: LockStore, client: AsyncClient) -> None:
    async def work() -> None:
        async with client.lock("l", ttl=TTL_S):
            try:
                await asyncio.sleep(100)
            finally:
                raise ValueError("mine")

    store.on_renew = refused
    with pytest.raises(ValueError, match="mine") as caught:
        await work()
    assert "no longer held" in caught.value.__notes__[0]
    store.on_renew = None
    with pytest.raises(ValueError, match="mine") as caught:
        async with client.lock("l", ttl=TTL_S):
            raise ValueError("mine")
    assert store.times("release") == [3]
    assert not hasattr(caught.value, "__notes__")


async def test_a_body_that_blocked_the_loop_for_longer_than_the_lease_has_lost_it(store: LockStore) -> None:
    behind = 0.0
    client = AsyncClient(store, clock=lambda: now() + behind)  # type: ignore[arg-type]

    async def work() -> None:
        nonlocal behind
        async with client.lock("l", ttl=TTL_S) as lock:
            behind = 2 * TTL_S  # as if the process had been stopped, and went on
            assert not lock.is_held
            with pytest.raises(LockLost):
                await client.put("k", "v", fence=lock)

    with pytest.raises(LockLost):
        await work()
    assert store.times("renew") == []


@pytest.mark.parametrize("error", [OutcomeUnknown("lost"), Unavailable("not now"), kvstore.NoNodeReachable("nobody")])
async def test_a_release_that_fails_for_now_spoils_no_body(
    store: LockStore, client: AsyncClient, error: KvstoreError, caplog: pytest.LogCaptureFixture
) -> None:
    store.release_error = error
    async with client.lock("l", ttl=TTL_S):
        pass
    assert "frees itself within its lease" in caplog.text
    lock = client.lock("l", ttl=TTL_S)
    await lock.acquire()
    with pytest.raises(type(error)):
        await lock.release()


async def test_a_lock_that_turns_out_to_be_lost_when_it_is_given_back_spoils_the_body(
    store: LockStore, client: AsyncClient
) -> None:
    store.release_error = LockLost("it was another's.")
    with pytest.raises(LockLost):
        async with client.lock("l", ttl=TTL_S):
            pass


async def test_one_object_holds_once_at_a_time_and_may_be_used_again(store: LockStore, client: AsyncClient) -> None:
    lock = client.lock("l", ttl=TTL_S)
    with pytest.raises(RuntimeError, match="not held"):
        await lock.release()
    for _ in range(2):
        async with lock:
            with pytest.raises(RuntimeError, match="already"):
                await lock.acquire()
    assert len(store.times("release")) == 2


async def test_a_body_may_give_it_back_itself(store: LockStore, client: AsyncClient) -> None:
    async with client.lock("l", ttl=TTL_S) as lock:
        await lock.release()
    assert len(store.times("release")) == 1


async def test_a_client_that_is_closed_renews_no_longer(store: LockStore, client: AsyncClient) -> None:
    lock = client.lock("l", ttl=TTL_S)
    await lock.acquire()
    await client.close()
    await asyncio.sleep(TTL_S)
    assert not lock.is_held
    assert store.times("renew") == []
    with pytest.raises(RuntimeError, match="closed"):
        await client.lock_info("l")


async def test_an_election_is_the_lock_of_its_name(store: LockStore, client: AsyncClient) -> None:
    election = client.election("e", candidate="c1", ttl=TTL_S)
    assert (election.candidate, election.is_leader) == ("c1", False)
    async with election:
        assert (election.term, election.is_leader, election.fenced) == (7, True, kvstore.Fence("e", 7))
    await election.campaign()
    await election.resign()
    assert await election.leader() == kvstore.Leader("e", "somebody", 9)


async def test_a_wait_that_breaks_off_is_begun_again(client: AsyncClient, store: LockStore) -> None:
    store.waits_s, store.breaks_off = 2.0, 2
    async with client.lock("door", ttl=TTL_S, wait=60) as lock:
        assert lock.is_held
    assert len(store.times("acquire")) == 3


@pytest.mark.parametrize("wait", [0, 3])
async def test_a_wait_that_breaks_off_at_its_end_is_unknown(client: AsyncClient, store: LockStore, wait: float) -> None:
    store.waits_s, store.breaks_off = 2.0, 5
    with pytest.raises(OutcomeUnknown):
        await client.lock("door", ttl=TTL_S, wait=wait).acquire()
    assert len(store.times("acquire")) == (1 if wait == 0 else 2)
