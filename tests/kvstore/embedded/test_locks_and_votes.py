"""Locks and votes over a file: the cluster's cores, and what stands beside them so that waiting is fair."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import kvstore
from cluster.locks.lock_state import Grant, LockState, token_digest
from kvstore import Fence
from kvstore.client.asynchronous import AsyncClient
from kvstore.embedded import notes
from kvstore.embedded.file_store import FileStore
from kvstore.embedded.moments import Moment, era_of_host
from kvstore.embedded.notes import Notes
from storage.shared_file.file import SharedFile
from tests.kvstore.embedded.conftest import Opened, ShiftedClock


def content_of(path: Path) -> bytes:
    return path.read_bytes()


async def until_waiters(client: AsyncClient, count: int) -> None:
    while True:
        info = await client.lock_info("l")
        if info is not None and info.waiters == count:
            return
        await asyncio.sleep(0.005)


async def test_one_holds_it_and_the_others_are_told_who(opened: Opened) -> None:
    one, other = await opened(), await opened()
    async with one.lock("l", owner="me", ttl=10) as lock:
        with pytest.raises(kvstore.LockHeld) as held:
            await other.lock("l", wait=0).acquire()
        assert (held.value.holder, held.value.outcome) == ("me", "not-applied")
        assert held.value.retry_after is not None
        assert 1 <= held.value.retry_after <= 11
        info = await other.lock_info("l")
        assert info is not None
        assert (info.holder, info.fence, info.ttl, info.waiters, info.permits) == ("me", lock.fence, 10.0, 0, 1)
        assert info.expires_in is not None
        assert 9 < info.expires_in <= 10.1
        assert [lock.name for lock in await other.locks()] == ["l"]
        assert await other.locks("m") == []
    assert await other.lock_info("l") is None
    assert await other.locks() == []
    async with other.lock("l") as again:
        assert again.fence > lock.fence if lock.is_held else True


async def test_fences_grow_and_an_older_one_is_refused_even_after_deletion(opened: Opened) -> None:
    one, other = await opened(), await opened()
    async with one.lock("l") as lock:
        old = lock.fenced
        await one.put("a", "1", fence=lock)
    async with other.lock("l") as lock:
        await other.put("a", "2", fence=lock)
        await other.delete("a", fence=lock)
        with pytest.raises(kvstore.Fenced) as fenced:
            await one.put("a", "late", fence=old)
        assert (fenced.value.fence, fenced.value.version) == (lock.fence, None)
        with pytest.raises(kvstore.BadFence, match="has never granted it"):
            await one.put("a", "typo", fence=Fence("l", lock.fence + 1))
        await one.put("b", "unfenced by then", fence=old)
    assert await one.get("a") is None


async def test_a_paused_holder_does_not_write_between_the_read_and_the_write_of_the_next(opened: Opened) -> None:
    one, other = await opened(), await opened()
    await one.put("a", "5", content_type="text/plain", ttl=60)
    async with one.lock("l") as lock:
        old = lock.fenced
        assert await one.get("a", fence=lock) == await one.get("a")
    async with other.lock("l") as lock:
        before = await other.get("a")
        found = await other.get("a", fence=lock)
        assert found is not None
        assert before is not None
        assert (found.text, found.version, found.content_type) == ("5", before.version, "text/plain")
        assert found.expires_in is not None
        for late in (one.put("a", "6", fence=old), one.get("a", fence=old), one.delete("a", fence=old)):
            with pytest.raises(kvstore.Fenced) as fenced:
                await late
            assert (fenced.value.fence, fenced.value.version) == (lock.fence, found.version)
        await other.put("a", "6", fence=lock)


async def test_a_key_without_a_value_remembers_a_reader(opened: Opened, clock: ShiftedClock) -> None:
    one, other = await opened(), await opened()
    await one.put("deleted", "x")
    await one.delete("deleted")
    await one.put("expired", "x", ttl=1)
    clock.wall_shift_ms += 2_000
    async with one.lock("l") as lock:
        old = lock.fenced
    async with other.lock("l") as lock:
        for key in ("never", "deleted", "expired"):
            assert await other.get(key, fence=lock) is None
            with pytest.raises(kvstore.Fenced) as fenced:
                await one.put(key, "late", fence=old)
            assert (fenced.value.fence, fenced.value.version) == (lock.fence, None)
        assert [entry.key async for entry in other.list()] == []
        for key in ("never", "deleted", "expired"):
            await other.put(key, "mine", create=True, fence=lock)


async def test_to_read_again_under_the_same_fence_writes_nothing(db: AsyncClient, path: Path) -> None:
    async with db.lock("l") as lock:
        fence = lock.fenced
        await db.get("a", fence=fence)
    before = content_of(path)
    for _ in range(3):
        assert await db.get("a", fence=fence) is None
        assert await db.batch([kvstore.Get("a", fence=fence)]) == [None]
    assert content_of(path) == before


async def test_what_a_fenced_read_can_not_be_is_refused(db: AsyncClient) -> None:
    async with db.lock("l") as lock:
        with pytest.raises(kvstore.BadFence, match=r"has never granted it; .*nothing was read"):
            await db.get("a", fence=Fence("l", lock.fence + 1))
        with pytest.raises(kvstore.BadFence, match="has never granted one; nothing was read"):
            await db.get("a", fence=Fence("other", 1))
        with pytest.raises(kvstore.BadFence, match=r"a number from 1 to .* nothing was read"):
            await db.get("a", fence=Fence("l", 0))
        with pytest.raises(kvstore.NeedsStrong, match="Nothing was read"):
            await db.get("a", fence=lock, consistency="weak")
    with pytest.raises(kvstore.LockLost):
        await db.get("a", fence=lock)


async def test_a_get_of_a_batch_bears_a_fence(opened: Opened) -> None:
    one, other = await opened(), await opened()
    await one.put("a", "5")
    async with one.lock("l") as lock:
        old = lock.fenced
    async with other.lock("l") as lock:
        found, absent = await other.batch([kvstore.Get("a", fence=lock), kvstore.Get("b", fence=lock)])
        assert isinstance(found, kvstore.Value)
        assert (found.text, absent) == ("5", None)
    late = await one.batch([kvstore.Get("a", fence=old), kvstore.Put("b", "x", fence=old), kvstore.Get("a")])
    assert [type(result) for result in late] == [kvstore.Fenced, kvstore.Fenced, kvstore.Value]


async def test_a_dead_holders_lease_is_watched_by_no_one_and_still_ends(path: Path, clock: ShiftedClock) -> None:
    """A process that is started now and then, and tries once, gets the lock of a holder that died meanwhile."""
    dead = FileStore(path, clock=clock)
    await dead.open()
    await dead.acquire("l", owner="dead", ttl_s=10, wait_s=0, permits=1, timeout_s=None)
    await dead.close()
    clock.monotonic_shift_s += 9
    async with AsyncClient(FileStore(path, clock=clock), clock=clock.monotonic_s) as too_early:
        with pytest.raises(kvstore.LockHeld):
            await too_early.lock("l", wait=0).acquire()
    clock.monotonic_shift_s += 1.2
    async with AsyncClient(FileStore(path, clock=clock), clock=clock.monotonic_s) as late:
        assert await late.lock_info("l") is None
        lock = late.lock("l", wait=0)
        await lock.acquire()
        await lock.release()


async def test_after_a_reboot_a_lease_is_watched_from_when_it_is_first_seen(
    path: Path, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = FileStore(path, clock=clock)
    await dead.open()
    await dead.acquire("l", owner="dead", ttl_s=10, wait_s=0, permits=1, timeout_s=None)
    await dead.close()
    monkeypatch.setattr("kvstore.embedded.file_store.era_of_host", lambda: "another boot")
    clock.monotonic_shift_s += 1_000
    for passed_s in (0, 9, 1.2):
        clock.monotonic_shift_s += passed_s
        store = FileStore(path, clock=clock)
        await store.open()
        trying = store.acquire("l", owner="next", ttl_s=10, wait_s=0, permits=1, timeout_s=None)
        if passed_s == 1.2:
            assert (await trying).owner == "next"
        else:
            with pytest.raises(kvstore.LockHeld):
                await trying
        await store.close()


async def test_who_waits_gets_it_in_order(opened: Opened) -> None:
    clients = [await opened() for _ in range(5)]
    order: list[int] = []
    waiting: list[asyncio.Task[None]] = []

    async def take(number: int) -> None:
        async with clients[number].lock("l", wait=30):
            order.append(number)

    async with clients[0].lock("l"):
        for number in range(1, 5):
            waiting.append(asyncio.ensure_future(take(number)))
            await until_waiters(clients[0], number)
        with pytest.raises(kvstore.LockHeld):
            await clients[0].lock("l", wait=0.05).acquire()
    with pytest.raises(kvstore.LockHeld):
        await clients[0].lock("l", wait=0).acquire()
    await asyncio.gather(*waiting)
    assert order == [1, 2, 3, 4]
    await clients[0].lock("l", wait=0).acquire()


async def test_who_is_cancelled_leaves_the_line_and_holds_nothing(opened: Opened) -> None:
    one, other = await opened(), await opened()
    async with one.lock("l"):
        waiting = asyncio.ensure_future(other.lock("l", wait=30).acquire())
        await until_waiters(one, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until_waiters(one, 0)
    await one.lock("l", wait=0).acquire()


async def test_acquiring_that_is_cancelled_at_any_moment_leaves_no_grant_behind(opened: Opened) -> None:
    one, other = await opened(), await opened()
    for turn in range(30):
        acquiring = asyncio.ensure_future(one.lock("l", wait=5).acquire())
        await asyncio.sleep(turn / 3_000)
        acquiring.cancel()
        try:
            await acquiring
        except asyncio.CancelledError:
            async with other.lock("l", wait=3):  # sooner than the lease of 10 s ends
                pass
        else:
            break


async def test_permits(opened: Opened) -> None:
    one, other = await opened(), await opened()
    async with one.lock("l", permits=2) as first, other.lock("l", permits=2) as second:
        assert first.fence < second.fence
        with pytest.raises(kvstore.LockHeld):
            await one.lock("l", permits=2, wait=0).acquire()
        with pytest.raises(kvstore.LockHeld, match="held with 2 permits"):
            await one.lock("l", wait=0).acquire()
        info = await one.lock_info("l")
        assert info is not None
        assert (info.permits, [holder.fence for holder in info.holders]) == (2, [first.fence, second.fence])
    async with one.lock("l", wait=0):
        pass


async def test_what_no_lock_can_be_is_refused(path: Path) -> None:
    store = FileStore(path)
    await store.open()
    good = {"owner": "me", "ttl_s": 10.0, "wait_s": 0.0, "permits": 1, "timeout_s": None}
    for name, bad in (
        ("", {}),
        ("n" * 257, {}),
        ("l", {"owner": ""}),
        ("l", {"ttl_s": 0.5}),
        ("l", {"ttl_s": 3_601}),
        ("l", {"wait_s": 601}),
        ("l", {"wait_s": -1}),
        ("l", {"permits": 0}),
        ("l", {"permits": 101}),
    ):
        with pytest.raises(kvstore.BadRequest):
            await store.acquire(name, **{**good, **bad})  # type: ignore[arg-type]
    for token in ("made up", "x" * 24):
        with pytest.raises(kvstore.LockLost):
            await store.renew("l", token, timeout_s=None)
        with pytest.raises(kvstore.LockLost):
            await store.release("l", token, timeout_s=None)
    with pytest.raises(kvstore.BadRequest):
        await store.renew("l", "", timeout_s=None)
    await store.close()
    file = SharedFile(path)
    assert file.read(lambda reading: reading.registers(b"\0", b"\1", 10)) == [], "nothing was left behind"
    file.close()


async def test_a_vote_is_decided_once(opened: Opened) -> None:
    one, other = await opened(), await opened()
    assert await one.vote_result("v") is None
    decisions = await asyncio.gather(
        *(client.vote("v", name, {"n": name}) for client, name in ((one, "a"), (other, "b")))
    )
    assert sorted(decision.is_new for decision in decisions) == [False, True]
    winner = next(decision.winner for decision in decisions if decision.is_new)
    for decision in (*decisions, await one.vote_result("v"), await other.vote("v", "c", None)):
        assert decision is not None
        assert (decision.name, decision.winner, decision.value) == ("v", winner, {"n": winner})
        assert decision.decided_at is not None
        assert decision.decided_at.endswith("Z")
    with pytest.raises(kvstore.TooLarge):
        await one.vote("w", "a", "." * 70_000)
    with pytest.raises(kvstore.BadRequest):
        await one.vote("w", "")


async def test_an_election_is_the_lock_of_its_name(opened: Opened) -> None:
    one, other = await opened(), await opened()
    async with one.election("e", candidate="me") as election:
        leader = await other.election("e").leader()
        assert leader is not None
        assert (leader.leader, leader.term) == ("me", election.term)
        await one.put("a", "1", fence=election)
        with pytest.raises(kvstore.LockHeld):
            await other.election("e", wait=0).campaign()
    assert await other.election("e").leader() is None


# -- notes ---------------------------------------------------------------------------------------------------------

TOKENS = [token_digest(str(number)) for number in range(4)]


def at(ms: int, era: str = "era") -> Moment:
    return Moment(era, ms)


def test_a_grant_stands_since_it_was_first_noted_and_a_renewal_begins_anew() -> None:
    grant = Grant("me", TOKENS[0], 5, 10_000)
    state = LockState(5, 1, (grant,))
    first = notes.noted(notes.decode(None, at(100)), state, at(100))
    assert notes.noted(first, state, at(900)) is first
    renewed = LockState(5, 1, (Grant("me", TOKENS[0], 5, 10_000, 1),))
    assert notes.noted(first, renewed, at(900)).since() == {(5, 1): 900}
    assert notes.noted(first, LockState(5), at(900)).since() == {}
    kept = notes.decode(notes.encode(first), at(2_000))
    assert kept.since() == {(5, 0): 100}
    assert notes.decode(notes.encode(first), at(2_000, "another")) == Notes("another")


def test_the_line_keeps_its_order_and_forgets_the_silent() -> None:
    line = notes.decode(None, at(0))
    for place, token in enumerate(TOKENS[:3]):
        line = notes.heard(line, token, "", at(place))
    assert [line.place_of(token) for token in TOKENS] == [0, 1, 2, 3]
    assert notes.heard(line, TOKENS[0], "", at(notes.HEARTBEAT_MS - 1)) is line
    later = notes.heard(line, TOKENS[1], "", at(notes.SILENT_MS))
    late = notes.decode(notes.encode(later), at(notes.SILENT_MS + 3))
    assert [one.token for one in late.line] == [TOKENS[1]]
    assert notes.without(late, TOKENS[1]).line == ()


def test_processes_of_one_boot_agree_on_the_era() -> None:
    assert era_of_host() == era_of_host()
