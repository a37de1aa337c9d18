"""The open loop against a server whose answers are known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from loadtests.http_load import Addresses
from loadtests.impatient import Impatient

ANSWERS = {
    b"/ok": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"/later": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    b"/never": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    b"/close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
}


@pytest.fixture
async def addresses() -> AsyncIterator[Addresses]:
    """Two servers: /silent is never answered, /cut ends the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ")[1]
                if path == b"/cut":
                    break
                if path in ANSWERS:
                    writer.write(ANSWERS[path])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for _ in range(2)]
    yield [("127.0.0.1", server.sockets[0].getsockname()[1]) for server in servers]
    for server in servers:
        server.close()


async def run(
    addresses: Addresses, *paths: str, patience_s: float = 30.0, **limits: int
) -> tuple[Impatient, list[int]]:
    """A hundred requests for these paths in turn, and what each came to."""
    told: dict[int, int] = {}

    def make(number: int) -> bytes:
        return f"GET {paths[number % len(paths)]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    load = Impatient(
        addresses, make, rate=2_000, seconds=0.05, patience_s=patience_s, on_end=told.__setitem__, **limits
    )
    await load.open(4)
    await load.run()
    return load, [told[number] for number in sorted(told)]


async def test_each_request_is_counted_once_for_what_it_came_to(addresses: Addresses) -> None:
    load, told = await run(addresses, "/ok", "/later", "/never", "/close", "/cut")
    tally = load.tally
    assert told == [200, 503, 503, 200, 0] * 20
    assert (tally.offered, len(tally.in_time), len(tally.refused), tally.other) == (100, 40, 20, {503: 20})
    assert (tally.silent, tally.unsent) == (20, 0)
    assert tally.goodput == 800


async def test_who_is_not_answered_hangs_up(addresses: Addresses) -> None:
    load, told = await run(addresses, "/ok", "/silent", patience_s=1.0)
    assert told == [200, 0] * 50
    assert (len(load.tally.in_time), load.tally.silent) == (50, 50)


async def test_what_finds_no_connection_is_not_sent(addresses: Addresses) -> None:
    load, told = await run(addresses, "/silent", patience_s=1.0, connections_max=10)
    assert (load.tally.unsent, load.tally.silent) == (90, 10)
    assert told == [0] * 100


async def test_a_server_that_is_not_there_is_silent(unused_tcp_port: int) -> None:
    load, told = await run([("127.0.0.1", unused_tcp_port)], "/ok")
    assert (load.tally.silent, told) == (100, [0] * 100)
