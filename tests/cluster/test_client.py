"""The client library on real nodes: what it promises holds while nodes die, stop and come back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import kvstore
from tests.cluster.client import Client, see_all
from tests.cluster.harness import ClusterHarness, clean_environment, wait_until

WAITERS = 300


@pytest.fixture
def client(cluster3: ClusterHarness) -> Iterator[kvstore.Client]:
    """A client of all nodes."""
    with kvstore.connect(cluster3.endpoints) as opened:
        yield opened


def back_again(cluster: ClusterHarness, clients: dict[str, Client], name: str) -> None:
    """The node that was killed is started, and all see it."""
    cluster.restart(name)
    see_all(clients)


# -- keys and values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["strong", "weak", "eventual"])
def test_what_was_written_is_read_at_every_level(
    client: kvstore.Client, level: kvstore.client.values.Consistency
) -> None:
    key, value = f"levels/{level}/ä b", bytes(range(256))
    written = client.put(key, value, consistency=level, w="all", content_type="x/y", ttl=60)
    found = client.get(key, consistency=level, r="all")
    assert found is not None
    assert (found.value, found.version, found.content_type) == (value, written.version, "x/y")
    assert found.expires_in is not None
    assert 50 < found.expires_in <= 60
    assert written.receipt is not None
    assert (written.level, written.acks, written.replicas, written.receipt.needed) == (level, 3, 3, 3)
    assert sorted(written.receipt.replicas) == ["n1", "n2", "n3"]
    assert found.receipt is not None
    assert (found.receipt.age is None) == (level == "strong")
    client.delete(key, consistency=level, w="all")
    assert client.get(key, consistency=level, r="all") is None


def test_conditions(client: kvstore.Client) -> None:
    first = client.put("conditions", "1", create=True)
    with pytest.raises(kvstore.Exists) as exists:
        client.put("conditions", "2", create=True)
    assert exists.value.version == first.version
    second = client.put("conditions", "2", if_match=first)
    with pytest.raises(kvstore.VersionMismatch) as moved:
        client.delete("conditions", if_match=first)
    assert moved.value.version == second.version
    with pytest.raises(kvstore.NeedsStrong):
        client.put("conditions", "3", if_match="*", consistency="weak")
    client.delete("conditions", if_match=second)
    with pytest.raises(kvstore.VersionMismatch):
        client.put("conditions", "3", if_match="*")


def test_counting_by_compare_and_set_loses_nothing(client: kvstore.Client) -> None:
    client.put("counter", "0")

    def count(_: int) -> None:
        while True:
            found = client.get("counter")
            assert found is not None
            try:
                client.compare_and_set("counter", found, str(int(found.text) + 1))
            except kvstore.VersionMismatch:
                continue
            return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(80)))
    found = client.get("counter")
    assert found is not None
    assert found.text == "80"


def test_compare_and_set_by_value(client: kvstore.Client) -> None:
    client.compare_and_set("cas", None, "a")
    with pytest.raises(kvstore.Exists):
        client.compare_and_set("cas", None, "b")
    client.compare_and_set("cas", "a", "b")
    with pytest.raises(kvstore.VersionMismatch):
        client.compare_and_set("cas", b"a", "c")
    client.compare_and_set("cas", "b", None)
    assert client.get("cas") is None


def test_a_batch_and_a_listing(client: kvstore.Client) -> None:
    keys = [f"many/{number:04}" for number in range(1_050)]
    for start in (0, 1_000):
        results = client.batch([kvstore.Put(key, key) for key in keys[start : start + 1_000]])
        assert all(isinstance(result, kvstore.Written) for result in results)
    assert [entry.key for entry in client.list("many/")] == keys
    assert [entry.text for entry in client.list("many/", values=True, limit=120, after="many/0009")] == keys[10:130]
    exists, none, value, gone = client.batch(
        [
            kvstore.Put("many/0000", "x", create=True),
            kvstore.Get("many/none"),
            kvstore.Get("many/0001"),
            kvstore.Delete("many/0002"),
        ]
    )
    assert isinstance(exists, kvstore.Exists)
    assert none is None
    assert isinstance(value, kvstore.Value)
    assert value.text == "many/0001"
    assert isinstance(gone, kvstore.Written)
    with pytest.raises(kvstore.TooLarge) as large:
        client.batch([kvstore.Get("k")] * 1_001)
    assert large.value.limit == 1_000


def test_what_means_nothing_is_refused(client: kvstore.Client) -> None:
    for key in ("", "a\0b", "k" * 1_025):
        with pytest.raises(kvstore.BadRequest):
            client.get(key)
    with pytest.raises(kvstore.TooLarge):
        client.put("large", bytes((1 << 20) + 1))
    with pytest.raises(kvstore.BadRequest):
        client.put("k", "v", w=4)
    with pytest.raises(kvstore.BadRequest):
        client.put("k", "v", consistency="strongish")  # type: ignore[arg-type]


# -- nodes that fail -----------------------------------------------------------------------------------------------


def test_it_goes_on_while_a_node_is_killed(
    cluster3: ClusterHarness, clients: dict[str, Client], client: kvstore.Client
) -> None:
    acknowledged = {}
    for number in range(120):
        if number == 20:
            cluster3.kill("n1")
        try:
            acknowledged[f"killed/{number}"] = client.put(f"killed/{number}", str(number)).version
        except kvstore.OutcomeUnknown:
            continue
    assert len(acknowledged) >= 118, "only what was under way may be unknown"
    for key, version in acknowledged.items():
        found = client.get(key)
        assert found is not None
        assert found.version == version
    back_again(cluster3, clients, "n1")


def test_a_stopped_node_delays_reads_and_makes_one_write_unknown(
    cluster3: ClusterHarness, client: kvstore.Client
) -> None:
    client.put("stopped", "1")
    cluster3.stop("n1")
    try:
        began = time.monotonic()
        found = client.get("stopped")
        assert found is not None
        assert time.monotonic() - began < 5
        client.put("stopped", "2")  # n1 is not asked first any more
    finally:
        cluster3.cont("n1")
        cluster3.wait_ready()
    with kvstore.connect(cluster3.endpoints, timeout=1) as other:
        cluster3.stop("n1")
        try:
            with pytest.raises(kvstore.OutcomeUnknown):
                other.put("stopped", "3")
        finally:
            cluster3.cont("n1")
            cluster3.wait_ready()


def test_without_a_majority_it_says_not_applied_and_weaker_levels_go_on(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    with kvstore.connect(cluster3.endpoints, timeout=1.5) as client:
        client.put("minority", "1")
        cluster3.kill("n1", "n2")

        def is_noticed() -> bool:
            with pytest.raises(
                (kvstore.QuorumUnavailable, kvstore.OutcomeUnknown)
            ) as told:  # unknown: n3 has not heard
                client.put("minority", "2")
            return isinstance(told.value, kvstore.QuorumUnavailable) and told.value.fields["needed"] == 2

        wait_until(is_noticed, "a refusal that says that nothing was written")
        with pytest.raises((kvstore.QuorumUnavailable, kvstore.ReadTimedOut)):
            client.get("minority")
        assert client.get("minority", consistency="eventual") is not None
        assert client.put("minority/eventual", "3", consistency="eventual").acks >= 1
        with pytest.raises((kvstore.Unavailable, kvstore.OutcomeUnknown)):
            client.lock("minority", wait=0).acquire()
        cluster3.kill("n3")
        with pytest.raises(kvstore.NoNodeReachable):
            client.get("minority", consistency="eventual")
    for name in cluster3.names:
        cluster3.spawn(name)
    cluster3.wait_ready()
    see_all(clients)


# -- locks, votes, elections ---------------------------------------------------------------------------------------


async def test_who_waits_gets_the_lock_when_it_is_given_back(cluster3: ClusterHarness) -> None:
    async with kvstore.connect_async(cluster3.endpoints) as client:
        order: list[str] = []

        async def work(name: str) -> None:
            async with client.lock("turns", ttl=5, owner=name) as lock:
                order.append(name)
                await client.put("turns", name, fence=lock)

        async with asyncio.TaskGroup() as group, client.lock("turns", ttl=5, owner="first") as first:
            for number in range(1, 6):
                group.create_task(work(str(number)))
                await _until_waiting(client, "turns", number)
            with pytest.raises(kvstore.LockHeld) as held:
                await client.lock("turns", wait=0).acquire()
            assert held.value.holder == "first"
            await client.put("turns", "first", fence=first)
        assert order == list("12345")
        with pytest.raises(kvstore.Fenced) as fenced:
            await client.put("turns", "late", fence=kvstore.Fence("turns", 1))
        assert fenced.value.fence is not None
        with pytest.raises(kvstore.BadFence):
            await client.put("turns", "typo", fence=kvstore.Fence("turns", fenced.value.fence + 10**6))


async def test_who_stops_waiting_is_passed_over(cluster3: ClusterHarness) -> None:
    async with kvstore.connect_async(cluster3.endpoints) as client:
        async with client.lock("passed over", ttl=30):
            gone = asyncio.ensure_future(client.lock("passed over", owner="gone").acquire())
            await _until_waiting(client, "passed over", 1)
            next_one = client.lock("passed over", owner="next")
            waiting = asyncio.ensure_future(next_one.acquire())
            await _until_waiting(client, "passed over", 2)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        async with asyncio.timeout(20):
            await waiting
        await next_one.release()


async def test_a_lock_is_held_through_the_death_of_the_node_it_came_from(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    async with kvstore.connect_async(cluster3.endpoints) as client, client.lock("survives", ttl=3) as lock:
        cluster3.kill("n1")
        await asyncio.sleep(3 * 3)  # leases: time has to pass for them
        lock.check()
        info = await client.lock_info("survives")
        assert info is not None
        assert (info.holder, info.fence) == (lock.owner, lock.fence)
        await client.put("survives", "still", fence=lock)
    back_again(cluster3, clients, "n1")  # not in a thread of its own, with which the node would end


PAUSED = """
import sys, time, kvstore
with kvstore.connect(sys.argv[1:]) as client:
    try:
        with client.lock("paused", ttl=1, owner="paused") as lock:
            fence = lock.fenced
            print("held", flush=True)
            sys.stdin.readline()  # is stopped here, and goes on long after its lease
            try:
                client.put("paused", "late", fence=fence)
            except kvstore.Fenced:
                print("fenced", flush=True)
            try:
                client.put("paused", "late", fence=lock)
            except kvstore.LockLost:
                print("lost", flush=True)
    except kvstore.LockLost:
        print("told at the end", flush=True)
