"""Routing on real nodes: writes reach their primaries, and a node that dies costs what it always did."""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvstore
from kvstore.client.asynchronous import AsyncClient
from kvstore.routing.route import Route
from kvstore.routing.router import LEARN_AFTER, Router
from kvstore.routing.table import RoutingTable, decode_overview
from tests.cluster.client import GOES_ON_WITHIN_S, Client, see_all
from tests.cluster.harness import ClusterHarness, clean_environment, kvstore_command, wait_until
from tests.kvstore.client.test_routing import has_learnt

ZONES = ["a", "a", "b", "b", "c"]
WRITES = 300
STRAYS_MAX = 0.1
"""Of writes, those that a node may hand on all the same: on a busy machine nodes take one another for dead now and
then. Without routing it is two of three, or four of five."""


@pytest.fixture(scope="module")
def cluster5(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHarness]:
    with ClusterHarness(tmp_path_factory.mktemp("cluster5"), 5, replicas=3, zones=ZONES) as cluster:
        yield cluster


def handed_over(cluster: ClusterHarness) -> int:
    """Strong writes that were handed on, by all nodes together."""
    return sum(_metric(cluster, name, "kvstore_handed_over_total") for name in cluster.names)


def _metric(cluster: ClusterHarness, name: str, metric: str) -> int:
    client = Client(cluster.http_address(name))
    page = client.call("GET", "/metrics").body.decode()
    client.close()
    return sum(int(float(value)) for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", page, re.MULTILINE))


def table_of(cluster: ClusterHarness) -> RoutingTable:
    told = {}
    for name in cluster.names:
        client = Client(cluster.http_address(name))
        told[cluster.url(name)] = decode_overview(client.call("GET", "/v1/cluster").body)
        client.close()
    table = RoutingTable.of(told, turn=0)
    assert table is not None
    return table


@asynccontextmanager
async def routed_client(endpoints: list[str], **options: object) -> AsyncIterator[AsyncClient]:
    """A client that has learnt the topology."""
    async with kvstore.connect(endpoints, **options) as client:  # type: ignore[arg-type]
        for number in range(LEARN_AFTER):
            await client.put(f"warm-{number}", "up")
        await has_learnt(client)
        yield client


@pytest.mark.parametrize("size", ["cluster3", "cluster5"])
async def test_writes_reach_their_primaries_by_themselves(request: pytest.FixtureRequest, size: str) -> None:
    cluster: ClusterHarness = request.getfixturevalue(size)
    async with routed_client(cluster.endpoints) as client:
        before = handed_over(cluster)
        coordinators: Counter[str | None] = Counter()
        for number in range(WRITES):
            written = await client.put(f"routed/{number}", "v")
            assert written.receipt is not None
            coordinators[written.receipt.coordinator] += 1
        routed = handed_over(cluster) - before
    async with kvstore.connect(cluster.endpoints, routing=False) as client:
        before = handed_over(cluster)
        for number in range(WRITES):
            await client.put(f"routed/{number}", "v")
        plain = handed_over(cluster) - before

    assert set(coordinators) == set(cluster.names)
    assert routed <= WRITES * STRAYS_MAX
    assert plain > WRITES / 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(key=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=100))
def test_the_client_names_the_primary_that_the_nodes_name(cluster5: ClusterHarness, key: str) -> None:
    client = Client(cluster5.http_address("n1"))
    expected = client.placement(key)
    client.close()
    table = table_of(cluster5)

    assert table.endpoint_for(Route(key.encode(), True)) == cluster5.url(expected["primary"])
    holders = {cluster5.url(replica["name"]) for replica in expected["replicas"]}
    assert table.endpoint_for(Route(key.encode(), False)) in holders


async def test_what_is_read_from_replicas_is_what_was_written(cluster5: ClusterHarness) -> None:
    async with routed_client(cluster5.endpoints) as client:
        for level, number in itertools.product(("strong", "weak"), range(60)):
            key = f"five/{level}/{number}"
            written = await client.put(key, key, consistency=level)  # type: ignore[arg-type]
            found = await client.get(key, consistency=level)  # type: ignore[arg-type]
            assert found is not None, "a client reads where it wrote"
            assert (found.text, found.version) == (key, written.version)
            assert found.receipt is not None
            assert found.receipt.coordinator in _holders(cluster5, key)


def _holders(cluster: ClusterHarness, key: str) -> list[str]:
    client = Client(cluster.http_address("n1"))
    names = client.replicas(key)
    client.close()
    return names


async def test_locks_and_votes_work_and_fences_hold(cluster3: ClusterHarness) -> None:
    async with routed_client(cluster3.endpoints) as client:
        for number in range(12):
            async with client.lock(f"l{number}", ttl=30, wait=0 if number % 2 else 5) as lock:
                await client.put(f"guarded{number}", "by the holder", fence=lock)
                read = await client.get(f"guarded{number}", fence=lock)
                assert read is not None
                with pytest.raises(kvstore.LockHeld):
                    await client.lock(f"l{number}", wait=0).acquire()
            assert (await client.vote(f"v{number}", "me")).is_new
            assert not (await client.vote(f"v{number}", "you")).is_new


