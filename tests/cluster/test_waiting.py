"""Waiting for locks on real nodes: the order, those who go away, and nodes that die with the line or in it."""

from __future__ import annotations

import asyncio
import re
import time

import aiohttp
import pytest

from tests.cluster.harness import ClusterHarness
from tests.cluster.waiting import Lockers, keepers_of, until


async def test_the_lock_goes_to_those_who_wait_in_the_order_in_which_they_asked(cluster3: ClusterHarness) -> None:
    async with Lockers(cluster3) as lockers:
        held = await lockers.acquire("n1", "order", "holder")
        for number in range(30):
            lockers.take_turn(cluster3.names[number % 3], "order", f"w{number}")
            await lockers.in_line("n2", "order", number + 1)
        assert await lockers.release("n3", "order", held["token"]) == 200
        await lockers.have_been_granted(30)
        assert lockers.granted == [f"w{number}" for number in range(30)]


async def test_fences_grow_with_each_grant_whoever_gives_it(cluster3: ClusterHarness) -> None:
    fences = []
    async with Lockers(cluster3) as lockers:
        for number in range(12):
            grant = await lockers.acquire(cluster3.names[number % 3], "growing", "me")
            fences.append(grant["fence"])
            assert await lockers.release(cluster3.names[(number + 1) % 3], "growing", grant["token"]) == 200
    assert fences == sorted(set(fences))


async def test_who_has_gone_is_passed_over_and_leaves_the_line(cluster3: ClusterHarness) -> None:
    async with Lockers(cluster3) as lockers:
        held = await lockers.acquire("n1", "gone", "holder")
        async with aiohttp.ClientSession() as impatient:
            leaving = [
                asyncio.get_running_loop().create_task(
                    impatient.post(
                        cluster3.url(name, "/v1/locks/gone"), json={"owner": f"leaves/{name}", "wait": "60s"}
                    )
                )
                for name in cluster3.names
            ]
            await lockers.in_line("n1", "gone", 3)
            lockers.take_turn("n2", "gone", "stays")
            await lockers.in_line("n1", "gone", 4)
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
        await lockers.in_line("n1", "gone", 1)
        assert await lockers.release("n1", "gone", held["token"]) == 200
        await lockers.have_been_granted(1)
        free = await lockers.acquire("n3", "gone", "after", wait="10s")
        assert free["status"] == 201, "somebody who had gone holds it"


async def test_a_wait_ends_with_409_that_names_the_holder(cluster3: ClusterHarness) -> None:
    async with Lockers(cluster3) as lockers:
        await lockers.acquire("n1", "patience", "holder", ttl="60s")
        late = await lockers.acquire("n2", "patience", "waiter", wait="300ms")
        assert (late["status"], late["code"], late["holder"]) == (409, "lock-held", "holder")
        assert late["outcome"] == "not-applied"
        await lockers.in_line("n3", "patience", 0)


async def test_a_lease_is_taken_over_once_it_is_over_and_not_before(cluster3: ClusterHarness) -> None:
    async with Lockers(cluster3) as lockers:
        began = time.monotonic()
        first = await lockers.acquire("n1", "lease", "dies", ttl="2s")
        second = await lockers.acquire("n2", "lease", "waits", ttl="2s", wait="30s")
        assert second["status"] == 201
        assert time.monotonic() - began >= 2.0
        assert second["fence"] > first["fence"]
        assert await lockers.renew("n3", "lease", first["token"]) == 410
        assert await lockers.release("n3", "lease", first["token"]) == 410


async def test_a_lease_that_nobody_waits_for_ends_too(cluster3: ClusterHarness) -> None:
    async with Lockers(cluster3) as lockers, aiohttp.ClientSession() as session:
        await lockers.acquire("n1", "forgotten", "dies", ttl="1s")

        async def is_free() -> bool:
            async with session.get(cluster3.url("n2", "/v1/locks/forgotten")) as answer:
                return answer.status == 404

        await until(is_free, "the lock to be free")
        async with session.get(cluster3.url("n3", "/v1/locks?prefix=forgotten")) as answer:
            assert (await answer.json())["locks"] == []


