"""What clients are told when more is asked of the node than it can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cluster.pressure import admission
from cluster.pressure.admission import WINDOW_S, Admission
from kvstore.http.outgoing import unread
from kvstore.http.outgoing.problems import overloaded, render
from kvstore.http.pressure.loop_lag import INTERVAL_S, REMEMBERED, LoopLag
from kvstore.http.pressure.refusals import DETAIL, Refusals
from tests.kvstore.http.conftest import Node, Start
from tests.kvstore.http.test_waiting import until
from tests.kvstore.http.test_wire import sample

PUT = b"PUT /v1/kv/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"


@pytest.fixture
async def full(start: Start, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    """A node at which two writes are under way, and may be."""
    monkeypatch.setattr(admission, "BURST", 2)
    node = await start()
    node.backend.gate = asyncio.Event()
    writers = [(await asyncio.open_connection("127.0.0.1", node.port))[1] for _ in range(2)]
    for number, writer in enumerate(writers):
        writer.write(PUT % b"k%d" % number)
    await node.backend.arrived(2)
    yield node
    for writer in writers:
        writer.close()


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("PUT", "/v1/kv/k", {"data": b"v"}),
        ("PUT", "/v1/kv/k", {"data": b"v", "headers": {"KV-Fence": "lock=1"}}),
        ("PUT", "/v1/kv/k", {"data": b"v" * 200_000}),
        ("DELETE", "/v1/kv/k", {}),
    ],
)
async def test_a_refused_write_says_when_to_come_back_and_is_not_applied(
    full: Node, method: str, path: str, options: dict[str, object]
) -> None:
    answer = await full.ask(method, path, **options)
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "overloaded", "not-applied")
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json["retry_after_s"] == int(answer.headers["Retry-After"])
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    assert "acks=0" in answer.headers["KV-Receipt"]
    assert len(full.backend.seen) == 2
    assert sample(full, 'kvstore_requests_refused_total{reason="slow"}') == 1


async def test_a_client_that_is_refused_keeps_its_connection_and_its_request_id(full: Node) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", full.port)
    named = PUT.replace(b"Host", b"X-Request-Id: mine-1\r\nHost")
    for _ in range(3):
        writer.write(named % b"k")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        assert b'"request_id":"mine-1"' in await reader.readexactly(length)
    assert full.backend.gate is not None
    full.backend.gate.set()
    await until(lambda: full.server._door.writes.in_flight == 0)
    writer.write(named % b"k")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_other_kinds_of_requests_and_pages_about_the_node_go_on(full: Node) -> None:
    read = asyncio.create_task(full.ask("GET", "/v1/kv/k"))
    await full.backend.arrived(3)
    for path in ("/livez", "/readyz", "/metrics", "/v1/cluster", "/openapi.json"):
        assert (await full.ask("GET", path)).status == 200, path
    assert (await full.ask("POST", "/v1/locks/l", json={"owner": "a", "ttl": "1s"})).status == 201
    assert full.backend.gate is not None
    full.backend.gate.set()
    assert (await read).status == 404


async def test_giving_a_lock_back_is_never_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await start()
    lock = (await node.ask("POST", "/v1/locks/l", json={"owner": "a", "ttl": "60s"})).json
    monkeypatch.setattr(admission, "BURST", 0)
    node.server._door.locks._open()
    assert (await node.ask("POST", "/v1/locks/m", json={"owner": "a", "ttl": "60s"})).status == 503
    assert (await node.ask("DELETE", "/v1/locks/l", headers={"KV-Lock-Token": lock["token"]})).status == 200


async def test_who_waits_for_a_lock_takes_nobodys_place(start: Start) -> None:
    node = await start()
    await node.ask("POST", "/v1/locks/l", json={"owner": "a", "ttl": "60s"})
    waiting = asyncio.create_task(node.ask("POST", "/v1/locks/l", json={"owner": "b", "ttl": "1s", "wait": "60s"}))
    await until(lambda: sample(node, "kvstore_lock_waiters") == 1)
    assert node.server._door.locks.in_flight == 0
    waiting.cancel()


def slow(kind: Admission, took_s: float) -> None:
    """The last of its kind took so long, and as many as make a queue are under way."""
    now_s = asyncio.get_running_loop().time()
    for _ in range(admission.FEW + 1):
        kind.begin()
    kind.look(now_s)
    kind.end(took_s, True)
    kind.look(now_s + WINDOW_S)
    kind._ends_s = now_s + 60.0  # nothing else is learned meanwhile


async def test_a_strong_write_that_can_not_make_its_deadline_is_refused_before_anything_is_done(node: Node) -> None:
    slow(node.server._door.writes, 1.0)
    refused = await node.ask("PUT", "/v1/kv/k?timeout=900ms", data=b"v")
    assert (refused.status, refused.json["code"], refused.json["outcome"]) == (503, "overloaded", "not-applied")
    assert "Retry-After" in refused.headers
    assert (await node.ask("DELETE", "/v1/kv/k?timeout=900ms")).status == 503
    assert not node.backend.seen
    assert sample(node, 'kvstore_requests_refused_total{reason="deadline"}') == 2
    for path in ("/v1/kv/k", "/v1/kv/k?timeout=2s", "/v1/kv/k?timeout=900ms&consistency=eventual"):
        assert (await node.ask("PUT", path, data=b"v")).status == 200, path


async def test_so_is_a_strong_read(node: Node) -> None:
    slow(node.server._door.reads, 1.0)
    refused = await node.ask("GET", "/v1/kv/k?timeout=900ms")
    assert (refused.status, refused.json["code"], refused.json["outcome"]) == (503, "overloaded", "none")
    assert not node.backend.seen
    for path in ("/v1/kv/k", "/v1/kv/k?timeout=900ms&consistency=weak"):
        assert (await node.ask("GET", path)).status == 404, path


async def test_and_an_operation_of_a_batch_alone(node: Node) -> None:
    slow(node.server._door.writes, 1.0)
    operations = [{"op": "put", "key": "a", "value": "x"}, {"op": "get", "key": "a"}]
    answer = await node.ask("POST", "/v1/batch?timeout=900ms", json={"operations": operations})
    put, get = answer.json["results"]
    assert (put["code"], put["outcome"], get["code"]) == ("overloaded", "not-applied", "not-found")


async def test_large_bodies_are_refused_where_small_ones_are_not(node: Node) -> None:
    node.server._door.writes.bytes_limit = 100_000
    node.server._door.writes._ends_s = asyncio.get_running_loop().time() + 60.0
    refused = await node.ask("PUT", "/v1/kv/large", data=b"x" * 200_000)
    assert (refused.status, refused.json["code"], refused.json["outcome"]) == (503, "overloaded", "not-applied")
    assert (await node.ask("PUT", "/v1/kv/small", data=b"x" * 60_000)).status == 200
    assert sample(node, 'kvstore_requests_refused_total{reason="bodies"}') == 1
    assert sample(node, "kvstore_body_bytes_in_flight") == 0


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("receipt", ["", "n=3"])
def test_what_is_rendered_once_is_what_would_be_rendered_each_time(method: str, receipt: str) -> None:
    refusals = Refusals(lambda: receipt)
    for request_id, wait_s in (("a-1", 0.2), ("b-22", 0.3), ("b-22", 1.7)):
        problem = overloaded(DETAIL, 1.0 if wait_s < 1 else 2.0)
        problem.receipt = receipt
        wanted = render(problem, method, request_id)
        answer = refusals.answer(method, bool(receipt), wait_s, request_id)
        assert (answer.status, answer.headers, answer.body) == (wanted.status, wanted.headers, wanted.body)


async def test_the_lag_is_what_the_loop_is_behind_most_of_the_time() -> None:
    lag = LoopLag()
    lag.start()
    loop = asyncio.get_running_loop()

    def busy() -> None:
        until_s = loop.time() + 4 * INTERVAL_S
        while loop.time() < until_s:
            pass

    busy()
    await until(lambda: len(lag._late_s) > 0)
    assert lag.lag_s > 2 * INTERVAL_S
    await until(lambda: len(lag._late_s) == REMEMBERED)
    assert lag.lag_s < max(lag._late_s)
    lag.stop()


async def test_a_client_that_is_slow_with_its_body_takes_no_place_and_no_room(start: Start) -> None:
    """It may announce what it likes: what is not here is no load, and the time that it takes is its own."""
    node = await start(body_bytes_in_flight_max=300_000)
    writers = []
    for number in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(b"PUT /v1/kv/slow%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\nx" % number)
        writers.append(writer)
    await until(lambda: sample(node, "kvstore_body_bytes_in_flight") == 3)
    assert (await node.ask("PUT", "/v1/kv/k", data=b"x" * 200_000)).status == 200
    door = node.server._door
    assert (door.writes.in_flight, node.server._bodies.bytes_to_come) == (0, 600_000)
    writers[0].write(b"x" * 199_999)
    await until(lambda: b"slow0" in node.backend.records)
    for writer in writers:
        writer.close()
    await until(lambda: sample(node, "kvstore_body_bytes_in_flight") == 0)
    assert (door.writes.in_flight, node.server._bodies.bytes_to_come) == (0, 0)


async def test_bodies_that_come_together_and_do_not_fit_are_refused_on_the_way(start: Start) -> None:
    node = await start(body_bytes_in_flight_max=300_000)
    connections = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(2)]
    for _, writer in connections:
        writer.write(b"PUT /v1/kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n")
    await until(lambda: node.server._bodies.bytes_to_come == 400_000)
    for _, writer in connections:
        writer.write(b"x" * 149_000)
    await until(lambda: sample(node, "kvstore_body_bytes_in_flight") == 298_000)
    connections[0][1].write(b"x" * 51_000)
    assert (await connections[0][0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")
    connections[1][1].write(b"x" * 51_000)
    assert (await connections[1][0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    for _, writer in connections:
        writer.close()
    await until(lambda: sample(node, "kvstore_body_bytes_in_flight") == 0)


@pytest.mark.parametrize("path", ["/v1/kv/large", "/v1/kv?values=true"])
async def test_who_has_not_read_for_longest_makes_room(
    start: Start, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Answers that nobody reads are bounded together, whichever way they were made."""
    monkeypatch.setattr(unread, "UNREAD_BYTES_MAX", 20 << 20)
    node = await start(value_bytes_max=16 << 20)
    await node.ask("PUT", "/v1/kv/large", data=b"x" * (16 << 20))
    writers = []
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", node.port, limit=1_024)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        writers.append(writer)
    await until(lambda: sample(node, "kvstore_slow_readers_cut_off_total") == 2)
    assert 0 < sample(node, "kvstore_unread_answer_bytes") < 20 << 20
    assert len((await node.ask("GET", "/v1/kv/large")).body) == 16 << 20, "who reads gets it"
    for writer in writers:
        writer.close()
    await until(lambda: sample(node, "kvstore_unread_answer_bytes") == 0)
