"""Requests that are answered straight, without a task of their own: what must not be noticed of it on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from cluster.requests import WriteOutcome, WriteRequest
from kvstore.http import connection, server
from kvstore.http.connection import Connection
from storage.ballot import ballot_of
from storage.record import Record
from tests.kvstore.http.conftest import Node, Start
from tests.kvstore.http.honest_backend import WRITTEN_MS
from tests.kvstore.http.test_wire import body_bytes, healthy, sample
from tests.kvstore.http.wire import exchange, first_head, status_of

BOTH_LOOPS = True
VERSION = b" HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /v1/kv/k" + VERSION + b"\r\n"
CLOSE = b"Connection: close\r\n"
LARGE = b"v" * (12 << 20)
"""More than two sockets hold, however large they grow."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def put(key: bytes, value: bytes, headers: bytes = b"") -> bytes:
    return b"PUT /v1/kv/%s" % key + VERSION + headers + b"Content-Length: %d\r\n\r\n%s" % (len(value), value)


async def connect(node: Node) -> Stream:
    """A connection whose task waits: it has answered one request, of which the backend knows nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    assert (await ask((reader, writer), b"GET /livez" + VERSION + b"\r\n"))[0] == 200
    return reader, writer


async def answer_of(stream: Stream, is_head: bool = False) -> tuple[int, bytes, bytes]:
    """The next answer's status, head and body."""
    head = await first_head(stream[0])
    lengths = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
    length = int(lengths[0].split()[1]) if lengths and not is_head else 0
    async with asyncio.timeout(30):
        return status_of(head), head, await stream[0].readexactly(length)


async def ask(stream: Stream, request: bytes) -> tuple[int, bytes, bytes]:
    stream[1].write(request)
    return await answer_of(stream, request.startswith(b"HEAD"))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def under_way(node: Node, request: bytes) -> Stream:
    """A request that the backend has, and does not answer before its gate opens."""
    stream = await connect(node)
    node.backend.gate = asyncio.Event()
    stream[1].write(request)
    async with asyncio.timeout(10):
        await node.backend.arrived(1)
    return stream


def go_on(node: Node) -> None:
    assert node.backend.gate is not None
    node.backend.gate.set()
    node.backend.gate = None


def only_connection(node: Node) -> Connection:
    assert node.server._listener is not None
    (one,) = node.server._listener.connections
    return cast(Connection, one)


def connections(node: Node) -> int:
    return int(sample(node, "kvstore_http_connections "))


def in_flight(node: Node) -> int:
    return int(sample(node, "kvstore_requests_in_flight "))


def store(node: Node, key: bytes, value: bytes, content_type: str = "text/plain") -> None:
    ballot = ballot_of(WRITTEN_MS, 0, 0)
    node.backend.records[key] = Record(ballot, ballot, False, value, content_type)


@contextlib.contextmanager
def tasks_made() -> Iterator[list[str]]:
    """The names of the coroutines that become tasks meanwhile."""
    made: list[str] = []

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(work.__qualname__)
        return asyncio.Task(work, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(make)
    try:
        yield made
    finally:
        loop.set_task_factory(None)


# -- which way -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (GET, 200),
        (b"HEAD /v1/kv/k" + VERSION + b"\r\n", 200),
        (b"GET /v1/kv/k?consistency=weak" + VERSION + b"If-None-Match: *\r\n\r\n", 304),
        (b"GET /v1/kv/absent" + VERSION + b"\r\n", 404),
        (b"GET /v1/kv/%zz" + VERSION + b"\r\n", 400),
        (put(b"new", b"value"), 200),
        (put(b"new", b""), 200),
        (put(b"new?consistency=weak", b"v" * 10_000), 200),
        (put(b"k", b"v", b"If-None-Match: *\r\n"), 412),
        (b"PUT /v1/kv/new" + VERSION + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200),
    ],
)
async def test_plain_reads_and_writes_of_a_key_make_no_task(node: Node, request_bytes: bytes, status: int) -> None:
    store(node, b"k", b"1")
    stream = await connect(node)
    with tasks_made() as made:
        assert (await ask(stream, request_bytes))[0] == status
    assert made == []


async def connect_with(node: Node, request: bytes) -> Stream:
    """A connection with its first request in it before the node has taken it."""
    client = socket.create_connection(("127.0.0.1", node.port))
    client.sendall(request)
    return await asyncio.open_connection(sock=client)


