"""Refusals of requests with a known head: the same as any other's, whether they go out at once or in a moment."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from cluster.pressure import admission
from cluster.pressure.admission import FEW
from kvstore.http.pressure.holding import Holding
from tests.kvstore.http.conftest import Node, Start
from tests.kvstore.http.test_straight import GET, VERSION, Stream, answer_of, ask, connect, put, until
from tests.kvstore.http.test_wire import sample

BOTH_LOOPS = True
PUT = put(b"k", b"v")
TIMED = put(b"k?timeout=1s", b"v")


@pytest.fixture
async def full(start: Start, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    """A node at which as many writes are under way as may be."""
    node = await start()
    warm = await connect(node)
    for request in (PUT, TIMED, GET):
        await ask(warm, request)
        await ask(warm, request)  # now their heads are known
    monkeypatch.setattr(admission, "BURST", FEW)
    node.server._door.writes._open()
    node.server._door.writes._ends_s = float("inf")  # and it stays like that
    arrived = len(node.backend.seen)
    node.backend.gate = asyncio.Event()
    streams = [await connect(node) for _ in range(FEW)]
    for _, writer in streams:
        writer.write(PUT)
    await node.backend.arrived(arrived + FEW)
    yield node
    node.backend.gate.set()
    for stream in [*streams, warm]:
        stream[1].close()


def holding(node: Node, hold_s: float) -> Holding:
    """That of the node, which holds refusals so long from now on."""
    assert node.server._dispatcher is not None
    found = node.server._dispatcher.holding
    found.hold_s, found._ends_s = hold_s, float("inf")
    return found


def bare(head: bytes, body: bytes) -> bytes:
    """Without what differs from one answer to the next."""
    return re.sub(rb"[0-9a-f]{8}-[0-9a-f]{12}", b"ID", re.sub(rb"Date: [^\r]+", b"Date", head)) + re.sub(
        rb"[0-9a-f]{8}-[0-9a-f]{12}", b"ID", body
    )


async def test_it_says_what_the_refusal_of_an_unknown_head_says(full: Node) -> None:
    """Each with an id of its own, in head and body."""
    stream = await connect(full)
    known = [await ask(stream, PUT) for _ in range(3)]
    unknown = await ask(stream, put(b"k", b"v", b"X-New: 1\r\n"))
    assert {bare(head, body) for _, head, body in known} == {bare(*unknown[1:])}
    assert [status for status, _, _ in known] == [503] * 3
    ids = [re.findall(rb"[0-9a-f]{8}-[0-9a-f]{12}", head + body) for _, head, body in known]
    assert all(len(found) == 2 and found[0] == found[1] for found in ids)
    assert len({found[0] for found in ids}) == 3
    assert sample(full, 'kvstore_requests_refused_total{reason="slow"}') == 4
    assert sample(full, 'kvstore_requests_total{level="",method="PUT",status="503"}') == 4


async def test_reads_are_let_in_where_writes_are_not(full: Node) -> None:
    stream = await connect(full)
    asked = asyncio.create_task(ask(stream, GET))
    await until(lambda: full.server._door.reads.in_flight == 1)
    assert full.backend.gate is not None
    full.backend.gate.set()
    assert (await asked)[0] == 200


async def test_what_the_guard_refuses_is_not_known_for_good(full: Node) -> None:
    stream = await connect(full)
    elsewhere = PUT.replace(b"localhost", b"elsewhere.example")
    assert [(await ask(stream, elsewhere))[0] for _ in range(3)] == [403] * 3


async def test_an_id_of_the_clients_own_comes_back(full: Node) -> None:
    stream = await connect(full)
    for _ in range(3):
        status, head, body = await ask(stream, put(b"k", b"v", b"X-Request-Id: mine\r\n"))
        assert (status, b"X-Request-Id: mine" in head, b'"request_id":"mine"' in body) == (503, True, True)


async def test_one_that_would_come_too_late_is_refused_though_there_is_room(node: Node) -> None:
    stream = await connect(node)
    assert [(await ask(stream, TIMED))[0] for _ in range(2)] == [200] * 2
    writes = node.server._door.writes
    now_s = asyncio.get_running_loop().time()
    for _ in range(FEW + 1):
        writes.begin()
    writes.look(now_s)
    writes.end(2.0, True)
    writes.look(now_s + 1.0)
    writes._ends_s = now_s + 60.0
    assert [(await ask(stream, TIMED))[0] for _ in range(2)] == [503] * 2
    assert sample(node, 'kvstore_requests_refused_total{reason="deadline"}') == 2
    assert (await ask(stream, PUT))[0] == 200


@pytest.mark.parametrize("request_", [PUT, put(b"k", b"v", b"X-New: 1\r\n"), b"DELETE /v1/kv/k" + VERSION + b"\r\n"])
async def test_a_refusal_that_is_held_goes_out_in_a_moment(full: Node, request_: bytes) -> None:
    held, stream = holding(full, 0.2), await connect(full)
    for _ in range(2):
        began_s = asyncio.get_running_loop().time()
        assert (await ask(stream, request_))[0] == 503
        assert asyncio.get_running_loop().time() - began_s > 0.19
    assert held.held == 0


async def test_who_waits_for_a_refusal_takes_nobodys_place(full: Node) -> None:
    held = holding(full, 30.0)
    streams: list[Stream] = [await connect(full) for _ in range(5)]
    for _, writer in streams:
        writer.write(PUT)
    await until(lambda: held.held == 5)
    assert sample(full, "kvstore_requests_in_flight") == FEW
    held.hold_s = 0.0
    assert (await ask(await connect(full), PUT))[0] == 503


async def test_what_comes_behind_a_held_refusal_waits_for_it(full: Node) -> None:
    holding(full, 0.2)
    stream = await connect(full)
    stream[1].write(PUT)
    await asyncio.sleep(0)
    stream[1].write(PUT + b"GET /livez" + VERSION + b"\r\n")
    assert [(await answer_of(stream))[0] for _ in range(3)] == [503, 503, 200]


async def test_a_client_that_goes_while_its_refusal_is_held_is_forgotten(full: Node) -> None:
    held = holding(full, 0.3)
    _, writer = await connect(full)
    writer.write(PUT)
    await until(lambda: held.held == 1)
    writer.transport.abort()
    await until(lambda: held.held == 0)
    assert (await ask(await connect(full), GET.replace(b"/k", b"/other")))[0] in (200, 404)


@pytest.mark.parametrize(
    "request_",
    [
        put(b"k?timeout=100ms", b"v"),
        put(b"k?consistency=weak&timeout=100ms", b"v"),
        put(b"k?timeout=100ms", b"v", b"X-New: 1\r\n"),
        b"DELETE /v1/kv/k?timeout=100ms" + VERSION + b"\r\n",
    ],
)
async def test_of_a_time_that_the_request_names_it_takes_half_at_most(full: Node, request_: bytes) -> None:
    holding(full, 30.0)
    assert (await ask(await connect(full), request_))[0] == 503


async def test_refusals_are_no_answers_and_all_else_is(full: Node) -> None:
    held, stream = holding(full, 0.0), await connect(full)
    before = held._counts.answers
    for request in (PUT, put(b"k", b"v", b"X-New: 1\r\n"), b"DELETE /v1/kv/k" + VERSION + b"\r\n"):
        assert (await ask(stream, request))[0] == 503
    assert held._counts.answers == before
    assert (await ask(stream, b"GET /livez" + VERSION + b"\r\n"))[0] == 200
    assert held._counts.answers == before + 1


async def test_a_node_that_stops_says_what_became_of_those_it_holds(start: Start, full: Node) -> None:
    held, stream = holding(full, 0.3), await connect(full)
    stream[1].write(PUT)
    await until(lambda: held.held == 1)
    assert full.backend.gate is not None
    full.backend.gate.set()
    stopped = asyncio.create_task(full.server.stop(5.0))
    assert (await answer_of(stream))[0] == 503
    assert await stream[0].read() == b"", "and the connection ends, or the next request would be lost on it"
    await stopped
