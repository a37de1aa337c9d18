"""Heads that were here before: what their bytes mean is remembered, and nothing else is taken for them."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from aiohttp import HttpVersion11
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage

from kvstore.http import known_heads
from kvstore.http.known_heads import HEAD_BYTES_MAX, HEADS_MAX, LOST, KnownHeads, left_of_body
from tests.kvstore.http.conftest import Node
from tests.kvstore.http.test_straight import VERSION, answer_of, ask, connect, put, store

BOTH_LOOPS = True
HOST = b"Host: localhost\r\n"


async def parsed(data: bytes) -> list[RawRequestMessage]:
    """What aiohttp's parser finds in the bytes."""

    class Protocol(asyncio.Protocol):
        _reading_paused = False

        def resume_reading(self, resume_parser: bool = True) -> None: ...
        def pause_reading(self) -> None: ...

    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(Protocol(), loop, 2**16)  # type: ignore[arg-type]
    return [message for message, _ in parser.feed_data(data)[0]]


async def learned(data: bytes) -> KnownHeads:
    heads = KnownHeads()
    heads.learn(data, (await parsed(data))[0])
    return heads


async def test_the_same_head_again_is_known_whatever_the_key_and_the_body() -> None:
    heads = await learned(put(b"k", b"value", b"Content-Type: text/plain\r\n"))
    found = heads.request(put(b"other%20key?consistency=weak", b"VALUE", b"Content-Type: text/plain\r\n"))
    assert found is not None
    head, body = found.taken_apart()
    assert (head.method, head.raw_path) == ("PUT", "/v1/kv/other%20key?consistency=weak")
    assert head.version == HttpVersion11
    assert head.keep_alive
    assert head.headers["content-type"] == "text/plain"
    assert body.read_nowait() == b"VALUE"


@pytest.mark.parametrize(
    "data",
    [
        put(b"k", b"longer"),
        put(b"k", b"value") + b"G",
        put(b"k", b"value")[:-1],
        put(b"k", b"value") * 2,
        put(b"k", b"value", b"X-More: 1\r\n"),
        put(b"k", b"value").replace(b"localhost", b"elsewhere"),
        put(b"k#k", b"value"),
        put(b"k k", b"value"),
        put(b"k\xff", b"value"),
        put(b"", b"value"),
        put(b"k", b"value").replace(b"HTTP/1.1", b"HTTP/1.0"),
        put(b"k", b"value").replace(b"PUT", b"POST"),
        put(b"k", b"value").replace(b"PUT", b"put"),
        put(b"k", b"value").replace(b"/v1/kv/", b"/v1/locks/"),
        b"\r\n" + put(b"k", b"value"),
        put(b"k", b"value").replace(b"\r\n", b"\n"),
        b"",
        b"\r\n\r\n",
    ],
)
async def test_all_else_is_the_parsers(data: bytes) -> None:
    assert (await learned(put(b"k", b"value"))).request(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/kv/k" + VERSION + b"Connection: close\r\n\r\n",
        b"GET /v1/kv/k HTTP/1.0\r\n" + HOST + b"\r\n",
        b"PUT /v1/kv/k" + VERSION + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/kv/k" + VERSION + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /v1/kv/k" + VERSION + b"X-Long: " + b"x" * HEAD_BYTES_MAX + b"\r\n\r\n",
    ],
)
async def test_what_says_more_than_its_headers_is_not_remembered(data: bytes) -> None:
    assert (await learned(data)).request(data) is None


async def test_no_more_is_remembered_than_there_is_room_for() -> None:
    heads = KnownHeads()
    for number in range(3 * HEADS_MAX):
        data = put(b"k", b"value", b"X-Number: %d\r\n" % number)
        heads.learn(data, (await parsed(data))[0])
        assert heads.request(data) is not None
        assert len(heads._known) <= HEADS_MAX


