"""What no well-behaved client sends: bytes on a raw socket (the security checklist's request smuggling and noise)."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from kvstore.http import connection
from tests.kvstore.http.conftest import Node, Start
from tests.kvstore.http.wire import exchange, first_head, status_of

HOST = b"Host: 127.0.0.1\r\n"
CLOSE = b"Connection: close\r\n"


async def healthy(node: Node) -> bool:
    return (await node.ask("GET", "/livez")).status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\nhello",
        b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: 1_0\r\n\r\n0123456789",
        b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET /v1/kv/k HTTP/1.1\r\n" + HOST + b"X-Folded: a\r\n b\r\n\r\n",
        b"GET /v1/kv/k HTTP/1.1\r\n" + HOST + b"X-Nul: a\0b\r\n\r\n",
        b"GET /v1/kv/k HTTP/1.1\r\n" + HOST + b"X-Space : a\r\n\r\n",
        b"GET /v1/kv/k HTTP/1.1\r\nHost: 127.0.0.1\nX: y\n\n",
        b"GET /v1/kv/k HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /v1/kv/k HTTP/1.1\r\n\r\n",
        b"GET /v1/kv/k HTTP/1.1\r\nHost: \r\n" + CLOSE + b"\r\n",
        b"GET /v1/kv/k HTTP/1.1\r\nHost: a b\r\n" + CLOSE + b"\r\n",
        b"GET /v1/kv/\xf0\x9f\x98\x80 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://evil.example/v1/kv/k HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://127.0.0.1/v1/kv/k HTTP/1.1\r\n" + HOST + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET v1/kv/k HTTP/1.1\r\n" + HOST + b"\r\n",
        b"noise\r\n\r\n",
        b"PUT /v1/kv/a b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    ],
)
async def test_malformed_requests_are_400_and_the_connection_is_closed(node: Node, head: bytes) -> None:
    answer = await exchange(node.port, head)
    assert status_of(answer) == 400
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert document["code"] == "bad-request"
    assert b"evil" not in answer
    assert answer.count(b"\r\nDate: ") == 1
    assert b"Connection: close" in answer
    assert node.backend.records == {}
    assert await healthy(node)


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/3.1"])
async def test_other_versions_of_http_are_refused(node: Node, version: bytes) -> None:
    answer = await exchange(node.port, b"GET /livez " + version + b"\r\n" + HOST + b"\r\n")
    assert status_of(answer) in (400, 505)
    assert answer.startswith(b"HTTP/1.1 ")


async def test_http_1_0_is_answered_and_closed(node: Node) -> None:
    answer = await exchange(node.port, b"GET /livez HTTP/1.0\r\n" + HOST + b"\r\n")
    assert status_of(answer) == 200


@pytest.mark.parametrize(
    ("request_bytes", "status", "limit"),
    [
        (b"GET /v1/kv/" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, 8_190),
        (b"PUT /v1/kv/" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, 8_190),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 9000 + b"\r\n\r\n", 431, 8_190),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 200 + b"\r\n", 431, 64),
        (b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 200 + b"\r\n", 431, 64),
    ],
)
async def test_too_long_heads_are_refused(node: Node, request_bytes: bytes, status: int, limit: int) -> None:
    answer = await exchange(node.port, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    document = json.loads(body)
    assert status_of(answer) == document["status"] == status
    assert (document["code"], document["limit"]) == ("too-large", limit)
    assert document["outcome"] == ("none" if request_bytes.startswith(b"GET") else "not-applied")
    assert (b"\r\nKV-Receipt: n=3, acks=0" in head) is (b" /v1/kv/" in request_bytes)
    assert await healthy(node)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (
            b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "two Content-Length",
        ),
        (b"GET /v1/kv/k HTTP/1.1\r\n\r\n", "Host header is missing"),
        (b"GET /v1/kv/k HTTP/1.1\r\n" + HOST + b"X-Nul: a\0b\r\n\r\n", "invalid header value char"),
        (b"GET /v1/kv/\xf0\x9f HTTP/1.1\r\n" + HOST + b"\r\n", "%C3%A9"),
        (b"GET /v1/kv/a b HTTP/1.1\r\n" + HOST + b"\r\n", "%20"),
        (b"GET http://evil.example:foo/ HTTP/1.1\r\n" + HOST + b"\r\n", "its path can't be parsed"),
        (b"\x16\x03\x01\x02\x00\x01", "HTTPS"),
        (b"noise\r\n\r\n", "does not begin with a method"),
    ],
)
async def test_what_is_no_request_is_told_why_and_so_is_the_log(
    node: Node, head: bytes, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await exchange(node.port, head)
    assert why in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]
    assert why in capsys.readouterr().out
    assert b"\nKV-Receipt: " in answer or b" /v1/kv/" not in head


@pytest.mark.parametrize(
    ("line", "status", "allow"),
    [
        (b"FOO /v1/kv/a", 405, b"GET, HEAD, PUT, DELETE"),
        (b"get /v1/kv/a?consistency=weak", 405, b"GET, HEAD, PUT, DELETE"),
        (b"GETX /v1/kv/a", 405, b"GET, HEAD, PUT, DELETE"),
        (b"FOO /v1/batch", 405, b"POST"),
        (b"FOO /livez", 405, b"GET, HEAD"),
        (b"FOO /nowhere", 404, b""),
    ],
)
async def test_a_method_that_nobody_knows_is_405(node: Node, line: bytes, status: int, allow: bytes) -> None:
    answer = await exchange(node.port, line + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert status_of(answer) == document["status"] == status
    assert document["code"] == ("method-not-allowed" if allow else "not-found")
    assert document["outcome"] == ("none" if line.startswith(b"GET ") else "not-applied")
    assert not allow or b"\r\nAllow: " + allow + b"\r\n" in answer
    assert (b"\r\nKV-Receipt: n=3" in answer) is (b"/v1/kv" in line or b"/v1/batch" in line)
    assert b"Connection: close" in answer


@pytest.mark.parametrize("method", [b"TRACE", b"PATCH", b"POST", b"OPTIONS", b"PROPFIND"])
async def test_other_methods_are_405_with_allow(node: Node, method: bytes) -> None:
    answer = await exchange(node.port, method + b" /v1/kv/k HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    assert status_of(answer) == 405
    assert b"\r\nAllow: GET, HEAD, PUT, DELETE\r\n" in answer
    assert b'\r\nKV-Receipt: n=3, acks=0, replicas="", coordinator="n1", epoch=4\r\n' in answer


async def test_connect_is_refused(node: Node) -> None:
    answer = await exchange(node.port, b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
    assert status_of(answer) in (400, 405)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Expect: 100-continue\r\nContent-Length: 10000000000\r\n", 413),
        (b"Expect: 200-ok\r\nContent-Length: 5\r\n", 417),
        (b"Expect: 100-continue\r\nContent-Length: 5\r\nIf-Match: nonsense\r\n", 400),
    ],
)
async def test_a_refused_expectation_gets_no_100(node: Node, headers: bytes, status: int) -> None:
    answer = await exchange(node.port, b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert status_of(answer) == status
    assert b"100 Continue" not in answer
    assert b"Connection: close" in answer


async def test_an_expectation_that_can_be_met_is(node: Node) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert await first_head(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    assert status_of(await first_head(reader)) == 200
    assert node.backend.records[b"k"].value == b"hello"
    writer.close()


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(node: Node) -> None:
    answer = await exchange(node.port, b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999\r\n\r\nabc")
    assert status_of(answer) == 413


async def test_a_slow_body_is_408(start: Start) -> None:
    node = await start(body_timeout_s=0.2)
    started = time.monotonic()
    answer = await exchange(node.port, b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nab")
    assert status_of(answer) == 408
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["outcome"] == "not-applied"
    assert time.monotonic() - started < 8
    assert node.backend.records == {}
    assert body_bytes(node) == 0


async def test_a_body_that_ends_early_is_not_written(node: Node) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(b"PUT /v1/kv/k HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nab")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await healthy(node)
    async with asyncio.timeout(10):
        while body_bytes(node):  # noqa: ASYNC110 - only the metrics tell
            await asyncio.sleep(0.01)
    assert node.backend.records == {}


async def test_pipelined_requests_are_answered_in_order(node: Node) -> None:
    put = b"PUT /v1/kv/k%d HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\n%d"
    last = b"GET /v1/kv/k3 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
    answer = await exchange(node.port, b"".join(put % (i, i) for i in range(5)) + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 6
    assert answer.endswith(b"\r\n\r\n3")
    assert [request.key for request in node.backend.seen[:5]] == [b"k%d" % i for i in range(5)]


async def test_a_refused_body_is_never_taken_for_the_next_request(node: Node) -> None:
    smuggled = b"PUT /v1/kv/smuggled HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx"
    head = b"PUT /v1/kv/%%zz HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n"
    answer = await exchange(node.port, head % (len(smuggled) + 10) + smuggled)
    assert status_of(answer) == 400
    assert answer.count(b"\r\nDate: ") == 1
    assert node.backend.records == {}


async def test_a_silent_connection_is_closed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_REQUEST_S", 0.1)
    assert await exchange(node.port, b"") == b""
    assert await exchange(node.port, b"GET /livez HTTP/1.1\r\nHost: 127") == b""


async def test_idle_connections_make_room(start: Start) -> None:
    node = await start(connections_max=4)
    idle = [await asyncio.open_connection("127.0.0.1", node.port) for _ in range(20)]
    async with asyncio.timeout(1):
        assert await healthy(node)
    for _, writer in idle:
        writer.close()


async def test_no_header_can_be_made_from_data(node: Node) -> None:
    await node.ask("PUT", "/v1/kv/a%0D%0AX-Evil:%20yes", data=b"v")
    raw = b"GET /v1/kv/a%0D%0AX-Evil:%20yes HTTP/1.1\r\n" + HOST + CLOSE + b"X-Request-Id: a\tb\r\n\r\n"
    head = (await exchange(node.port, raw)).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"Evil" not in head
    assert b"a\tb" not in head


def body_bytes(node: Node) -> float:
    return sample(node, "kvstore_body_bytes_in_flight")


def sample(node: Node, name: str) -> float:
    lines = node.metrics.exposition().decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(name)))