async def test_waiting_writes_nothing_and_a_thousand_can_wait(cluster3: ClusterHarness) -> None:
    async with Lockers(cluster3) as lockers, aiohttp.ClientSession() as session:

        async def commits() -> int:
            total = 0
            for name in cluster3.names:
                async with session.get(cluster3.url(name, "/metrics")) as answer:
                    found = re.search(r"^kvstore_commits_total (\S+)$", await answer.text(), re.MULTILINE)
                    assert found is not None, "the metric has another name by now"
                    total += int(float(found[1]))
            return total

        held = await lockers.acquire("n1", "crowd", "holder", ttl="120s")
        before = await commits()
        for number in range(1_000):
            lockers.take_turn(cluster3.names[number % 3], "crowd", f"w{number}")
        await lockers.in_line("n1", "crowd", 1_000)
        # What nodes write of themselves, a clock's ceiling or what they remember of peers, is little beside it.
        assert await commits() - before < 100
        assert await lockers.release("n1", "crowd", held["token"]) == 200
        await lockers.have_been_granted(1_000)
        assert len(set(lockers.granted)) == 1_000


@pytest.mark.parametrize("wait_first", [True, False])
async def test_the_line_outlives_the_death_of_its_keeper_in_order(cluster3: ClusterHarness, wait_first: bool) -> None:
    lock = f"line/{wait_first}"
    keeper, *others = keepers_of(cluster3, lock)
    async with Lockers(cluster3) as lockers:
        held = await lockers.acquire(others[0], lock, "holder", ttl="60s")
        for number in range(20):
            lockers.take_turn(others[number % 2], lock, f"w{number}")
            await lockers.in_line(others[0], lock, number + 1)
        cluster3.kill(keeper)
        try:
            if wait_first:
                await lockers.in_line(others[1], lock, 20)

            async def is_released() -> bool:
                return await lockers.release(others[1], lock, held["token"]) in (200, 410)

            await until(is_released, "the release")
            await lockers.have_been_granted(20)
            assert lockers.granted == [f"w{number}" for number in range(20)]
        finally:
            cluster3.restart(keeper)


async def test_the_death_of_a_node_with_many_waiters_delays_the_others_by_less_than_a_lease(
    cluster3: ClusterHarness,
) -> None:
    lock = "many"
    keeper, victim, other = keepers_of(cluster3, lock)
    async with Lockers(cluster3) as lockers:
        held = await lockers.acquire(other, lock, "holder", ttl="10m")
        for number in range(500):
            lockers.take_turn(victim, lock, f"victim/{number}", ttl="10m")
        await lockers.in_line(keeper, lock, 500)
        for number in range(20):
            lockers.take_turn(other, lock, f"other/{number}", ttl="10m")
        await lockers.in_line(keeper, lock, 520)
        cluster3.kill(victim)
        try:
            assert await lockers.release(other, lock, held["token"]) == 200
            await lockers.have_been_granted(20)  # far below ten minutes, or until() gives up
            assert {owner.partition("/")[0] for owner in lockers.granted} == {"other"}
        finally:
            cluster3.restart(victim)


async def test_a_lease_that_is_renewed_survives_the_death_of_its_keeper(cluster3: ClusterHarness) -> None:
    lock = "renewed"
    keeper, *others = keepers_of(cluster3, lock)
    async with Lockers(cluster3) as lockers:
        held = await lockers.acquire(others[0], lock, "holder", ttl="3s")
        contender = lockers.take_turn(others[1], lock, "contender")
        await lockers.in_line(others[0], lock, 1)
        cluster3.kill(keeper)
        try:
            ends = time.monotonic() + 7
            last_renewed = time.monotonic()
            while time.monotonic() < ends:
                sent = time.monotonic()
                status = await lockers.renew(others[0], lock, held["token"])
                if status == 200:
                    last_renewed = sent
                assert status in (200, 503, 504), "the lease was broken"
                assert time.monotonic() - last_renewed < 3 or not contender.done()
                await asyncio.sleep(0.5)
            assert lockers.granted == []
            assert await lockers.release(others[0], lock, held["token"]) == 200
            await lockers.have_been_granted(1)
        finally:
            cluster3.restart(keeper)
