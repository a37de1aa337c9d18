"""Reads under a fence through whole nodes: once one was answered, no earlier holder of the lock writes to the key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cluster.levels import Level
from cluster.locks.lock_state import LockState, encode, lock_key
from cluster.protocol.messages import Accept, Forward, Prepare, Read
from cluster.requests import (
    FENCES_MAX,
    BadFence,
    Conflict,
    Fence,
    Found,
    TimedOut,
    Unavailable,
    Written,
)
from storage.ballot import NONE
from storage.record import Record
from tests.coordination.three_nodes import Cluster, Fate, form_cluster, until

KEY = b"key"
A, B, C = Fence("lock", 1), Fence("lock", 2), Fence("lock", 3)
NODES = (0, 1, 2)


async def form(count: int = 3) -> Cluster:
    cluster = await form_cluster(count)
    await grant(cluster, "lock")
    return cluster


async def grant(cluster: Cluster, *locks: str) -> None:
    for lock in locks:
        assert isinstance(await cluster.put(0, lock_key(lock), encode(LockState(3, recent=(1, 2, 3)))), Written)


async def value(cluster: Cluster, at: int, key: bytes = KEY, fence: Fence | None = None) -> bytes | None:
    return (await record(cluster, at, key, fence)).value


async def record(cluster: Cluster, at: int, key: bytes = KEY, fence: Fence | None = None) -> Record:
    """What was found; what a key that was never written holds is written here as a deletion."""
    outcome = await cluster.get(at, key, fence=fence)
    assert isinstance(outcome, Found), outcome
    return outcome.record or Record(NONE, NONE, False, None)


def count_accepts(cluster: Cluster) -> list[int]:
    """Grows with each Accept and each Prepare that goes from one node to another."""
    seen: list[int] = []
    cluster.network.treat(Fate.DELIVERED, Accept, Prepare, then=lambda: seen.append(1))
    return seen


@pytest.mark.parametrize("led_by", NODES)
@pytest.mark.parametrize("reads_fenced", [True, False])
async def test_a_paused_holder_does_not_write_between_the_read_and_the_write_of_the_next(
    led_by: int, reads_fenced: bool
) -> None:
    """The hole of fences on writes alone, and that it is closed."""
    cluster = await form()
    key = cluster.key_led_by(led_by)
    await cluster.put(0, key, b"5")
    assert await value(cluster, 0, key, A if reads_fenced else None) == b"5"
    # A is paused beyond its lease; B gets the lock
    assert await value(cluster, 1, key, B if reads_fenced else None) == b"5"
    late = await cluster.put(2, key, b"6", fence=A)  # A wakes up
    if not reads_fenced:
        assert isinstance(late, Written)
        assert isinstance(await cluster.put(1, key, b"6", fence=B), Written), "two increments, and it says 6"
        return
    assert isinstance(late, Conflict)
    assert late.fence == B.number
    assert isinstance(await cluster.put(1, key, b"6", fence=B), Written)
    assert [await value(cluster, at, key) for at in NODES] == [b"6"] * 3


@pytest.mark.parametrize("what", ["a value", "a weak value", "a deletion", "nothing", "an expired value"])
@pytest.mark.parametrize("at", NODES)
async def test_the_fence_is_remembered_whatever_there_is_and_nothing_else_changes(what: str, at: int) -> None:
    cluster = await form()
    if what == "an expired value":
        await cluster.put(0, KEY, b"v", ttl_ms=500)
        await asyncio.sleep(1)
    elif what != "nothing":
        told = None if what == "a deletion" else b"v"
        await cluster.put(0, KEY, told, level=Level.WEAK if "weak" in what else Level.STRONG, needed=3)
    before = await record(cluster, at)
    after = await record(cluster, at, fence=B)
    assert (after.value, after.weak, after.expires_at_ms) == (before.value, before.weak, before.expires_at_ms)
    assert after.origin == (before.origin or 1)
    assert after.fences == {"lock": 2}
    for slot in NODES:
        late = await cluster.put(slot, KEY, b"late", fence=A)
        assert late == Conflict(before.origin if before.value is not None else None, 2, late.replicas, fence=2)  # type: ignore[union-attr]
        assert await value(cluster, slot) == before.value


async def test_a_reader_that_comes_late_is_refused() -> None:
    cluster = await form()
    written = await cluster.put(0, KEY, b"v", fence=B)
    assert isinstance(written, Written)
    for at in NODES:
        refused = await cluster.get(at, KEY, fence=A)
        assert isinstance(refused, Conflict)
        assert (refused.version, refused.fence) == (written.version, 2)
    await cluster.put(0, KEY, None)
    refused = await cluster.get(1, KEY, fence=A)
    assert isinstance(refused, Conflict)
    assert (refused.version, refused.fence) == (None, 2)


@pytest.mark.parametrize("at", NODES)
@pytest.mark.parametrize("is_there", [True, False])
async def test_to_read_again_under_the_same_fence_writes_nothing(at: int, is_there: bool) -> None:
    cluster = await form()
    if is_there:
        await cluster.put(0, KEY, b"v", needed=3)
    assert (await record(cluster, at, fence=B)).fences == {"lock": 2}
    states = [node.engine.folder.states[KEY] for node in cluster.nodes if KEY in node.engine.folder.states]
    seen = count_accepts(cluster)
    for slot in (at, *NODES):
        assert (await record(cluster, slot, fence=B)).fences == {"lock": 2}
    assert not seen
    assert [node.engine.folder.states[KEY] for node in cluster.nodes if KEY in node.engine.folder.states] == states


async def test_after_a_while_it_costs_one_promise_and_then_nothing_again() -> None:
    cluster = await form()
    await cluster.put(0, KEY, b"v")
    await record(cluster, 0, fence=B)
    await asyncio.sleep(61)
    seen = count_accepts(cluster)
    await record(cluster, 0, fence=B)
    promises = len(seen)
    assert promises <= 3
    for at in NODES:
        await record(cluster, at, fence=B)
    assert len(seen) == promises


async def test_a_weak_write_that_nobody_has_seen_goes_over_the_mark_of_an_absent_key() -> None:
    """The tombstone is no write of anybody's. With an origin of its own it would take the weak write away."""
    cluster = await form()
    key = cluster.key_led_by(0)
    cluster.network.cut_off(2)
    weak = await cluster.put(2, key, b"weak", level=Level.EVENTUAL)
    assert isinstance(weak, Written)
    mark = await record(cluster, 0, key, B)
    assert (mark.value, mark.origin) == (None, 1)
    cluster.network.rejoin(2)
    await cluster.get(1, key, needed=3)
    await until(lambda: cluster.values_on_disk(key) == [b"weak"] * 3)
    found = await record(cluster, 1, key)
    assert (found.origin, found.fences) == (weak.version, {"lock": 2})


