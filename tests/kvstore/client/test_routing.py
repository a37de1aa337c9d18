"""A client that routes, over nodes that a test makes: whom it asks first, and that nothing else has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

import kvstore
from cluster.locks.lock_state import lock_key
from cluster.membership.placement import partition_of, replica_set
from kvstore.client.asynchronous import AsyncClient
from kvstore.http_client import HttpClient
from kvstore.routing.router import LEARN_AFTER
from tests.kvstore.client.misbehaving import (
    GRANTED,
    UNAVAILABLE,
    UNKNOWN,
    VALUE,
    WRITTEN,
    Deed,
    HangsUp,
    Heard,
    KeepsSilent,
    Node,
    Says,
    name_of,
    nodes,
)

SHORT_S = 0.6
PARTITIONS = 64
RELEASED = Says(200, {"fence": 7})


class Member(Node):
    """A node that says who it is, and does what it is told with requests for keys and locks."""

    def __init__(self, name: str, names: tuple[str, ...], n: int, deed: Deed) -> None:
        super().__init__(self._answer)
        self.name, self._names, self._n, self.deed = name, names, n, deed

    def _answer(self, heard: Heard) -> Deed:
        if heard.path == "/v1/cluster":
            return Says(200, self._overview())
        if isinstance(self.deed, Says) and heard.path.startswith("/v1/kv/"):
            receipt = f'consistency=strong, n={self._n}, coordinator="{self.name}", epoch=1'
            return Says(self.deed.status, self.deed.body, {**self.deed.headers, "KV-Receipt": receipt})
        return self.deed

    def _overview(self) -> dict[str, Any]:
        """Addresses that lead nowhere from here, as those of containers do."""
        members = [
            {"name": name, "slot": slot, "http": f"192.0.2.{slot}:7001", "zone": "", "state": "alive", "unfit": []}
            for slot, name in enumerate(self._names)
        ]
        return {
            "cluster_id": "c",
            "node": self.name,
            "epoch": 1,
            "n": self._n,
            "partitions": PARTITIONS,
            "members": members,
        }

    @property
    def asked(self) -> list[str]:
        """The paths of requests that were no looks."""
        return [heard.path for heard in self.heard if heard.path != "/v1/cluster"]


class Cluster:
    """Members, and a client of them that has learnt who they are."""

    def __init__(self, client: AsyncClient, members: Mapping[str, Member], n: int) -> None:
        self.client, self.members, self._n = client, members, n

    def keys(self, replica: int, count: int = 9) -> dict[str, str]:
        """Keys, with the name of the node that is this far down their replica set: 0 is the primary."""
        keys = [f"key-{number}" for number in range(count)]
        return {key: self.holders(key.encode())[replica] for key in keys}

    def holders(self, key: bytes) -> tuple[str, ...]:
        return replica_set(partition_of(key, PARTITIONS), dict.fromkeys(self.members, ""), self._n)

    def forget(self) -> None:
        """What was asked so far."""
        for member in self.members.values():
            member.heard.clear()

    def asked(self) -> dict[str, list[str]]:
        return {name: member.asked for name, member in self.members.items() if member.asked}


async def has_learnt(client: AsyncClient) -> None:
    """Waits until it knows who is who."""
    await _until_known((await client._opened())._http)  # type: ignore[attr-defined]


async def _until_known(http: HttpClient) -> None:
    router = http._router
    assert router is not None
    async with asyncio.timeout(10):
        while True:
            if router._table is not None:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def cluster_of(count: int, n: int = 3, deed: Deed = WRITTEN, **options: Any) -> AsyncIterator[Cluster]:
    names = tuple(f"n{number}" for number in range(1, count + 1))
    members = {name: Member(name, names, n, deed) for name in names}
    async with nodes(*members.values()) as urls, kvstore.connect(urls, timeout=SHORT_S, **options) as client:
        for number in range(LEARN_AFTER):
            await client.put(f"warm-{number}", "up")
        if options.get("routing", True):
            await has_learnt(client)
        cluster = Cluster(client, members, n)
        cluster.forget()
        yield cluster


async def test_a_strong_write_begins_at_its_primary_whatever_addresses_nodes_tell() -> None:
    async with cluster_of(3) as cluster:
        primaries = cluster.keys(0)
        for key in primaries:
            await cluster.client.put(key, "v")
            await cluster.client.delete(key)
        for name, member in cluster.members.items():
            own = [f"/v1/kv/{key}" for key, primary in primaries.items() if primary == name]
            assert member.asked == [path for path in own for _ in range(2)]


async def test_weak_writes_and_reads_stay_where_they_are_while_every_node_is_a_replica() -> None:
    async with cluster_of(3, deed=Says(200, WRITTEN.body, {"ETag": '"1"'})) as cluster:
        for key in cluster.keys(0):
            await cluster.client.put(key, "v", consistency="weak")
            await cluster.client.get(key)
        assert list(cluster.asked()) == ["n1"]


async def test_with_more_nodes_than_replicas_a_key_is_read_and_weakly_written_at_one_of_its_replicas() -> None:
    async with cluster_of(5, deed=Says(200, WRITTEN.body, {"ETag": '"1"'})) as cluster:
        for key in cluster.keys(0, 20):
            cluster.forget()
            await cluster.client.get(key)
            await cluster.client.put(key, "v", consistency="weak")
            await cluster.client.get(key, consistency="weak")
            [(name, paths)] = cluster.asked().items()
            assert name in cluster.holders(key.encode())
            assert len(paths) == 3


async def test_a_lock_is_taken_at_its_primary_and_waited_for_elsewhere() -> None:
    async with cluster_of(3) as cluster:
        for member in cluster.members.values():
            member.deed = GRANTED
        name = next(name for name in map(str, range(99)) if cluster.holders(lock_key(name))[0] == "n3")
        store = await cluster.client._opened()
        lease = await store.acquire(name, owner="me", ttl_s=9, wait_s=0, permits=1, timeout_s=None)
        await store.renew(name, lease.token, timeout_s=None)
        assert cluster.asked() == {"n3": [f"/v1/locks/{name}"] * 2}
        cluster.forget()
        await store.acquire(name, owner="me", ttl_s=9, wait_s=5, permits=1, timeout_s=None)
        assert cluster.asked() == {"n1": [f"/v1/locks/{name}"]}


async def test_a_batch_and_a_listing_go_where_they_went() -> None:
    async with cluster_of(5) as cluster:
        for member in cluster.members.values():
            member.deed = Says(200, {"results": [], "keys": []})
        await cluster.client.batch([])
        assert [entry async for entry in cluster.client.list()] == []
        assert list(cluster.asked()) == ["n1"]


@pytest.mark.parametrize("deed", [HangsUp(), KeepsSilent(), UNKNOWN, Says(500)], ids=name_of)
async def test_a_write_that_the_primary_may_have_made_is_sent_to_nobody_else(deed: Deed) -> None:
    async with cluster_of(3) as cluster:
        key = next(key for key, primary in cluster.keys(0).items() if primary == "n2")
        cluster.members["n2"].deed = deed
        with pytest.raises(kvstore.OutcomeUnknown):
            await cluster.client.put(key, "v")
        assert cluster.asked() == {"n2": [f"/v1/kv/{key}"]}


async def test_a_primary_that_can_not_now_is_passed_over_and_not_asked_first_again_at_once() -> None:
    async with cluster_of(3) as cluster:
        key = next(key for key, primary in cluster.keys(0).items() if primary == "n2")
        cluster.members["n2"].deed = UNAVAILABLE
        for _ in range(3):
            await cluster.client.put(key, "v")
        assert len(cluster.members["n2"].asked) == 1
        assert sum(map(len, cluster.asked().values())) == 4


async def test_a_read_of_a_silent_replica_is_asked_elsewhere_too() -> None:
    async with cluster_of(5, deed=Says(200, WRITTEN.body, {"ETag": '"1"'})) as cluster:
        key = next(iter(cluster.keys(0)))
        await cluster.client.get(key)
        [first] = cluster.asked()
        cluster.members[first].deed = HangsUp()
        assert await cluster.client.get(key) is not None


async def test_turned_off_nobody_is_asked_who_it_is() -> None:
    async with cluster_of(3, routing=False) as cluster:
        for key in cluster.keys(0, 30):
            await cluster.client.put(key, "v")
        assert list(cluster.asked()) == ["n1"]
        assert not any(heard.path == "/v1/cluster" for member in cluster.members.values() for heard in member.heard)


ONE: list[Callable[[str], Any]] = [lambda url: [url], lambda url: [url, url], lambda url: url]


@pytest.mark.parametrize("listed", ONE)
async def test_of_a_single_node_nothing_is_asked(listed: Callable[[str], Any]) -> None:
    node = Member("n1", ("n1", "n2", "n3"), 3, WRITTEN)
    async with nodes(node) as urls, kvstore.connect(listed(urls[0])) as client:
        for number in range(3 * LEARN_AFTER):
            await client.put(f"{number}", "v")
    assert len(node.asked) == len(node.heard) == 3 * LEARN_AFTER


async def test_nodes_that_know_of_no_clusters_are_asked_as_before() -> None:
    first, second = Node(WRITTEN), Node(WRITTEN)
    async with nodes(first, second) as urls, kvstore.connect(urls) as client:
        for number in range(3 * LEARN_AFTER):
            await client.put(f"{number}", "v")
    assert [heard.path for heard in second.heard] == ["/v1/cluster"]


async def test_a_client_that_is_closed_while_it_looks_leaves_nothing_behind() -> None:
    silent_about_itself = [Node(lambda heard: KeepsSilent() if heard.path == "/v1/cluster" else WRITTEN) for _ in "12"]
    async with nodes(*silent_about_itself) as urls:
        client = kvstore.connect_async(urls)
        for number in range(LEARN_AFTER):
            await client.put(f"{number}", "v")
        assert [task for task in asyncio.all_tasks() if "_look_at_all" in repr(task)]
        await client.close()
        await client.close()
        assert not [task for task in asyncio.all_tasks() if "_look_at_all" in repr(task)]


async def test_every_endpoint_is_asked_once_however_they_are_ordered() -> None:
    members = {name: Member(name, ("n1", "n2", "n3"), 3, WRITTEN) for name in ("n1", "n2", "n3")}
    async with nodes(*members.values()) as urls, HttpClient(urls, routing=True) as client:
        for number in range(LEARN_AFTER):
            await client.request("PUT", f"/v1/kv/{number}", body=b"v")
        await _until_known(client)
        for number in range(30):
            order = list(client.in_order(client.route_of("PUT", f"/v1/kv/{number}", {}, {})))
            assert sorted(order) == sorted(urls)


async def test_the_plain_client_routes_when_it_is_told_to() -> None:
    members = {name: Member(name, ("n1", "n2"), 2, VALUE) for name in ("n1", "n2")}
    async with nodes(*members.values()) as urls, HttpClient(urls, routing=True) as client:
        keys = [f"key-{number}" for number in range(60)]
        for key in keys:
            await client.request("PUT", f"/v1/kv/{key}", body=b"v")
        zones = dict.fromkeys(members, "")
        other = [key for key in keys if replica_set(partition_of(key.encode(), PARTITIONS), zones, 2)[0] == "n2"]
        assert set(members["n2"].asked) <= {f"/v1/kv/{key}" for key in other}
        assert members["n2"].asked[-1] == f"/v1/kv/{other[-1]}"