@pytest.mark.parametrize(
    ("pieces", "left"),
    [
        ([put(b"k", b"value")], [0]),
        ([put(b"k", b"value")[:-2], b"u", b"e"], [2, 1, 0]),
        ([put(b"k", b"value")[:-2], b"ueG"], [2, LOST]),
        ([put(b"k", b"value") + b"GET"], [LOST]),
        ([put(b"k", b"value"), b"GET /v1/kv/k" + VERSION + b"\r\n"], [0, 0]),
        ([b"GET /livez" + VERSION], [LOST]),
        ([b"\r\nGET /livez" + VERSION + b"\r\n"], [LOST]),
        ([b"GET /livez" + VERSION + b"Connection: close\r\n\r\n"], [LOST]),
        ([b"PUT /v1/kv/k" + VERSION + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], [LOST]),
        ([b"GET /livez HTTP/1.0\r\n\r\n"], [LOST]),
    ],
)
async def test_where_the_next_request_begins(pieces: list[bytes], left: list[int]) -> None:
    now, seen = 0, []
    for piece in pieces:
        now = left_of_body(piece, now, [] if now > 0 else await parsed(piece))
        seen.append(now)
    assert seen == left


async def test_requests_with_a_known_head_are_answered_without_the_parser(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = 0
    request = KnownHeads.request

    def counted(self: KnownHeads, data: bytes):  # type: ignore[no-untyped-def]
        nonlocal known
        found = request(self, data)
        known += found is not None
        return found

    monkeypatch.setattr(known_heads.KnownHeads, "request", counted)
    stream, other = await connect(node), await connect(node)
    for number in range(10):
        assert (await ask(stream, put(b"k%d" % number, b"%d" % number)))[0] == 200
        assert (await ask(other, b"GET /v1/kv/k%d" % number + VERSION + b"\r\n"))[2] == b"%d" % number
    assert known == 18, "all but the first of each kind"


async def test_what_is_remembered_of_headers_is_remembered_by_query(node: Node) -> None:
    store(node, b"k", b"1")
    stream = await connect(node)
    for _ in range(3):
        assert (await ask(stream, put(b"k", b"v", b"If-None-Match: *\r\n")))[0] == 412
        assert (await ask(stream, put(b"k?consistency=weak", b"v", b"If-None-Match: *\r\n")))[0] == 400
        assert (await ask(stream, put(b"k?unheard=of", b"v", b"If-None-Match: *\r\n")))[0] == 400
        assert (await ask(stream, put(b"new?ttl=10s", b"v")))[0] == 200
        assert node.backend.records[b"new"].expires_at_ms > 0
        assert (await ask(stream, put(b"new", b"v")))[0] == 200
        assert node.backend.records[b"new"].expires_at_ms == 0


@pytest.mark.parametrize("seed", range(12))
async def test_however_the_bytes_are_cut_each_request_has_its_answer(node: Node, seed: int) -> None:
    """Pipelined, in pieces, whole: what is told is what was asked, in order."""
    random = Random(seed)
    stream = await connect(node)
    number = 0
    for _ in range(40):
        burst: list[tuple[bytes, int, bytes | None]] = []
        for _ in range(random.choice([1, 1, 1, 1, 2, 4])):
            number += 1
            value = b"%d" % number * random.choice([1, 1, 1, 900, 30_000])
            more = random.choice([b"", b"", b"X-More: yes\r\n"])
            burst.append((put(b"k%d" % number, value, more), 200, None))
            if random.random() < 0.3:
                chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(value), value)
                chunked = b"PUT /v1/kv/k%d" % number + VERSION + b"Transfer-Encoding: chunked\r\n\r\n" + chunk
                burst.append((chunked, 200, None))
            if random.random() < 0.5:
                burst.append((b"GET /v1/kv/k%d" % number + VERSION + b"\r\n", 200, value))
            if random.random() < 0.2:
                burst.append((b"GET /v1/kv/%zz" + VERSION + b"\r\n", 400, None))
        data = b"".join(request for request, _, _ in burst)
        cuts = sorted(random.randrange(len(data)) for _ in range(random.choice([0, 0, 1, 3])))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            stream[1].write(data[start:end])
            await stream[1].drain()
            if random.random() < 0.5:
                await asyncio.sleep(0)
        for _, status, value in burst:
            told, _, body = await answer_of(stream)
            assert told == status
            assert value is None or body == value
