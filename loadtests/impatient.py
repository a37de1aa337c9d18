"""Impatient clients: requests come at a fixed rate, however slowly they are answered, as those of strangers do.

A closed loop slows down with the server and so never asks for more than it gets; this one does. Each request takes an
idle connection or opens one. A client's patience is bounded: it hangs up on what is not answered in time. Latencies
count from the moment at which the request was due, so that a loop which falls behind does not flatter the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import cast

from loadtests.http_load import Addresses
from loadtests.latencies import Latencies
from loadtests.wire import HEAD_END, is_whole

PACE_S = 0.002
"""How often the requests that have become due are sent."""
SWEEP_S = 0.02
"""How often the patience of those who wait is looked at."""
CONNECTIONS_MAX = 12_000
"""Of this client; a request that finds none free counts as one that nobody answered."""

OPENED_TOGETHER = 100

Make = Callable[[int], bytes]
"""The bytes of the request of that number."""
OnEnd = Callable[[int, int], None]
"""Of each request its number and the status that it was answered with; 0 where it was not answered in time."""


@dataclass
class Tally:
    """What became of the requests of one run."""

    seconds: float
    offered: int = 0
    in_time: Latencies = field(default_factory=Latencies)
    """Of those answered 2xx within the patience, how long they took."""
    refused: Latencies = field(default_factory=Latencies)
    """The same of those answered 429 or 503 with Retry-After."""
    silent: int = 0
    """Not answered within the patience, or cut off."""
    unsent: int = 0
    """Those that found no connection."""
    other: dict[int, int] = field(default_factory=dict)
    """Other answers by status."""
    behind: Latencies = field(default_factory=Latencies)
    """How late this client itself was, each time that it sent some."""

    @property
    def goodput(self) -> float:
        """Requests answered 2xx in time, per second."""
        return len(self.in_time) / self.seconds


class _Connection(asyncio.Protocol):
    """One request at a time."""

    __slots__ = ("_buffer", "_load", "due_s", "host", "number", "transport")

    def __init__(self, load: Impatient, host: int) -> None:
        self._load, self.host, self._buffer = load, host, b""
        self.number = -1
        self.due_s = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, number: int, due_s: float, request: bytes) -> None:
        assert self.transport is not None
        self.number, self.due_s = number, due_s
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not is_whole(buffer):
            self._buffer = buffer
            return
        self._buffer = b""
        head = buffer[: buffer.find(HEAD_END)]
        self._load.answered(self, int(head[9:12]), b"Retry-After" in head, b"Connection: close" not in head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self)


class Impatient:
    """One run."""

    def __init__(
        self,
        addresses: Addresses,
        make: Make,
        *,
        rate: float,
        seconds: float,
        patience_s: float,
        connections_max: int = CONNECTIONS_MAX,
        on_end: OnEnd = lambda number, status: None,
    ) -> None:
        """rate: requests per second over all addresses, which take turns."""
        self._addresses, self._make, self._rate, self._patience_s = addresses, make, rate, patience_s
        self._connections_max, self._on_end = connections_max, on_end
        self._idle: list[list[_Connection]] = [[] for _ in addresses]
        self._turn = cycle(range(len(addresses)))
        self._waiting: dict[int, _Connection | None] = {}
        """By number, in the order in which they were due; None while its connection is being made."""
        self._due: dict[int, float] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._connections = 0
        self.tally = Tally(seconds)

    async def open(self, connections: int) -> None:
        """Opens so many connections before the clock runs: making them all at once would be a load of its own."""
        for first in range(0, connections, OPENED_TOGETHER):
            hosts = (next(self._turn) for _ in range(first, min(first + OPENED_TOGETHER, connections)))
            opening = [self._open(host) for host in hosts]
            self._connections += len(opening)
            await asyncio.gather(*opening)

    async def run(self) -> Tally:
        """Sends for so many seconds, and waits until each is answered or given up."""
        began_s, sent = time.perf_counter(), 0
        next_sweep_s = began_s
        total = int(self._rate * self.tally.seconds)
        while sent < total or self._waiting:
            now_s = time.perf_counter()
            due = min(int((now_s - began_s) * self._rate), total)
            for number in range(sent, due):
                self._begin(number, began_s + number / self._rate)
            if sent < due:
                self.tally.behind.add(now_s - began_s - sent / self._rate)
            sent = due
            if now_s >= next_sweep_s:
                next_sweep_s = now_s + SWEEP_S
                self._give_up_on(now_s - self._patience_s)
            await asyncio.sleep(PACE_S)
        for connection in (one for idle in self._idle for one in idle):
            if connection.transport is not None:
                connection.transport.abort()
        return self.tally

    def _begin(self, number: int, due_s: float) -> None:
        self.tally.offered += 1
        host = next(self._turn)
        idle = self._idle[host]
        while idle:
            connection = idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                self._waiting[number] = connection
                connection.send(number, due_s, self._make(number))
                return
        if self._connections >= self._connections_max:
            self.tally.unsent += 1
            self._on_end(number, 0)
            return
        self._connections += 1
        self._waiting[number], self._due[number] = None, due_s
        opening = asyncio.get_running_loop().create_task(self._open(host, number, due_s))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, host: int, number: int = -1, due_s: float = 0.0) -> None:
        connection = _Connection(self, host)
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, *self._addresses[host])
        except OSError:
            self._connections -= 1
            self._due.pop(number, None)
            if self._waiting.pop(number, 0) is None:
                self._silent(number)
            return
        if self._due.pop(number, None) is None:  # for later, or given up meanwhile
            self._idle[host].append(connection)
            return
        if number in self._waiting:
            self._waiting[number] = connection
        connection.send(number, due_s, self._make(number))

    def answered(self, connection: _Connection, status: int, may_retry: bool, stays: bool) -> None:
        """An answer came."""
        number, connection.number = connection.number, -1
        if self._waiting.pop(number, None) is not None:
            took_s = time.perf_counter() - connection.due_s
            tally = self.tally
            if took_s > self._patience_s:
                self._silent(number, status)
            else:
                if 200 <= status < 300:
                    tally.in_time.add(took_s)
                elif status in (429, 503) and may_retry:
                    tally.refused.add(took_s)
                else:
                    tally.other[status] = tally.other.get(status, 0) + 1
                self._on_end(number, status)
        if not stays and connection.transport is not None:
            connection.transport.close()
        else:
            self._idle[connection.host].append(connection)

    def lost(self, connection: _Connection) -> None:
        """The connection has ended, under a request or without one."""
        self._connections -= 1
        if connection.number >= 0 and self._waiting.pop(connection.number, None) is not None:
            self._silent(connection.number)

    def _give_up_on(self, due_before_s: float) -> None:
        while self._waiting:
            number, connection = next(iter(self._waiting.items()))
            due_s = self._due[number] if connection is None else connection.due_s
            if due_s > due_before_s:
                break
            del self._waiting[number]
            self._silent(number)
            if connection is None:
                del self._due[number]
            elif connection.transport is not None:
                connection.number = -1
                connection.transport.abort()

    def _silent(self, number: int, status: int = 0) -> None:
        self.tally.silent += 1
        self._on_end(number, status)