async def test_nor_does_the_first_of_a_connection_where_its_head_is_known(node: Node) -> None:
    warm = await connect(node)
    await ask(warm, put(b"k", b"v"))
    with tasks_made() as made:
        stream = await connect_with(node, put(b"k", b"v"))
        assert (await answer_of(stream))[0] == 200
    assert [name for name in made if "handle_request" in name] == []
    assert [(await ask(stream, request))[0] for request in (put(b"k", b"v"), GET, put(b"k", b"v"))] == [200] * 3


@pytest.mark.parametrize("leaves", [False, True])
async def test_what_comes_behind_the_first_waits_for_it(node: Node, leaves: bool) -> None:
    warm = await connect(node)
    await ask(warm, put(b"k", b"v"))
    arrived = len(node.backend.seen)
    node.backend.gate = asyncio.Event()
    stream = await connect_with(node, put(b"k", b"v"))
    await node.backend.arrived(arrived + 1)
    stream[1].write(GET + b"GET /livez" + VERSION + b"\r\n")
    if leaves:
        stream[1].transport.abort()
        await until(lambda: connections(node) == 1)
        go_on(node)
        await until(lambda: in_flight(node) == 0)
        return
    await ask(warm, b"GET /livez" + VERSION + b"\r\n")  # sent after it, and answered: there was time for it
    assert len(node.backend.seen) == arrived + 1
    go_on(node)
    assert [(await answer_of(stream))[0] for _ in range(3)] == [200] * 3


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...


async def test_nor_does_the_task_begin_the_second_when_it_has_its_first_turn(node: Node) -> None:
    warm = await connect(node)
    await ask(warm, put(b"k", b"v"))
    arrived = len(node.backend.seen)
    node.backend.gate = asyncio.Event()
    assert node.server._listener is not None
    one, wire = node.server._listener(), Wire()
    one.connection_made(wire)
    one.data_received(put(b"k", b"v"))
    one.data_received(b"GET /livez" + VERSION + b"\r\n")
    await node.backend.arrived(arrived + 1)
    await ask(warm, b"GET /livez" + VERSION + b"\r\n")  # many turns of the loop
    assert wire.written == []
    go_on(node)
    await until(lambda: len(wire.written) >= 2)
    assert b"ETag" in wire.written[0]
    assert b"ETag" not in wire.written[1]
    one.connection_lost(None)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /livez" + VERSION + b"\r\n", 200),
        (b"GET /v1/kv?limit=1" + VERSION + b"\r\n", 200),
        (b"DELETE /v1/kv/k" + VERSION + b"\r\n", 200),
        (b"POST /v1/kv/k" + VERSION + b"\r\n", 405),
        (b"GET /v1/kv/k" + VERSION + b'KV-Fence: "l"; 1\r\n\r\n', 400),
        (put(b"k", b"v", b'KV-Fence: "l"; 1\r\n'), 400),
        (put(b"k", b"v", b"Expect: 200-ok\r\n"), 417),
        (b"GET /v1/kv/k" + VERSION + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        (b"noise\r\n\r\n", 400),
    ],
)
async def test_all_other_requests_have_their_task(node: Node, request_bytes: bytes, status: int) -> None:
    store(node, b"k", b"1")
    stream = await connect(node)
    with tasks_made() as made:
        assert (await ask(stream, request_bytes))[0] == status
    assert made == ["RequestHandler._handle_request"]


async def test_requests_that_come_together_have_their_tasks(node: Node) -> None:
    stream = await connect(node)
    with tasks_made() as made:
        assert (await ask(stream, put(b"k", b"1") + GET))[0] == 200
        assert (await answer_of(stream))[2] == b"1"
    assert len(made) == 2


async def test_a_body_that_comes_later_has_its_task(node: Node) -> None:
    stream = await connect(node)
    request = put(b"k", b"hello")
    with tasks_made() as made:
        stream[1].write(request[:-3])
        await until(lambda: in_flight(node) == 1)
        assert (await ask(stream, request[-3:]))[0] == 200
    assert made == ["RequestHandler._handle_request"]
    assert node.backend.records[b"k"].value == b"hello"