async def test_a_mark_that_reached_one_replica_is_no_answer() -> None:
    cluster = await form()
    key = cluster.key_led_by(0)
    await cluster.put(0, key, b"v")
    cluster.network.treat(Fate.LOST, Accept, source=0)
    outcome = await cluster.get(0, key, fence=B, timeout_s=1)
    assert isinstance(outcome, TimedOut | Unavailable)
    cluster.network.heal()
    assert await value(cluster, 1, key) == b"v"


async def test_a_primary_that_is_silent_ends_at_the_deadline() -> None:
    cluster = await form()
    key = cluster.key_led_by(0)
    await cluster.put(0, key, b"v")
    assert await value(cluster, 1, key, B) == b"v"  # the fence is known to be granted
    cluster.network.treat(Fate.SILENT, Forward)
    assert await cluster.get(1, key, fence=B, timeout_s=1) == TimedOut(2, 0, ())


async def test_without_a_majority_nothing_is_read() -> None:
    cluster = await form()
    await cluster.put(0, KEY, b"v", needed=3)
    await record(cluster, 0, fence=B)
    for slot in (1, 2):
        cluster.network.cut_off(slot)
    outcome = await cluster.get(0, KEY, fence=B, timeout_s=1)
    assert isinstance(outcome, Unavailable)
    assert (outcome.needed, outcome.got) == (2, 1)