async def test_killed_one_after_another_every_node_is_written_around(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    """Counters, so that a write that was made twice, or lost, is seen."""
    async with routed_client(cluster3.endpoints, timeout=GOES_ON_WITHIN_S) as client:
        sure: Counter[str] = Counter()
        unsure: Counter[str] = Counter()
        is_over = False

        async def count(key: str) -> None:
            while not is_over:
                found = await client.get(key)
                assert found is not None
                try:
                    await client.compare_and_set(key, found, str(int(found.text) + 1))
                except kvstore.VersionMismatch:
                    assert unsure[key], "one alone counts here"
                except kvstore.OutcomeUnknown:
                    unsure[key] += 1
                else:
                    sure[key] += 1

        keys = [f"kill/{number}" for number in range(12)]
        for key in keys:
            await client.put(key, "0")
        counting = [asyncio.ensure_future(count(key)) for key in keys]
        try:
            for name in cluster3.names:
                clients[name].close()
                cluster3.kill(name)
                before = dict(sure)
                async with asyncio.timeout(4 * GOES_ON_WITHIN_S):
                    while True:
                        if all(sure[key] > before.get(key, 0) + 2 for key in keys):
                            break
                        assert not [one for one in counting if one.done()], "a call failed that must not"
                        await asyncio.sleep(0.02)
                cluster3.spawn(name)  # here: it dies with the thread that started it
                await asyncio.to_thread(cluster3.wait_ready, name)
                await asyncio.to_thread(see_all, clients)
        finally:
            is_over = True
            await asyncio.gather(*counting)
        for key in keys:
            found = await client.get(key)
            assert found is not None
            assert sure[key] <= int(found.text) <= sure[key] + unsure[key]


async def test_a_paused_primary_delays_no_more_than_the_calls_that_reached_it(
    cluster3: ClusterHarness, clients: dict[str, Client]
) -> None:
    async with routed_client(cluster3.endpoints, timeout=3.0) as client:
        table = table_of(cluster3)
        keys = [f"pause/{number}" for number in range(40)]
        theirs = [key for key in keys if table.endpoint_for(Route(key.encode(), True)) == cluster3.url("n2")]
        cluster3.stop("n2")
        try:
            with pytest.raises(kvstore.OutcomeUnknown):
                await client.put(theirs[0], "unknown")
            for name in ("n1", "n3"):
                await asyncio.to_thread(
                    wait_until, lambda name=name: clients[name].states()["n2"] != "alive", "the pause to be seen"
                )
            for key in theirs[1:]:
                written = await client.put(key, "v")
                assert written.receipt is not None
                assert written.receipt.coordinator != "n2"
        finally:
            cluster3.cont("n2")
        await asyncio.to_thread(see_all, clients)


async def test_a_wrong_guess_costs_a_hop_and_nothing_else(
    cluster3: ClusterHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request is led to a node that is not the primary."""
    first = Router.first

    def astray(router: Router, route: Route) -> str | None:
        right = first(router, route)
        return None if right is None else next(url for url in cluster3.endpoints if url != right)

    async with routed_client(cluster3.endpoints) as client:
        monkeypatch.setattr(Router, "first", astray)
        before = handed_over(cluster3)
        for number in range(60):
            await client.put(f"astray/{number}", str(number))
            found = await client.get(f"astray/{number}")
            assert found is not None
            assert found.text == str(number)
        assert handed_over(cluster3) - before >= 60 * (1 - STRAYS_MAX)


async def test_through_addresses_that_nodes_know_nothing_of(cluster3: ClusterHarness) -> None:
    """As with published ports of containers: the client's addresses are not those that nodes tell of one another."""
    async with _forwarded(cluster3.endpoints) as urls, routed_client(urls) as client:
        before = handed_over(cluster3)
        for number in range(WRITES):
            await client.put(f"forwarded/{number}", "v")
        assert handed_over(cluster3) - before <= WRITES * STRAYS_MAX


@asynccontextmanager
async def _forwarded(urls: list[str]) -> AsyncIterator[list[str]]:
    """A TCP forwarder in front of each node; their addresses."""
    servers: list[asyncio.Server] = []
    pumping: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                target.write(data)
        except ConnectionError:
            pass
        finally:
            target.close()

    for url in urls:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str = url) -> None:
            host, _, port = url.removeprefix("http://").partition(":")
            there, here = await asyncio.open_connection(host, int(port))
            for work in (pump(reader, here), pump(there, writer)):
                task = asyncio.ensure_future(work)
                pumping.add(task)
                task.add_done_callback(pumping.discard)

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
    try:
        yield [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    finally:
        for server in servers:
            server.close()
        for task in list(pumping):
            task.cancel()


@pytest.mark.parametrize(("flags", "is_routed"), [([], True), (["--no-routing"], False)])
def test_an_import_and_an_export_route_unless_told_not_to(
    cluster3: ClusterHarness, tmp_path: Path, flags: list[str], is_routed: bool
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for number in range(WRITES):
        (source / f"{number}").write_text(f"{number}")
    before = handed_over(cluster3)
    prefix = f"import{len(flags)}/"
    for command in (["import", str(source)], ["export", str(target)]):
        subprocess.run(
            kvstore_command(*command, "--prefix", prefix, "--endpoints", ",".join(cluster3.endpoints), *flags),
            env=clean_environment(),
            check=True,
            capture_output=True,
        )
    assert {path.name: path.read_text() for path in target.iterdir()} == {f"{n}": f"{n}" for n in range(WRITES)}
    handed = handed_over(cluster3) - before
    assert (handed < WRITES / 3) == is_routed