@pytest.mark.parametrize("refusal", [b"", b"Expect: 100-continue\r\n"])
async def test_after_either_way_the_other_one_goes_on(node: Node, refusal: bytes) -> None:
    stream = await connect(node)
    for number in range(3):
        assert (await ask(stream, put(b"k", b"%d" % number)))[0] == 200
        assert (await ask(stream, b"DELETE /v1/kv/other" + VERSION + refusal + b"\r\n"))[0] == 200
        assert (await ask(stream, GET))[2] == b"%d" % number


async def test_a_declined_upgrade_is_followed_by_straight_answers(node: Node) -> None:
    store(node, b"k", b"1")
    stream = await connect(node)
    upgrade = b"GET /v1/kv/k" + VERSION + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert (await ask(stream, upgrade))[2] == b"1"
    with tasks_made() as made:
        assert (await ask(stream, GET))[2] == b"1"
    assert made == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET,
        b"HEAD /v1/kv/k" + VERSION + b"\r\n",
        b"GET /v1/kv/k?consistency=eventual" + VERSION + b"\r\n",
        b"GET /v1/kv/k" + VERSION + b'If-Match: "0123456789abcdef"\r\n\r\n',
        b"GET /v1/kv/k" + VERSION + b"If-None-Match: *\r\n\r\n",
        b"GET /v1/kv/k" + VERSION + b"Accept: image/png\r\n\r\n",
        b"GET /v1/kv/k?nonsense=1" + VERSION + b"\r\n",
        b"GET /v1/kv/" + VERSION + b"\r\n",
        b"HEAD /v1/kv/absent" + VERSION + b"\r\n",
        b"GET /v1/kv/k HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /v1/kv/k" + VERSION + b"Origin: http://evil.example\r\n\r\n",
        b"GET /v1/kv/k HTTP/1.0\r\nConnection: keep-alive\r\nHost: localhost\r\n\r\n",
        put(b"k", b"v", b'If-Match: "0123456789abcdef"\r\n'),
        put(b"k", b"v", b"Content-Encoding: gzip\r\n"),
        put(b"k", b"v", b"Accept: image/png\r\n"),
        put(b"k?consistency=weak", b"v", b"If-None-Match: *\r\n"),
    ],
)
async def test_both_ways_say_the_same(node: Node, request_bytes: bytes) -> None:
    store(node, b"k", b"1")
    stream = await connect(node)
    is_head, named = request_bytes.startswith(b"HEAD"), request_bytes.replace(b"\r\n", b"\r\nX-Request-Id: one\r\n", 1)
    with tasks_made() as made:
        straight = await ask(stream, named)
    assert made == []
    with tasks_made() as made:
        stream[1].write(named * 2)
        assert [await answer_of(stream, is_head), await answer_of(stream, is_head)] == [straight] * 2
    assert len(made) == 2
    assert b"\r\nX-Request-Id: one\r\n" in straight[1]


# -- one after another -----------------------------------------------------------------------------------------------


async def test_what_comes_while_one_is_under_way_waits_for_it(node: Node) -> None:
    stream = await under_way(node, put(b"k", b"1"))
    stream[1].write(GET)
    assert await healthy(node)
    stream[1].write(put(b"k", b"2") + GET)
    assert await healthy(node)
    assert len(node.backend.seen) == 1
    go_on(node)
    answers = [await answer_of(stream) for _ in range(4)]
    assert [status for status, _, _ in answers] == [200] * 4
    assert [answers[1][2], answers[3][2]] == [b"1", b"2"]


async def test_a_hundred_at_a_time_and_a_hundred_in_turn(node: Node) -> None:
    stream = await under_way(node, put(b"k0", b"0"))
    stream[1].write(b"".join(put(b"k%d" % number, b"%d" % number) for number in range(1, 100)))
    assert await healthy(node)
    go_on(node)
    for number in range(100):
        assert (b'"key":"k%d"' % number) in (await answer_of(stream))[2]
    with tasks_made() as made:
        for number in range(100):
            assert (await ask(stream, b"GET /v1/kv/k%d" % number + VERSION + b"\r\n"))[2] == b"%d" % number
    assert made == []
    stream[1].write(GET.replace(b"/k ", b"/k7 ") * 100)
    assert [(await answer_of(stream))[2] for _ in range(100)] == [b"7"] * 100
    seen = [request.key for request in node.backend.seen[:100]]
    assert seen == [b"k%d" % number for number in range(100)]


