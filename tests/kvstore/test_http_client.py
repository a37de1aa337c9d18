"""The small client against sockets that misbehave: what was sent twice, what was not, and what it says it knows."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kvstore import http_client
from kvstore.client_errors import AnswerLost, NoNodeReachable, Problem
from kvstore.http_client import HttpClient, parse_endpoint
from kvstore.paths import key_path

NOBODY = "http://127.0.0.1:1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class ScriptedNode:
    """Answers request after request from a script; None hangs up instead."""

    def __init__(self, script: list[bytes | None]) -> None:
        self._script = script
        self.requests: list[str] = []
        """The request lines that arrived."""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").splitlines()
                lengths = [line.split(":")[1] for line in lines if line.lower().startswith("content-length:")]
                await reader.readexactly(int(lengths[0]) if lengths else 0)
                self.requests.append(lines[0])
                answer = self._script.pop(0)
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client, or the test, is done
        finally:
            writer.close()


@asynccontextmanager
async def scripted(*script: bytes | None) -> AsyncIterator[ScriptedNode]:
    node = ScriptedNode(list(script))
    server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
    async with server:
        node.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield node
        server.close()


def problem(status: int, body: str) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nKV-Receipt: n=3\r\n\r\n{body}".encode()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_write_whose_connection_broke_is_never_sent_again(method: str) -> None:
    async with scripted(OK, None, OK) as first, scripted(OK) as second, HttpClient([first.url, second.url]) as client:
        await client.request("GET", "/warm")  # so that the connection that breaks is a kept-alive one
        with pytest.raises(AnswerLost, match="may be applied"):
            await client.request(method, "/v1/kv/k", body=b"v")
        assert [len(first.requests), len(second.requests)] == [2, 0]


async def test_a_read_and_a_harmless_write_go_on_to_the_next_node() -> None:
    async with scripted(None, None) as first, scripted(OK, OK) as second:
        async with HttpClient([first.url, second.url]) as client:
            assert (await client.request("GET", "/v1/kv/k")).endpoint == second.url
        async with HttpClient([first.url, second.url]) as client:
            answer = await client.request("PUT", "/v1/kv/k", body=b"v", idempotent=True)
            assert (answer.endpoint, answer.body) == (second.url, b"ok")


async def test_a_node_that_can_not_be_reached_is_passed_over_for_writes_and_remembered() -> None:
    async with scripted(OK, OK) as node, HttpClient([NOBODY, node.url]) as client:
        for _ in range(2):
            assert (await client.request("PUT", "/v1/kv/k", body=b"v")).endpoint == node.url


async def test_when_nothing_was_sent_anywhere_it_says_so() -> None:
    async with HttpClient([NOBODY, NOBODY]) as client:
        with pytest.raises(NoNodeReachable, match="nothing was applied"):
            await client.request("PUT", "/v1/kv/k", body=b"v")


async def test_a_harmless_write_that_was_lost_once_stays_unknown_when_nobody_else_answers() -> None:
    async with scripted(None) as node, HttpClient([node.url, NOBODY]) as client:
        with pytest.raises(AnswerLost):
            await client.request("PUT", "/v1/kv/k", body=b"v", idempotent=True)


async def test_silence_is_an_answer_lost() -> None:
    async with scripted(b"") as node, HttpClient([node.url]) as client:
        with pytest.raises(AnswerLost, match=r"no answer within 0\.2 s"):
            await client.request("PUT", "/v1/kv/k", body=b"v", timeout_s=0.2)


async def test_a_read_goes_on_to_the_next_node_when_one_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "SILENCE_S", 0.1)
    async with scripted(b"", b"") as silent, scripted(OK, OK) as other, HttpClient([silent.url, other.url]) as client:
        began = time.monotonic()
        for _ in range(2):
            assert (await client.request("GET", "/v1/kv/k")).endpoint == other.url
        assert time.monotonic() - began < http_client.ANSWER_TIMEOUT_S / 2
        assert len(silent.requests) == 1, "it was passed over by the second request"


async def test_who_was_silent_may_still_be_the_first_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "SILENCE_S", 0.05)
    is_second_asked = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await is_second_asked.wait()
        writer.write(OK)
        await writer.drain()
        writer.close()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_second_asked.set()
        await reader.read()
        writer.close()

    servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for serve in (slow, silent)]
    urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    async with servers[0], servers[1], HttpClient(urls) as client:
        assert (await client.request("GET", "/v1/kv/k")).endpoint == urls[0]


async def test_one_time_holds_for_all_nodes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "SILENCE_S", 0.1)
    async with scripted(b"") as first, scripted(b"") as second, HttpClient([first.url, second.url]) as client:
        began = time.monotonic()
        with pytest.raises(NoNodeReachable, match="no answer within"):
            await client.request("GET", "/v1/kv/k", timeout_s=0.5)
        assert 0.4 < time.monotonic() - began < 2
        assert [len(first.requests), len(second.requests)] == [1, 1]


async def test_a_write_waits_for_a_silent_node_and_is_sent_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "SILENCE_S", 0.1)
    async with scripted(b"") as silent, scripted(OK) as other, HttpClient([silent.url, other.url]) as client:
        with pytest.raises(AnswerLost):
            await client.request("PUT", "/v1/kv/k", body=b"v", timeout_s=0.5)
        assert [len(silent.requests), len(other.requests)] == [1, 0]


async def test_a_name_that_nobody_knows_is_said_in_words() -> None:
    async with HttpClient(["http://no-such-host.invalid:1"]) as client:
        with pytest.raises(NoNodeReachable, match=r"no address is known for the name 'no-such-host\.invalid'"):
            await client.request("GET", "/livez")


async def test_a_problem_carries_all_that_the_node_said() -> None:
    body = '{"code": "quorum-unavailable", "outcome": "not-applied", "detail": "too few", "needed": 2, "got": 1}'
    async with scripted(problem(503, body)) as node, HttpClient([node.url]) as client:
        with pytest.raises(Problem) as caught:
            await client.request("PUT", "/v1/kv/k", body=b"v")
    told = caught.value
    assert (told.status, told.code, told.outcome, told.fields["got"]) == (503, "quorum-unavailable", "not-applied", 1)
    assert told.headers["kv-receipt"] == "n=3"


@pytest.mark.parametrize("body", ["", "<html>", "[1]", '{"code": 7}'])
async def test_an_error_that_is_no_problem_object_is_still_one(body: str) -> None:
    async with scripted(problem(502, body)) as node, HttpClient([node.url]) as client:
        with pytest.raises(Problem) as caught:
            await client.request("GET", "/v1/kv/k")
    assert caught.value.status == 502


async def test_a_node_short_of_replicas_is_not_asked_first_again() -> None:
    async with (
        scripted(problem(503, "{}")) as cut_off,
        scripted(OK) as other,
        HttpClient([cut_off.url, other.url]) as client,
    ):
        with pytest.raises(Problem):
            await client.request("GET", "/v1/kv/k")
        assert (await client.request("GET", "/v1/kv/k")).endpoint == other.url


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("a/../b//", "GET /v1/kv/a/../b// HTTP/1.1"),
        ("a%2Fb+c d?e#f", "GET /v1/kv/a%252Fb%2Bc%20d%3Fe%23f HTTP/1.1"),
        ("🦆", "GET /v1/kv/%F0%9F%A6%86 HTTP/1.1"),
        (b"\xff", "GET /v1/kv/%FF HTTP/1.1"),
        ("..", "GET /v1/kv/.. HTTP/1.1"),
    ],
)
async def test_keys_are_sent_as_they_are(key: str | bytes, line: str) -> None:
    async with scripted(OK) as node, HttpClient([node.url]) as client:
        await client.request("GET", key_path(key))
        assert node.requests == [line]


async def test_queries_are_escaped() -> None:
    async with scripted(OK) as node, HttpClient([node.url]) as client:
        await client.request("GET", "/v1/kv", query={"prefix": "a b+c é"})
        assert node.requests == ["GET /v1/kv?prefix=a%20b%2Bc%20%C3%A9 HTTP/1.1"]


async def test_each_node_is_told_what_is_left_and_only_those_named_are_asked() -> None:
    async with scripted(OK) as first, scripted(OK) as second, HttpClient([first.url, second.url, NOBODY]) as client:
        answer = await client.request(
            "PUT",
            "/v1/kv/k",
            query={"w": "2"},
            query_of_left=lambda left_s: {"timeout": f"{left_s:.0f}s"},
            only=[NOBODY, second.url],
            timeout_s=3,
        )
        assert answer.endpoint == second.url
        assert (first.requests, second.requests) == ([], ["PUT /v1/kv/k?w=2&timeout=3s HTTP/1.1"])


def test_a_machine_that_vanished_is_noticed() -> None:
    address = socket.getaddrinfo("127.0.0.1", 1, type=socket.SOCK_STREAM)[0]
    with http_client.kept_alive_socket(address) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == http_client.KEEP_ALIVE["TCP_KEEPIDLE"]


@pytest.mark.parametrize("text", ["", "ftp://x", "http://", "http://h/path", "http://h:x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is yarl's in some cases
        parse_endpoint(text)


def test_addresses_may_leave_out_the_scheme() -> None:
    assert parse_endpoint(" 127.0.0.1:7001/ ") == "http://127.0.0.1:7001"
    assert parse_endpoint("https://db.example:7001") == "https://db.example:7001"
