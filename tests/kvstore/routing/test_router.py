"""When the router learns, when it doubts what it knows, and what it does meanwhile."""

from __future__ import annotations

import asyncio
from random import Random

import msgspec

from cluster.membership.topology import form
from kvstore.routing.route import Route
from kvstore.routing.router import LEARN_AFTER, LOOK_AGAIN_S, LOOK_EVERY_S, SILENT_S, SPREAD, Router
from tests.kvstore.routing.test_table import overview

NAMES = ("n1", "n2", "n3")
THREE = form("c", {name: (name, 1) for name in NAMES}, {}, 3, 64)
FOUR = form("c", {name: (name, 1) for name in (*NAMES, "n4")}, {}, 3, 64)
LATEST_S = LOOK_AGAIN_S * (1 + SPREAD) + 0.01


class Cluster:
    """Nodes that tell how they see their cluster, and how often they were asked."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.topology = FOUR if "n4" in names else THREE
        self.away: set[str] = set()
        self.asked: list[str] = []
        self.pages: dict[str, bytes] = {}
        """By name, what is told in place of the truth."""
        self.router = Router([f"http://{name}" for name in names], self._ask, Random(1))

    async def _ask(self, endpoint: str, timeout_s: float) -> bytes | None:
        name = endpoint.removeprefix("http://")
        self.asked.append(name)
        if name in self.away:
            await asyncio.sleep(timeout_s)
            return None
        fit = frozenset(member.slot for member in self.topology.members if member.name not in self.away)
        return self.pages.get(name, msgspec.json.encode(overview(self.topology, name, fit)))

    def first(self, key: bytes, to_primary: bool = True) -> str | None:
        """Whom the router names."""
        found = self.router.first(Route(key, to_primary))
        return found and found.removeprefix("http://")

    async def learnt(self) -> Cluster:
        """Once enough was asked."""
        for _ in range(LEARN_AFTER):
            assert self.first(b"k") is None
        await asyncio.sleep(0.001)
        return self

    def keys_of(self, name: str) -> list[bytes]:
        """Keys whose primary that node is while all are well."""
        keys = (b"%d" % number for number in range(200))
        return [key for key in keys if self.topology.by_slot[self.topology.replicas_of(key)[0]].name == name]


def receipt(name: str, epoch: int = 1, more: str = "") -> dict[str, str]:
    return {"KV-Receipt": f'consistency=strong, n=3, replicas="n1 n2", coordinator="{name}", epoch={epoch}{more}'}


async def test_who_asks_little_pays_nothing() -> None:
    cluster = Cluster()
    for _ in range(LEARN_AFTER - 1):
        assert cluster.first(b"k") is None
    await asyncio.sleep(LOOK_EVERY_S)

    assert cluster.asked == []


async def test_then_each_endpoint_is_asked_once_and_every_key_has_its_primary() -> None:
    cluster = await Cluster().learnt()

    assert sorted(cluster.asked) == list(NAMES)
    for name in NAMES:
        assert {cluster.first(key) for key in cluster.keys_of(name)} == {name}


async def test_reads_are_left_where_they_are_while_all_nodes_are_replicas_and_nothing_is_looked_at_for_them() -> None:
    cluster = await Cluster().learnt()
    await asyncio.sleep(10 * LOOK_EVERY_S)

    assert cluster.first(b"k", to_primary=False) is None
    await asyncio.sleep(0.01)
    assert len(cluster.asked) == len(NAMES)


async def test_a_client_asks_the_same_replica_of_a_key_again_and_again() -> None:
    cluster = await Cluster((*NAMES, "n4")).learnt()
    for number in range(50):
        key = b"%d" % number
        replica = cluster.first(key, to_primary=False)
        assert replica in {cluster.topology.by_slot[slot].name for slot in cluster.topology.replicas_of(key)}
        assert {cluster.first(key, to_primary=False) for _ in range(9)} == {replica}


async def test_while_it_is_used_it_is_looked_at_now_and_then() -> None:
    cluster = await Cluster().learnt()
    await asyncio.sleep(LOOK_EVERY_S * (1 + SPREAD))
    assert len(cluster.asked) == 3, "nobody asked for it"
    cluster.first(b"k")
    await asyncio.sleep(0.001)

    assert len(cluster.asked) == 6


async def test_an_endpoint_that_failed_is_dropped_at_once_and_back_when_it_answers_a_look() -> None:
    cluster = await Cluster().learnt()
    key = cluster.keys_of("n1")[0]
    cluster.away.add("n1")
    cluster.router.failed("http://n1")
    second = cluster.first(key)
    assert second == cluster.topology.by_slot[cluster.topology.replicas_of(key)[1]].name
    await asyncio.sleep(LATEST_S)
    cluster.first(key)
    await asyncio.sleep(LATEST_S)
    assert len(cluster.asked) == 6
    assert cluster.first(key) == second

    cluster.away.clear()
    await asyncio.sleep(2 * LATEST_S)
    cluster.first(key)
    await asyncio.sleep(0.001)
    assert cluster.first(key) == "n1"


async def test_an_endpoint_that_stays_away_is_looked_for_ever_more_seldom() -> None:
    cluster = await Cluster().learnt()
    cluster.away.add("n1")
    cluster.router.failed("http://n1")
    for _ in range(1000):
        cluster.first(b"k")
        await asyncio.sleep(0.3)

    assert 8 < cluster.asked.count("n1") < 18


async def test_many_failures_in_a_moment_are_one_look() -> None:
    cluster = await Cluster().learnt()
    for _ in range(100):
        for name in NAMES:
            cluster.router.failed(f"http://{name}")
        assert cluster.first(b"k") is None
    await asyncio.sleep(LATEST_S)
    cluster.first(b"k")
    await asyncio.sleep(0.001)

    assert len(cluster.asked) == 6


async def test_a_node_that_owes_answers_and_gives_none_is_passed_over() -> None:
    cluster = await Cluster().learnt()
    key = cluster.keys_of("n1")[0]
    cluster.router.asked("http://n1")
    await asyncio.sleep(SILENT_S * 0.9)
    assert cluster.first(key) == "n1"
    cluster.away.add("n1")
    await asyncio.sleep(SILENT_S * 0.2)
    assert cluster.first(key) not in (None, "n1")


async def test_a_node_that_works_long_at_one_thing_and_answers_others_is_not() -> None:
    cluster = await Cluster().learnt()
    key = cluster.keys_of("n1")[0]
    cluster.router.asked("http://n1")
    for _ in range(10):
        await asyncio.sleep(SILENT_S / 2)
        cluster.router.answered("http://n1", receipt("n1"))
        assert cluster.first(key) == "n1"
    cluster.router.ended("http://n1")
    await asyncio.sleep(10 * SILENT_S)
    assert cluster.first(key) == "n1", "who owes nothing is not silent"


async def test_an_answer_as_expected_changes_nothing() -> None:
    cluster = await Cluster().learnt()
    for name in NAMES:
        for headers in (receipt(name), receipt(name, more=", age=0.012"), {}, {"Connection": "keep-alive"}):
            cluster.router.answered(f"http://{name}", headers)
    await asyncio.sleep(LATEST_S)

    assert {cluster.first(key) for key in cluster.keys_of("n1")} == {"n1"}
    await asyncio.sleep(0.01)
    assert len(cluster.asked) == 3


async def test_an_answer_under_another_topology_makes_it_look_again() -> None:
    cluster = await Cluster().learnt()
    cluster.topology = msgspec.structs.replace(cluster.topology, epoch=10)
    for name in NAMES:
        cluster.router.answered(f"http://{name}", receipt(name, epoch=10))
    assert cluster.first(b"k") is None
    await asyncio.sleep(LATEST_S)
    cluster.first(b"k")
    await asyncio.sleep(0.001)

    assert cluster.first(cluster.keys_of("n2")[0]) == "n2"


async def test_an_endpoint_behind_which_several_nodes_stand_is_none_of_them() -> None:
    cluster = await Cluster().learnt()
    cluster.router.answered("http://n1", receipt("n2"))
    for _ in range(5):
        assert cluster.first(cluster.keys_of("n1")[0]) != "n1"
        await asyncio.sleep(LOOK_EVERY_S * 2)

    assert cluster.asked.count("n1") == 1, "it is not asked who it is any more"


async def test_a_node_that_is_about_to_stop_is_left_alone() -> None:
    cluster = await Cluster().learnt()
    cluster.router.answered("http://n1", {"Connection": "close"})

    assert cluster.first(cluster.keys_of("n1")[0]) not in (None, "n1")


async def test_pages_that_are_no_nodes_are_none() -> None:
    cluster = Cluster()
    cluster.pages = dict.fromkeys(NAMES, b"<html>It works!</html>")
    await cluster.learnt()
    for _ in range(100):
        assert cluster.first(b"k") is None
        await asyncio.sleep(1)

    assert len(cluster.asked) < 30


async def test_a_wrong_page_leads_elsewhere_and_no_further_than_to_endpoints_that_were_given() -> None:
    cluster = Cluster()
    swapped = {"n1": "n2", "n2": "n1", "n3": "n9"}
    fit = frozenset({0, 1, 2})
    cluster.pages = {name: msgspec.json.encode(overview(THREE, lie, fit)) for name, lie in swapped.items()}
    await cluster.learnt()

    assert {cluster.first(b"%d" % number) for number in range(200)} == {"n1", "n2"}


async def test_closed_it_asks_nobody_any_more() -> None:
    cluster = Cluster()
    cluster.away.add("n1")
    await cluster.learnt()
    await cluster.router.close()
    assert len(asyncio.all_tasks()) == 1
    await asyncio.sleep(LOOK_EVERY_S)
    cluster.first(b"k")
    await asyncio.sleep(0.001)

    assert len(cluster.asked) == 3