async def test_a_request_in_small_pieces(node: Node) -> None:
    stream = await connect(node)
    for byte in put(b"k", b"hello") + GET:
        stream[1].write(bytes((byte,)))
        for _ in range(3):
            await asyncio.sleep(0)
    assert (await answer_of(stream))[0] == 200
    assert (await answer_of(stream))[2] == b"hello"


async def test_half_a_request_behind_a_whole_one(node: Node) -> None:
    stream = await connect(node)
    half = len(GET) // 2
    with tasks_made() as made:
        assert (await ask(stream, put(b"k", b"1") + GET[:half]))[0] == 200
        assert (await ask(stream, GET[half:] + GET[:half]))[2] == b"1"
    assert made == []
    assert (await ask(stream, GET[half:]))[2] == b"1"


async def test_a_chunked_body_is_put_together(node: Node) -> None:
    head = b"PUT /v1/kv/k" + VERSION + b"Transfer-Encoding: chunked\r\n\r\n"
    stream = await connect(node)
    assert (await ask(stream, head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"))[0] == 200
    assert node.backend.records[b"k"].value == b"abcde"


async def test_noise_behind_a_good_request_is_told_so_in_its_turn(node: Node) -> None:
    stream = await under_way(node, put(b"k", b"1"))
    stream[1].write(b"GET /v1/kv/a b HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert await healthy(node)
    go_on(node)
    assert (await answer_of(stream))[0] == 200
    status, head, body = await answer_of(stream)
    assert (status, b"%20" in body, b"\r\nConnection: close\r\n" in head) == (400, True, True)
    assert b"\r\nKV-Receipt: " in head
    assert await stream[0].read() == b""
    assert node.backend.records[b"k"].value == b"1"


# -- the end of a connection -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    ("request_bytes", "says", "goes_on"),
    [
        (GET, b"", True),
        (b"GET /v1/kv/k" + VERSION + CLOSE + b"\r\n", b"Connection: close", False),
        (put(b"k", b"2", CLOSE), b"Connection: close", False),
        (b"HEAD /v1/kv/k" + VERSION + CLOSE + b"\r\n", b"Connection: close", False),
        (b"GET /v1/kv/k HTTP/1.0\r\nHost: localhost\r\n\r\n", b"Connection: close", False),
        (
            b"GET /v1/kv/k HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
            b"Connection: keep-alive",
            True,
        ),
    ],
)
async def test_whether_the_connection_goes_on(
    node: Node, request_bytes: bytes, says: bytes, goes_on: bool, waits: bool
) -> None:
    store(node, b"k", b"1")
    if waits:
        stream = await under_way(node, request_bytes)
        go_on(node)
    else:
        stream = await connect(node)
        stream[1].write(request_bytes)
    status, head, _ = await answer_of(stream, request_bytes.startswith(b"HEAD"))
    assert status == 200
    assert [line for line in head.split(b"\r\n") if line.startswith(b"Connection:")] == [says][: len(says)]
    if goes_on:
        assert (await ask(stream, GET))[0] == 200
    else:
        async with asyncio.timeout(10):
            assert await stream[0].read() == b""
        await until(lambda: connections(node) == 0)


async def test_what_comes_behind_the_last_request_is_not_done(node: Node) -> None:
    stream = await under_way(node, put(b"k", b"1", CLOSE))
    stream[1].write(put(b"behind", b"2"))
    assert await healthy(node)
    go_on(node)
    assert (await answer_of(stream))[0] == 200
    with contextlib.suppress(ConnectionResetError):
        assert await stream[0].read() == b""
    assert await healthy(node)
    assert list(node.backend.records) == [b"k"]


async def test_a_client_that_leaves_takes_nothing_with_it(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    stream = await under_way(node, put(b"k", b"hello"))
    assert (in_flight(node), body_bytes(node), connections(node)) == (1, 5, 1)
    stream[1].transport.abort()
    await until(lambda: connections(node) == 0)
    assert (in_flight(node), body_bytes(node)) == (1, 5)
    go_on(node)
    await until(lambda: in_flight(node) == 0)
    assert body_bytes(node) == 0
    assert node.backend.records[b"k"].value == b"hello"
    assert await healthy(node)
    assert not caplog.records, "nothing fails for that"


async def test_a_connection_at_work_is_not_closed_to_make_room(start: Start) -> None:
    node = await start(connections_max=2)
    stream = await under_way(node, put(b"k", b"1"))
    others = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(4)]
    await until(lambda: sample(node, "kvstore_http_connections_refused_total") == 3)
    go_on(node)
    assert (await answer_of(stream))[0] == 200
    for _, writer in others:
        writer.close()
    others = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(4)]
    async with asyncio.timeout(10):
        assert await stream[0].read() == b"", "an idle one makes room"
    for _, writer in others:
        writer.close()


async def test_a_connection_at_work_is_not_taken_for_idle(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fired, process = 0, Connection._process_keepalive

    def count(one: Connection) -> None:
        nonlocal fired
        fired += 1
        process(one)

    monkeypatch.setattr(connection, "KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(Connection, "_process_keepalive", count)
    node.backend.gate = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(put(b"k", b"1"))
    await node.backend.arrived(1)
    so_far = fired
    await until(lambda: fired >= so_far + 3)
    assert connections(node) == 1
    go_on(node)
    assert (await answer_of((reader, writer)))[0] == 200
    async with asyncio.timeout(10):
        assert await reader.read() == b"", "idle now"


async def test_an_answer_puts_off_the_end_of_an_idle_connection(node: Node) -> None:
    stream = await connect(node)
    one = only_connection(node)
    before, now = one._next_keepalive_close_time, asyncio.get_running_loop().time
    connected = now()
    await until(lambda: now() > connected)
    assert (await ask(stream, GET))[0] == 404
    assert before < one._next_keepalive_close_time <= now() + connection.KEEP_ALIVE_S


async def test_a_first_request_that_takes_long_is_not_cut_off(node: Node) -> None:
    node.backend.gate = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    await until(lambda: connections(node) == 1)
    timer = only_connection(node).first_request_timer
    assert timer is not None
    with tasks_made() as made:
        writer.write(GET)
        await node.backend.arrived(1)
    assert made == ["HonestBackend.read"]
    assert timer.cancelled()
    go_on(node)
    assert (await answer_of((reader, writer)))[0] == 404


# -- stopping --------------------------------------------------------------------------------------------------------


async def test_stopping_waits_for_what_is_under_way_and_then_closes(node: Node) -> None:
    stream = await under_way(node, put(b"k", b"1"))
    idle = await connect(node)
    stopping = asyncio.create_task(node.server.stop(30))
    async with asyncio.timeout(10):
        assert await idle[0].read() == b""
    assert not stopping.done()
    stream[1].write(GET)
    go_on(node)
    status, head, _ = await answer_of(stream)
    assert (status, b"\r\nConnection: close\r\n" in head) == (200, True)
    with contextlib.suppress(ConnectionResetError):
        assert await stream[0].read() == b""
    async with asyncio.timeout(10):
        await stopping
    assert node.backend.records[b"k"].value == b"1"


@pytest.mark.parametrize("is_answered", [False, True])
async def test_stopping_lets_clients_read_their_last_answer(
    node: Node, is_answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLOSE_S", 30.0)
    store(node, b"k", LARGE)
    stream = await under_way(node, GET)
    if is_answered:
        go_on(node)
        await until(lambda: in_flight(node) == 0)
    stopping = asyncio.create_task(node.server.stop(30))
    await asyncio.sleep(0)
    if not is_answered:
        go_on(node)
        await until(lambda: in_flight(node) == 0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not stopping.done()
    assert (await answer_of(stream))[2] == LARGE
    async with asyncio.timeout(10):
        assert await stream[0].read() == b""
        await stopping


async def test_stopping_gives_a_request_that_takes_too_long_a_last_while(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CLOSE_S", 30.0)
    stream = await under_way(node, put(b"k", b"1"))
    stopping = asyncio.create_task(node.server.stop(0))
    assert node.server._listener is not None
    await until(lambda: only_connection(node)._handler_waiter is not None)
    go_on(node)
    assert (await answer_of(stream))[0] == 200
    async with asyncio.timeout(10):
        await stopping


# -- clients that do not read ----------------------------------------------------------------------------------------


async def deaf(node: Node, *requests: bytes) -> Stream:
    """A client with small buffers that has asked, and does not read."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", node.port))
    reader, writer = await asyncio.open_connection(sock=peer)
    for request in requests:
        writer.write(request)
        assert await healthy(node)
    return reader, writer


@pytest.mark.parametrize("headers", [b"", CLOSE])
async def test_a_client_that_does_not_read_is_cut_off(
    node: Node, headers: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SLOW_READER_S", 0.1)
    store(node, b"k", LARGE)
    _, writer = await deaf(node, b"GET /v1/kv/k" + VERSION + headers + b"\r\n")
    await node.session.close()
    await until(lambda: connections(node) == 0)
    writer.close()


async def test_nothing_more_is_begun_for_a_client_that_does_not_read(node: Node) -> None:
    store(node, b"k", LARGE)
    store(node, b"small", b"1")
    stream = await deaf(node, GET, GET, b"GET /v1/kv/small" + VERSION + b"\r\n")
    assert len(node.backend.seen) == 1
    assert (await answer_of(stream))[2] == LARGE
    assert (await answer_of(stream))[2] == LARGE
    assert (await answer_of(stream))[2] == b"1"
    assert (await ask(stream, GET.replace(b"/k ", b"/small ")))[2] == b"1"


async def test_nor_is_what_came_while_the_large_answer_was_made(node: Node) -> None:
    store(node, b"k", LARGE)
    node.backend.gate = asyncio.Event()
    stream = await deaf(node, GET, GET)
    await node.backend.arrived(1)
    go_on(node)
    await until(lambda: in_flight(node) == 0)
    assert await healthy(node)
    assert len(node.backend.seen) == 1
    assert [(await answer_of(stream))[2], (await answer_of(stream))[2]] == [LARGE, LARGE]


@pytest.mark.parametrize("headers", [b"", CLOSE])
async def test_a_client_that_reads_late_gets_it_all(node: Node, headers: bytes) -> None:
    store(node, b"k", LARGE)
    stream = await deaf(node, b"GET /v1/kv/k" + VERSION + headers + b"\r\n")
    await node.session.close()
    await until(lambda: connections(node) == 1)
    one = only_connection(node)
    timer = one._slow_reader_timer
    assert timer is not None
    assert (await answer_of(stream))[2] == LARGE
    await until(timer.cancelled)
    assert one._slow_reader_timer is None
    if headers:
        async with asyncio.timeout(10):
            assert await stream[0].read() == b""
    else:
        assert (await ask(stream, b"GET /v1/kv/absent" + VERSION + b"\r\n"))[0] == 404


# -- faults, and what is counted -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "outcome", "advice"),
    [
        (GET, "none", "Reading again is safe."),
        (b"GET /v1/kv/k?consistency=weak" + VERSION + b"\r\n", "none", "Reading again is safe."),
        (put(b"k", b"hello"), "unknown", "The write may or may not be applied"),
    ],
)
async def test_a_fault_is_500_and_says_what_it_means(
    node: Node, request_bytes: bytes, outcome: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = await connect(node)
    node.backend.next_outcome = ValueError("a fault of the backend")
    status, head, body = await ask(stream, request_bytes)
    document = json.loads(body)
    assert (status, document["code"], document["outcome"]) == (500, "internal", outcome)
    assert advice in document["detail"]
    assert document["request_id"] in document["detail"]
    assert b"X-Request-Id: " + document["request_id"].encode() in head
    assert "a fault of the backend" in capsys.readouterr().out
    assert (body_bytes(node), in_flight(node)) == (0, 0)
    assert (await ask(stream, put(b"k", b"v")))[0] == 200


@pytest.mark.parametrize("times", [1, 2])
async def test_a_fault_behind_the_answer_changes_nothing(
    node: Node, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = node.backend.begin_write

    def begin_and_fail(request: WriteRequest, on_outcome: Callable[[WriteOutcome], None]) -> None:
        for _ in range(times):
            begin(request, on_outcome)
        raise ValueError("too late")

    monkeypatch.setattr(node.backend, "begin_write", begin_and_fail)
    stream = await connect(node)
    assert (await ask(stream, put(b"k", b"hello")))[0] == 200
    assert (body_bytes(node), in_flight(node)) == (0, 0)
    assert (await ask(stream, GET))[2] == b"hello"


async def test_an_outcome_behind_a_fault_changes_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = node.backend.begin_write

    def begin_and_fail(request: WriteRequest, on_outcome: Callable[[WriteOutcome], None]) -> None:
        begin(request, on_outcome)
        raise ValueError("too early")

    monkeypatch.setattr(node.backend, "begin_write", begin_and_fail)
    stream = await under_way(node, put(b"k", b"hello"))
    assert (await answer_of(stream))[0] == 500
    assert (body_bytes(node), in_flight(node)) == (0, 0)
    go_on(node)
    await until(lambda: b"k" in node.backend.records)
    assert (await ask(stream, GET))[2] == b"hello"
    assert (body_bytes(node), in_flight(node)) == (0, 0)


@pytest.mark.parametrize("waits", [False, True])
async def test_an_answer_that_can_not_be_sent_ends_the_connection(node: Node, waits: bool) -> None:
    store(node, b"k", b"1", "text/pläin")
    stream = await under_way(node, GET) if waits else await connect(node)
    if waits:
        go_on(node)
    else:
        stream[1].write(GET)
    async with asyncio.timeout(10):
        assert await stream[0].read() == b""
    await until(lambda: in_flight(node) == 0)
    assert await healthy(node)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (put(b"k", b"v" * 1_500), 200),
        (put(b"k", b"v" * 2_500), 503),
        (put(b"k", b"v" * 3_500), 413),
        (put(b"k", b"v" * 1_500, b"If-None-Match: *\r\n"), 412),
        (put(b"k", b"v" * 1_500, b"If-Match: nonsense\r\n"), 400),
        (put(b"k", b"v" * 1_500, b"Origin: http://evil.example\r\n"), 403),
        (put(b"%zz", b"v" * 1_500), 400),
    ],
)
async def test_bodies_are_counted_for_as_long_as_they_are_held(start: Start, request_bytes: bytes, status: int) -> None:
    node = await start(body_bytes_in_flight_max=3_000, value_bytes_max=3_000)
    first = await under_way(node, put(b"k", b"v" * 1_000))
    assert body_bytes(node) == 1_000
    stream = await asyncio.open_connection("127.0.0.1", node.port)
    stream[1].write(request_bytes)
    if status in (200, 412):
        await node.backend.arrived(2)
        assert body_bytes(node) == 2_500
        go_on(node)
        assert (await answer_of(stream))[0] == status
    else:
        assert (await answer_of(stream))[0] == status
        assert body_bytes(node) == 1_000
        go_on(node)
    assert (await answer_of(first))[0] == 200
    assert (body_bytes(node), in_flight(node)) == (0, 0)


async def test_too_much_of_a_body_ends_the_connection(start: Start) -> None:
    node = await start(value_bytes_max=10)
    answer = await exchange(node.port, put(b"k", b"v" * 11))
    assert (status_of(answer), b"\r\nConnection: close\r\n" in answer) == (413, True)


async def test_too_many_requests_are_refused_straight(start: Start) -> None:
    node = await start(requests_in_flight_max=1)
    stream = await under_way(node, GET)
    second = await connect(node)
    with tasks_made() as made:
        status, head, body = await ask(second, put(b"k", b"v"))
    assert made == []
    assert (status, json.loads(body)["outcome"], b"\r\nRetry-After: 1\r\n" in head) == (503, "not-applied", True)
    assert in_flight(node) == 1
    go_on(node)
    assert (await answer_of(stream))[0] == 404
    assert (await ask(second, put(b"k", b"v")))[0] == 200
    assert in_flight(node) == 0


async def test_straight_answers_are_counted_and_numbered(node: Node) -> None:
    stream = await connect(node)
    answers = [
        await ask(stream, put(b"k", b"1")),
        await ask(stream, GET),
        await ask(stream, b"GET /v1/kv/k?consistency=weak" + VERSION + b"X-Request-Id: bad id\r\n\r\n"),
        await ask(stream, b"GET /v1/kv/k?consistency=weak" + VERSION + b"X-Request-Id: mine\r\n\r\n"),
    ]
    ids = [
        line.split()[1] for _, head, _ in answers for line in head.split(b"\r\n") if line.startswith(b"X-Request-Id: ")
    ]
    assert len(set(ids)) == 4
    assert ids[3] == b"mine"
    assert b"bad" not in ids[2]
    lines = node.metrics.exposition().decode().splitlines()
    for line in (
        'kvstore_requests_total{level="strong",method="PUT",status="200"} 1.0',
        'kvstore_requests_total{level="strong",method="GET",status="200"} 1.0',
        'kvstore_requests_total{level="weak",method="GET",status="200"} 2.0',
        'kvstore_request_seconds_count{level="weak",method="GET"} 2.0',
    ):
        assert line in lines, line