"""


async def test_a_read_under_a_fence_shuts_out_who_held_the_lock_before(cluster3: ClusterHarness) -> None:
    async with kvstore.connect(cluster3.endpoints) as client:
        await client.put("read first", "5")
        async with client.lock("read first") as lock:
            old = lock.fenced
            assert await client.get("read first", fence=lock) is not None
        async with client.lock("read first") as lock:
            found = await client.get("read first", fence=lock, r="all")
            assert found is not None
            assert found.receipt is not None
            assert (found.text, found.receipt.acks) == ("5", 3)
            for late in (client.put("read first", "6", fence=old), client.get("read first", fence=old)):
                with pytest.raises(kvstore.Fenced) as fenced:
                    await late
                assert (fenced.value.fence, fenced.value.version) == (lock.fence, found.version)
            (refused,) = await client.batch([kvstore.Get("read first", fence=old)])
            assert isinstance(refused, kvstore.Fenced)
            assert await client.get("nothing there", fence=lock) is None
            (again,) = await client.batch([kvstore.Get("read first", fence=lock)])
            assert isinstance(again, kvstore.Value)
            with pytest.raises(kvstore.Fenced):
                await client.put("nothing there", "6", fence=old)
            with pytest.raises(kvstore.BadFence):
                await client.get("read first", fence=kvstore.Fence("read first", lock.fence + 10**6))
            with pytest.raises(kvstore.NeedsStrong):
                await client.get("read first", fence=lock, consistency="weak")


def test_a_paused_holder_is_fenced_off_and_told(cluster3: ClusterHarness, client: kvstore.Client) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, *cluster3.endpoints],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        with client.lock("paused", ttl=5, owner="next", wait=30) as lock:
            client.put("paused", "next", fence=lock)
            process.send_signal(signal.SIGCONT)
            rest, _ = process.communicate("\n", timeout=30)
        assert rest.splitlines() == ["fenced", "lost", "told at the end"]
        found = client.get("paused")
        assert found is not None
        assert found.text == "next"
    finally:
        process.kill()
        process.wait()


async def test_many_waiters_leave_room_for_other_calls(cluster3: ClusterHarness) -> None:
    async with kvstore.connect_async(cluster3.endpoints) as client:
        async with client.lock("crowded", ttl=30):
            locks = [client.lock("crowded", ttl=30) for _ in range(WAITERS)]
            waiting = [asyncio.ensure_future(lock.acquire()) for lock in locks]
            await _until_waiting(client, "crowded", WAITERS)
            began = time.monotonic()
            await client.put("crowded", "through")
            assert time.monotonic() - began < 3
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        async with client.lock("crowded", ttl=30, wait=30):
            pass


def test_a_semaphore(client: kvstore.Client) -> None:
    first, second, third = (client.lock("two at once", permits=2, wait=0, owner=owner) for owner in "abc")
    with first, second:
        with pytest.raises(kvstore.LockHeld):
            third.acquire()
        info = client.lock_info("two at once")
        assert info is not None
        assert (info.permits, [holder.owner for holder in info.holders]) == (2, ["a", "b"])
        assert [info.name for info in client.locks("two at")] == ["two at once"]
    assert client.lock_info("two at once") is None
    assert client.locks("two at") == []


def test_a_vote_has_one_winner_whoever_asks(cluster3: ClusterHarness, client: kvstore.Client) -> None:
    assert client.vote_result("colour") is None

    def propose(number: int) -> kvstore.Decision:
        return client.vote("colour", f"c{number}", {"number": number})

    with ThreadPoolExecutor(10) as pool:
        decisions = list(pool.map(propose, range(30)))
    assert len({decision.winner for decision in decisions}) == 1
    assert sum(decision.is_new for decision in decisions) == 1
    result = client.vote_result("colour")
    assert result is not None
    assert f"c{result.value['number']}" == result.winner == decisions[0].winner


def test_leadership_passes_on(client: kvstore.Client) -> None:
    first, second = client.election("office", candidate="first"), client.election("office", candidate="second", wait=30)
    assert first.leader() is None
    with ThreadPoolExecutor(1) as pool:
        with first:
            assert first.leader() == kvstore.Leader("office", "first", first.term)
            waiting = pool.submit(second.campaign)
            with pytest.raises(kvstore.LockHeld):
                client.election("office", candidate="third", wait=0).campaign()
            term = first.term
            client.put("office", "first", fence=first)
        waiting.result(30)
    assert second.is_leader
    assert second.term > term
    client.put("office", "second", fence=second)
    with pytest.raises(kvstore.Fenced):
        client.put("office", "first", fence=kvstore.Fence("office", term))
    second.resign()


async def _until_waiting(client: kvstore.AsyncClient, name: str, count: int) -> None:
    async with asyncio.timeout(60):
        while True:
            info = await client.lock_info(name)
            if info is not None and info.waiters >= count:
                return
            await asyncio.sleep(0.02)