async def test_with_r_above_a_majority_so_many_replicas_remember_it() -> None:
    cluster = await form()
    await cluster.put(0, KEY, b"v", needed=3)
    for fence in (B, B, C):
        found = await cluster.get(0, KEY, fence=fence, needed=3)
        assert isinstance(found, Found)
        assert (found.acks, found.replicas) == (3, ("n0", "n1", "n2"))
        assert fences(cluster) == [{"lock": fence.number}] * 3
    late = await cluster.get(0, KEY, fence=B, needed=3)
    assert isinstance(late, Conflict)
    cluster.network.treat(Fate.SILENT, target=2)
    outcome = await cluster.get(0, KEY, fence=C, needed=3, timeout_s=1)
    assert isinstance(outcome, TimedOut)
    assert (outcome.needed, outcome.got) == (3, 2)
    cluster.network.heal()
    cluster.network.cut_off(2)
    assert isinstance(await cluster.get(0, KEY, fence=C, needed=3, timeout_s=1), Unavailable)
    assert isinstance(await cluster.get(0, KEY, fence=C), Found)


def fences(cluster: Cluster) -> Sequence[dict[str, int] | None]:
    states = [node.engine.folder.states.get(KEY) for node in cluster.nodes]
    return [state.record.fences if state is not None and state.record is not None else None for state in states]


async def test_a_fence_that_the_lock_never_granted_is_refused_before_anything_is_sent() -> None:
    cluster = await form()
    await cluster.put(0, KEY, b"v")
    for at in NODES:
        assert await cluster.get(at, KEY, fence=Fence("lock", 4)) == BadFence(3)
        assert await cluster.get(at, KEY, fence=Fence("no such lock", 1)) == BadFence(0)
    assert fences(cluster) == [None] * 3


async def test_a_lock_that_can_not_be_asked_is_no_answer() -> None:
    cluster = await form()
    cluster.network.treat(Fate.SILENT, Read)
    outcome = await cluster.get(0, KEY, fence=B, timeout_s=1)
    assert isinstance(outcome, Unavailable)
    assert "register" in outcome.reason


async def test_a_key_that_bears_a_hundred_fences_refuses_a_reader_under_one_more() -> None:
    cluster = await form()
    await grant(cluster, *(f"lock{number}" for number in range(FENCES_MAX + 1)))
    for number in range(FENCES_MAX):
        assert isinstance(await cluster.get(number % 3, KEY, fence=Fence(f"lock{number}", 2)), Found)
    one_more = await cluster.get(0, KEY, fence=Fence(f"lock{FENCES_MAX}", 2))
    assert isinstance(one_more, Conflict)
    assert (one_more.is_full, one_more.fence) == (True, None)
    assert isinstance(await cluster.get(0, KEY, fence=Fence("lock7", 2)), Found)


async def test_the_mark_outlives_a_restart_of_all() -> None:
    cluster = await form()
    assert await value(cluster, 0, fence=B) is None
    await cluster.restart_all()
    late = await cluster.put(1, KEY, b"late", fence=A)
    assert isinstance(late, Conflict)
    assert late.fence == 2


async def test_readers_under_one_fence_and_writers_share_the_line_of_the_key() -> None:
    """Twenty holders after one another, each with its own fence, that read and write: none is lost."""
    cluster = await form_cluster()
    rounds = 20
    state = LockState(rounds, recent=tuple(range(1, rounds + 1)))
    await cluster.put(0, lock_key("lock"), encode(state))
    await cluster.put(0, KEY, b"0")
    late: list[asyncio.Task[object]] = []
    for number in range(1, rounds + 1):
        fence = Fence("lock", number)
        found = await value(cluster, number % 3, fence=fence)
        for stale in range(max(1, number - 3), number):  # earlier holders that wake up, at any node
            stale_put = cluster.put(stale % 3, KEY, b"-1", fence=Fence("lock", stale))
            late.append(asyncio.get_running_loop().create_task(stale_put))
        assert found is not None
        assert isinstance(await cluster.put(number % 3, KEY, b"%d" % (int(found) + 1), fence=fence), Written)
    assert all(isinstance(outcome, Conflict) for outcome in await asyncio.gather(*late))
    assert await value(cluster, 0) == b"%d" % rounds
