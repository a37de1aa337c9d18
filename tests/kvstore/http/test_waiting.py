"""Those who wait for a lock: noticed when they hang up, counted apart from other requests, told when the node stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest

from cluster.locks.lock_state import Wish
from cluster.locks.outcomes import AcquireOutcome, Client
from kvstore.http import waiters as waiters_module
from kvstore.http.connection import PROBES, Connection, WaitingClient
from kvstore.http.waiters import WAITERS_MAX, waiters_max
from tests.kvstore.http.conftest import Node, Reply, Start
from tests.kvstore.http.test_wire import sample
from tests.kvstore.http.wire import status_of

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def post(owner: str, wait: str = "5m") -> bytes:
    body = json.dumps({"owner": owner, "wait": wait}).encode()
    head = "POST /v1/locks/l HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


async def acquire(node: Node, owner: str = "w1", **body: Any) -> Reply:
    return await node.ask("POST", "/v1/locks/l", json={"owner": owner} | body)


async def release(node: Node, token: str) -> Reply:
    return await node.ask("DELETE", "/v1/locks/l", headers={"KV-Lock-Token": token})


async def wait_in_line(node: Node, owner: str, place: int = 1) -> Streams:
    streams = await asyncio.open_connection("127.0.0.1", node.port)
    streams[1].write(post(owner))
    await node.locks.waited_for("l", place)
    return streams


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, Any]:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return status_of(head), json.loads(await reader.readexactly(length))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - only the node's own numbers tell
            await asyncio.sleep(0.005)


def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    peer: socket.socket = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def say_no_more(writer: asyncio.StreamWriter) -> None:
    writer.write_eof()


@pytest.mark.parametrize("leave", [close, reset, say_no_more])
async def test_who_hangs_up_is_noticed_at_once(node: Node, leave: Callable[[asyncio.StreamWriter], None]) -> None:
    held = (await acquire(node)).json
    _, gone = await wait_in_line(node, "w2")
    reader, writer = await wait_in_line(node, "w3", place=2)
    leave(gone)
    await node.locks.waited_for("l", 1)
    await until(lambda: sample(node, "kvstore_lock_waiters") == 1)
    assert sample(node, 'kvstore_lock_requests_total{operation="acquire",outcome="gone"}') == 1
    assert (await release(node, held["token"])).status == 200
    status, granted = await answer_of(reader)
    assert (status, granted["owner"]) == (201, "w3")
    writer.close()
    gone.close()
    await until(lambda: sample(node, "kvstore_lock_waiters") == 0)
    assert sample(node, "kvstore_requests_in_flight") == 0


async def test_a_grant_that_nobody_hears_of_is_taken_back(node: Node) -> None:
    honest = node.locks.acquire

    async def blind(name: str, wish: Wish, wait_s: float, timeout_s: float, client: Client) -> AcquireOutcome:
        left = asyncio.Event()
        client.when_gone(left.set)
        await left.wait()
        return await honest(name, wish, 0, timeout_s, cast(Client, Deaf()))

    class Deaf:
        is_here = True

        def when_gone(self, callback: Callable[[], None]) -> None: ...

    node.locks.acquire = blind  # type: ignore[method-assign]
    _, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(post("w1"))
    await until(lambda: sample(node, "kvstore_lock_waiters") == 1)
    writer.close()
    await until(lambda: sample(node, "kvstore_lock_waiters") == 0)
    await until(lambda: [seen[0] for seen in node.locks.seen] == ["acquire", "release"])
    assert (await node.ask("GET", "/v1/locks/l")).status == 404


async def test_a_connection_carries_nothing_over_to_its_next_request(node: Node) -> None:
    calls: list[str] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(post("w1"))
    assert (await answer_of(reader))[0] == 201
    first = node.locks.clients[0]
    assert not first.is_here
    first.when_gone(lambda: calls.append("told at once, for its request is over"))
    connection = cast(Connection, next(iter(node.server._listener.connections)))  # type: ignore[union-attr]
    assert connection.client is None
    writer.write(post("w2"))
    await node.locks.waited_for("l", 1)
    second = cast(WaitingClient, node.locks.clients[1])
    second.when_gone(lambda: calls.append("the connection of the second ended"))
    assert second.is_here
    assert connection.client is second
    writer.close()
    await until(lambda: len(calls) == 2)
    assert calls == ["told at once, for its request is over", "the connection of the second ended"]
    assert not second.is_here


async def test_who_was_answered_is_not_told_of_the_end(node: Node) -> None:
    held = (await acquire(node)).json
    reader, writer = await wait_in_line(node, "w2")
    calls: list[int] = []
    node.locks.clients[-1].when_gone(lambda: calls.append(1))
    await release(node, held["token"])
    assert (await answer_of(reader))[0] == 201
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await answer_of(reader))[0] == 200
    assert await reader.read() == b""
    writer.close()
    await until(lambda: sample(node, "kvstore_http_connections") == 1)  # the test's own session
    assert calls == []


async def test_a_callback_that_fails_harms_nobody(node: Node) -> None:
    await acquire(node)
    _, writer = await wait_in_line(node, "w2")
    calls: list[int] = []
    node.locks.clients[-1].when_gone(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    node.locks.clients[-1].when_gone(lambda: calls.append(1))
    writer.close()
    await until(lambda: calls == [1])
    await until(lambda: sample(node, "kvstore_http_connections") == 1)


async def test_requests_behind_a_wait_are_answered_after_it(node: Node) -> None:
    held = (await acquire(node)).json
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(post("w2") + b"GET /v1/locks/l HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await node.locks.waited_for("l", 1)
    await release(node, held["token"])
    (first, granted), (second, shown) = await answer_of(reader), await answer_of(reader)
    assert (first, second) == (201, 200)
    assert (shown["holder"], shown["fence"]) == ("w2", granted["fence"])
    writer.close()


BEHIND = [
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100,
    b"PUT /v1/kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 900_000,
]


@pytest.mark.parametrize("behind", BEHIND, ids=["many", "large"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_who_sends_so_much_behind_a_wait_that_it_can_not_be_heard_leaving_is_cut_off(
    node: Node, behind: bytes, at_once: bool
) -> None:
    await acquire(node)
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(post("w2") + behind if at_once else post("w2"))
    if not at_once:
        await node.locks.waited_for("l", 1)
        writer.write(behind)
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(10):
            assert await reader.read() == b""
    await until(lambda: sample(node, "kvstore_lock_waiters") == 0)
    assert node.locks.waiters("l") == 0
    writer.close()


async def test_requests_that_do_not_wait_may_come_in_any_number(node: Node) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(post("w1", "0") * 100)
    statuses = [(await answer_of(reader))[0] for _ in range(100)]
    assert statuses == [201] + [409] * 99
    writer.close()


async def test_who_waits_does_not_count_as_a_request_under_way(start: Start) -> None:
    node = await start(requests_in_flight_max=1)
    held = (await acquire(node)).json
    waiting = [await wait_in_line(node, f"w{place}", place) for place in range(1, 6)]
    assert sample(node, "kvstore_lock_waiters") == 5
    assert sample(node, "kvstore_requests_in_flight") == 0
    assert sample(node, "kvstore_body_bytes_in_flight") == 0
    assert (await node.ask("GET", "/v1/kv/k")).status == 404
    assert (await release(node, held["token"])).status == 200
    assert (await answer_of(waiting[0][0]))[0] == 201
    for _, writer in waiting:
        writer.close()


async def test_not_everyone_may_wait(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await acquire(node)
    monkeypatch.setattr(node.server._waiters, "_count_max", 2)
    waiting = [await wait_in_line(node, f"w{place}", place) for place in (1, 2)]
    refused = await acquire(node, wait="1s")
    assert (refused.status, refused.json["code"], refused.json["outcome"]) == (503, "overloaded", "not-applied")
    assert refused.headers["Retry-After"]
    assert (await acquire(node)).status == 409
    for _, writer in waiting:
        writer.close()
    await until(lambda: sample(node, "kvstore_lock_waiters") == 0)
    assert (await acquire(node, wait="1ms")).status == 409


def test_some_connections_are_kept_for_who_does_not_wait() -> None:
    assert waiters_max(4_096) == 3_072
    assert waiters_max(1_000_000) == WAITERS_MAX == waiters_module.WAITERS_MAX


async def test_stopping_ends_all_waits_at_once(node: Node) -> None:
    await acquire(node)
    waiting = [await wait_in_line(node, f"w{place}", place) for place in range(1, 4)]
    async with asyncio.timeout(5):
        await node.server.stop(60)
    for reader, writer in waiting:
        status, problem = await answer_of(reader)
        assert (status, problem["code"], problem["outcome"]) == (503, "quorum-unavailable", "not-applied")
        assert "this node is stopping. Ask another node." in problem["detail"]
        assert await reader.read() == b""
        writer.close()


async def test_nobody_begins_to_wait_at_a_node_that_stops(node: Node) -> None:
    await acquire(node)
    node.backend.gate = asyncio.Event()
    behind_reader, behind = await asyncio.open_connection("127.0.0.1", node.port)
    behind.write(b"GET /v1/kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n" + post("w2"))
    slow_reader, slow = await asyncio.open_connection("127.0.0.1", node.port)
    slow.write(post("w3")[:-10])
    await node.backend.arrived(1)
    await until(lambda: sample(node, "kvstore_requests_in_flight") == 2)
    stopping = asyncio.create_task(node.server.stop(10))
    await asyncio.sleep(0)
    slow.write(post("w3")[-10:])
    status, problem = await answer_of(slow_reader)
    assert (status, problem["code"], problem["outcome"]) == (503, "quorum-unavailable", "not-applied")
    assert "nobody can wait here any more" in problem["detail"]
    node.backend.gate.set()
    assert (await answer_of(behind_reader))[0] == 404
    assert await behind_reader.read() == b""  # what stood behind it was never begun
    await stopping
    assert len(node.locks.clients) == 1
    slow.close()
    behind.close()


async def test_waits_are_no_latency(node: Node) -> None:
    await acquire(node)
    assert (await acquire(node, owner="w2", wait="60ms")).status == 409
    assert sample(node, 'kvstore_request_seconds_count{level="",method="POST"}') == 1
    assert sample(node, 'kvstore_requests_total{level="",method="POST",status="409"}') == 1
    assert sample(node, "kvstore_lock_wait_seconds_count") == 1
    assert 0.05 < sample(node, "kvstore_lock_wait_seconds_sum") < 10


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the system has other names for it")
async def test_a_machine_that_vanishes_is_asked_whether_it_is_there(node: Node) -> None:
    await acquire(node)
    _, writer = await wait_in_line(node, "w2")
    connections = [cast(Connection, one) for one in node.server._listener.connections]  # type: ignore[union-attr]
    transport = next(one.transport for one in connections if one.client is not None)
    assert transport is not None
    peer = transport.get_extra_info("socket")
    for name, value in PROBES.items():
        assert peer.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
    writer.close()
