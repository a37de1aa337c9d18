"""A lean HTTP client for measuring: raw keep-alive connections, one request at a time on each.

Built on asyncio protocols, not on a client library, so that on a small machine the client leaves the processor to the
servers. Latencies are closed-loop: a slow answer delays the next request of its connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import cast

import uvloop

from loadtests.latencies import Latencies
from loadtests.wire import is_good, is_whole

Addresses = list[tuple[str, int]]


@dataclass
class Result:
    """What one load came to."""

    seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    wrong: int = 0
    """Answers outside 2xx."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


class Connection(asyncio.Protocol):
    """Sends the next request when the last one is answered, until the time is up."""

    def __init__(self, make: Callable[[], bytes], until_s: float, result: Result, done: asyncio.Future[None]) -> None:
        self._make, self._until_s, self._result, self._done = make, until_s, result, done
        self._buffer = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing
        self._next()

    def data_received(self, data: bytes) -> None:
        """One answer at most is on its way."""
        self._buffer += data
        if not is_whole(self._buffer):
            return
        self._result.latencies.add(time.perf_counter() - self._sent_s)
        self._result.wrong += not is_good(self._buffer)
        self._buffer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server went away: the result shows it by what is missing."""
        if not self._done.done():
            self._result.wrong += 1
            self._done.set_result(None)

    def _next(self) -> None:
        self._sent_s = time.perf_counter()
        if self._sent_s < self._until_s:
            self._transport.write(self._make())
        elif not self._done.done():
            self._done.set_result(None)
            self._transport.close()


async def _load(
    addresses: list[tuple[str, int]], make: Callable[[], bytes], connections: int, seconds: float
) -> Result:
    loop, result = asyncio.get_running_loop(), Result(seconds=seconds)
    until_s = time.perf_counter() + seconds
    waiting = []
    for i in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        waiting.append(done)
        host, port = addresses[i % len(addresses)]
        await loop.create_connection(lambda done=done: Connection(make, until_s, result, done), host, port)
    await asyncio.wait(waiting, timeout=seconds + 30)
    return result


def load(addresses: Addresses, make: Callable[[], bytes], connections: int, seconds: float) -> Result:
    """Sends what make() gives over so many connections, spread over the addresses, for so long."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_load(addresses, make, connections, seconds))


def puts(query: str, keys: int, value_bytes: int) -> Callable[[], bytes]:
    """PUTs of that many bytes to random keys."""
    random, value = Random(1), b"x" * value_bytes
    tail = f" HTTP/1.1\r\nHost: localhost\r\nContent-Length: {value_bytes}\r\n\r\n".encode() + value
    return lambda: b"PUT /v1/kv/key%09d?%s" % (random.randrange(keys), query.encode()) + tail


def gets(query: str, keys: int) -> Callable[[], bytes]:
    """GETs of random keys."""
    random = Random(2)
    tail = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return lambda: b"GET /v1/kv/key%09d?%s" % (random.randrange(keys), query.encode()) + tail


def fill(addresses: Addresses, keys: int, value_bytes: int, connections: int) -> None:
    """Writes every key once, at least."""
    count, value = iter(range(10**9)), b"x" * value_bytes
    tail = f" HTTP/1.1\r\nHost: localhost\r\nContent-Length: {value_bytes}\r\n\r\n".encode() + value
    filled = 0
    while filled < keys:
        result = load(addresses, lambda: b"PUT /v1/kv/key%09d" % (next(count) % keys) + tail, connections, 1.0)
        filled += len(result.latencies)
