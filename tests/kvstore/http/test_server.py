"""Who may ask, how much at once, and how a node stops."""

from __future__ import annotations

import asyncio
import resource

import aiohttp
import pytest

from kvstore.http.server import FILES_KEPT_FREE, connections_max
from tests.kvstore.http.conftest import Node, Start
from tests.kvstore.http.test_wire import sample


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:7001", 200),
        ("10.1.2.3:80", 200),
        ("[::1]:7001", 200),
        ("localhost:7001", 200),
        ("LOCALHOST", 200),
        ("app.localhost", 200),
        ("db2.example:7001", 200),
        ("db3.example", 200),
        ("n3:7001", 200),
        ("n4", 403),
        ("store.example.org", 200),
        ("evil.example", 403),
        ("evil.example:7001", 403),
        ("localhost.evil.example", 403),
        ("2130706433", 403),
        ("user@127.0.0.1", 400),
        ("[::1", 400),
        ("127.0.0.1:http", 400),
        ("[evil]", 400),
    ],
)
async def test_hosts(start: Start, host: str, status: int) -> None:
    node = await start(allowed_hosts=("store.example.org",))
    for _ in range(2):
        assert (await node.ask("GET", "/livez", headers={"Host": host})).status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7001", 200),
        ("https://store.example.org", 200),
        ("http://127.0.0.1:9999", 403),
        ("https://127.0.0.1:7001", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_origins(start: Start, origin: str, status: int) -> None:
    node = await start(allowed_hosts=("store.example.org",))
    headers = {"Host": "127.0.0.1:7001", "Origin": origin}
    answer = await node.ask("PUT", "/v1/kv/k", data=b"v", headers=headers)
    assert answer.status == status
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert bool(node.backend.records) == (status == 200)


async def test_unknown_paths_are_404(node: Node) -> None:
    for path in (
        "/",
        "/v1",
        "/v1/kvs",
        "/v1/votes",
        "/v1/elections",
        "/v1/lock/x",
        "/v1/%6bv/k",
        "//v1/kv/k",
        "/v1/cluster/",
    ):
        answer = await node.ask("GET", path)
        assert (answer.status, answer.json["code"]) == (404, "not-found"), path


async def test_too_many_requests_are_told_to_come_back(start: Start) -> None:
    node = await start(requests_in_flight_max=2)
    node.backend.gate = asyncio.Event()
    waiting = [asyncio.create_task(node.ask("GET", "/v1/kv/k")) for _ in range(2)]
    await node.backend.arrived(2)
    refused = await node.ask("PUT", "/v1/kv/k", data=b"v")
    assert (refused.status, refused.json["code"], refused.headers["Retry-After"]) == (503, "overloaded", "1")
    assert refused.json["outcome"] == "not-applied"
    assert (await node.ask("GET", "/readyz")).status == 200
    node.backend.gate.set()
    assert [(await task).status for task in waiting] == [404, 404]
    assert sample(node, "kvstore_requests_in_flight ") == 0


async def test_bodies_share_one_budget(start: Start) -> None:
    node = await start(body_bytes_in_flight_max=3_000)
    node.backend.gate = asyncio.Event()
    first = asyncio.create_task(node.ask("PUT", "/v1/kv/k", data=b"x" * 2_000))
    await node.backend.arrived(1)
    refused = await node.ask("PUT", "/v1/kv/k", data=b"x" * 2_000)
    assert (refused.status, refused.json["code"]) == (503, "overloaded")
    node.backend.gate.set()
    assert (await first).status == 200
    assert (await node.ask("PUT", "/v1/kv/k", data=b"x" * 2_000)).status == 200
    assert sample(node, "kvstore_body_bytes_in_flight") == 0


async def test_readiness_gives_its_reasons(node: Node) -> None:
    assert (await node.ask("GET", "/readyz")).json == {"status": "ready", "reasons": []}
    node.view.reasons.append("no majority of any replica set is reachable")
    answer = await node.ask("GET", "/readyz")
    assert (answer.status, answer.json["reasons"]) == (503, ["no majority of any replica set is reachable"])
    assert (await node.ask("GET", "/livez")).status == 200


async def test_stopping_finishes_what_is_under_way(node: Node) -> None:
    async with aiohttp.ClientSession() as kept:
        async with kept.get(f"http://127.0.0.1:{node.port}/readyz") as idle:  # leaves an idle connection behind
            await idle.read()
        node.backend.gate = asyncio.Event()
        write = asyncio.create_task(node.ask("PUT", "/v1/kv/k", data=b"v"))
        await node.backend.arrived(1)
        url = f"http://127.0.0.1:{node.port}/v1/kv/k"
        stopping = asyncio.create_task(node.server.stop(10))
        await asyncio.sleep(0)
        with pytest.raises(aiohttp.ClientConnectionError):
            await kept.get(url)
        assert not stopping.done()
        node.backend.gate.set()
        answer = await write
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        await stopping
    assert node.backend.records[b"k"].value == b"v"


async def test_a_draining_node_says_so_to_who_is_still_connected(node: Node) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    node.backend.gate = asyncio.Event()
    head = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    writer.write(b"GET /v1/kv/k" + head)
    await node.backend.arrived(1)
    stopping = asyncio.create_task(node.server.stop(10))
    await asyncio.sleep(0)
    node.backend.gate.set()
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"Connection: close" in answer
    await stopping
    writer.close()


async def test_stopping_gives_up_when_its_time_is_over(node: Node) -> None:
    node.backend.gate = asyncio.Event()
    write = asyncio.create_task(node.ask("PUT", "/v1/kv/k", data=b"v"))
    await node.backend.arrived(1)
    async with asyncio.timeout(10):
        await node.server.stop(0.05)
    with pytest.raises(aiohttp.ClientError):
        await write


async def test_metrics_count_what_was_answered(node: Node) -> None:
    await node.ask("PUT", "/v1/kv/k", data=b"v")
    await node.ask("GET", "/v1/kv/k?consistency=weak")
    await node.ask("GET", "/v1/kv/absent?consistency=weak")
    await node.ask("BREW", "/v1/kv/k")
    text = (await node.ask("GET", "/metrics")).body.decode()
    for line in (
        'kvstore_requests_total{level="strong",method="PUT",status="200"} 1.0',
        'kvstore_requests_total{level="weak",method="GET",status="200"} 1.0',
        'kvstore_requests_total{level="weak",method="GET",status="404"} 1.0',
        'kvstore_request_seconds_count{level="weak",method="GET"} 2.0',
        'kvstore_request_seconds_bucket{le="+Inf",level="strong",method="PUT"} 1.0',
        "kvstore_requests_in_flight 1.0",
    ):
        assert line in text.splitlines(), line


async def test_the_cluster_as_this_node_sees_it(node: Node) -> None:
    page = (await node.ask("GET", "/v1/cluster")).json
    assert (page["node"], page["epoch"], page["n"], page["partitions"], page["moving"]) == ("n1", 4, 3, 64, [])
    assert [member["state"] for member in page["members"]] == ["self", "alive", "suspect"]
    assert page["members"][1]["http"] == "db2.example:7001"


async def test_who_holds_a_key(node: Node) -> None:
    version = (await node.ask("PUT", "/v1/kv/a/b", data=b"v")).json["version"]
    plain = (await node.ask("GET", "/v1/cluster/partitions?key=a/b")).json
    assert (plain["key"], plain["primary"]) == ("a/b", "n2")
    assert [replica["name"] for replica in plain["replicas"]] == ["n2", "n3", "n1"]
    assert "version" not in plain["replicas"][0]
    asked = (await node.ask("GET", "/v1/cluster/partitions?key=a%2Fb&versions=true")).json
    assert [replica["version"] for replica in asked["replicas"]] == [None, "unreachable", version]


@pytest.mark.parametrize(
    ("query", "code"),
    [("", "bad-parameter"), ("?key=", "bad-key"), ("?key=%ff", "bad-key"), ("?key=a&versions=1", "bad-parameter")],
)
async def test_placement_needs_a_key(node: Node, query: str, code: str) -> None:
    answer = await node.ask("GET", f"/v1/cluster/partitions{query}")
    assert (answer.status, answer.json["code"]) == (400, code)


def test_connections_leave_files_for_the_node_itself() -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connections_max(1) == 1
    if files != resource.RLIM_INFINITY:
        assert connections_max(files) == files - FILES_KEPT_FREE
