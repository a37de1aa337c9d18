"""The open loop's process: plain sockets and one loop that sleeps to the microsecond.

asyncio's timers have a grain of a millisecond, as long as an answer takes; so this one waits with select(), for its
sockets (as one epoll) or for the next request's moment. Reads an Order as JSON on stdin. Says on stdout when it begins,
on the machine's monotonic clock, and last, what came of it.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from random import Random

import msgspec
from msgspec import Struct

from loadtests.cases.load.arrivals import OpenLoop
from loadtests.cases.load.work import Operation, random_requests
from loadtests.wire import is_good, is_whole

WARM_UP_S = 0.3
"""Between the connections' making and the first request."""
READ_BYTES = 1 << 16
PRIORITY = -10
"""Before the servers, where the system allows it: clients have machines of their own, and are not late for a server."""


class Order(Struct, frozen=True):
    """What to do."""

    side: str
    addresses: list[tuple[str, int]]
    operation: Operation
    rate: float
    seconds: float
    connections: int
    keys: int
    value_bytes: int
    patience_s: float
    """After the last request, for answers that are missing."""
    timeout_s: float | None = None
    """A client's patience with one request: its connection is closed then, and it counts as failed."""
    keeps_events: bool = False


class Event(Struct, frozen=True, array_like=True):
    """The end of one request."""

    intended_s: float
    ended_s: float
    home: int
    """The place, in the order's addresses, of the member whose client sent it."""
    is_good: bool


class Outcome(Struct, frozen=True):
    """What came of it."""

    requests: int
    seconds: float
    """From the first intended moment to the last answer."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    wrong: int
    unanswered: int
    late_p99_ms: float
    """How late the generator noticed that requests were due: its own fault."""
    late_max_ms: float
    client_cores: float
    events: list[Event] = []


class _Connection:
    """One connection with one request at a time. When it breaks, it goes on with the next member."""

    def __init__(self, addresses: list[tuple[str, int]], home: int) -> None:
        self._addresses = addresses
        self.home = home
        self._at = home
        self.intended_s: float | None = None
        self.sent_s = 0.0
        self._buffer = b""
        self.connect()

    def connect(self) -> None:
        """To its own member, or to the next that answers. Raises OSError where none does."""
        for attempt in range(len(self._addresses)):
            try:
                self.socket = socket.create_connection(self._addresses[self._at], timeout=1.0)
                break
            except OSError:
                self._at = (self._at + 1) % len(self._addresses)
                if attempt == len(self._addresses) - 1:
                    raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._buffer = b""

    def send(self, request: bytes, intended_s: float, now_s: float) -> None:
        """A request of these sizes fits into the kernel's buffer of an idle connection."""
        self.intended_s, self.sent_s = intended_s, now_s
        with suppress(OSError):  # it is broken: read() will find that, too
            sent = self.socket.send(request)
            if sent < len(request):
                raise RuntimeError("the request is larger than the kernel takes at once")

    def read(self) -> bytes | None:
        """The answer when it is whole, None before, b"" when the connection broke."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if not data:
            return b""
        self._buffer += data
        if not is_whole(self._buffer):
            return None
        answer, self._buffer = self._buffer, b""
        return answer


class _Generator:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._random = Random(1)
        self._make: Callable[[], bytes] = random_requests(order.side, order.operation, order.keys, order.value_bytes)
        self._poll = select.epoll()
        self._by_number: dict[int, _Connection] = {}
        self._free: list[_Connection] = []
        self._sent: deque[tuple[float, _Connection]] = deque()
        """In the order of sending, with the second; those that are answered meanwhile stay until their turn."""
        self._events: list[Event] = []
        places = len(order.addresses)
        for number in range(order.connections):
            connection = _Connection(order.addresses, number % places)
            self._register(connection)
            self._free.append(connection)

    def run(self) -> Outcome:
        """Until the last answer, or the end of patience."""
        order, start_s = self._order, time.monotonic() + WARM_UP_S
        print(start_s, flush=True)
        time.sleep(WARM_UP_S / 2)
        self._loop = loop = OpenLoop(order.rate, order.seconds, start_s)
        end_s, used_s = start_s + order.seconds + order.patience_s, time.process_time()
        while not loop.is_over and (now_s := time.monotonic()) < end_s:
            loop.notice(now_s)
            self._send(now_s)
            self._lose_patience(now_s)
            if loop.is_over:
                break  # nobody is left to be heard
            wakes_s = min(at_s for at_s in (end_s, loop.next_s, self._first_timeout_s()) if at_s is not None)
            select.select([self._poll], [], [], max(0.0, wakes_s - time.monotonic()))
            for number, _ in self._poll.poll(0):
                self._hear(self._by_number[number])
        ended_s = time.monotonic()
        busy = {one.intended_s: one.home for one in self._by_number.values() if one.intended_s is not None}
        for intended_s in loop.give_up(list(busy), ended_s):
            self._keep(intended_s, ended_s, busy.get(intended_s, 0), False)
        lasted_s = ended_s - start_s
        return Outcome(
            requests=len(loop.latencies),
            seconds=lasted_s,
            p50_ms=loop.latencies.percentile_ms(0.5),
            p99_ms=loop.latencies.percentile_ms(0.99),
            p999_ms=loop.latencies.percentile_ms(0.999),
            max_ms=loop.latencies.percentile_ms(1.0),
            wrong=loop.wrong,
            unanswered=loop.unanswered,
            late_p99_ms=loop.lateness.percentile_ms(0.99),
            late_max_ms=loop.lateness.percentile_ms(1.0),
            client_cores=(time.process_time() - used_s) / lasted_s,
            events=self._events,
        )

    def _send(self, now_s: float) -> None:
        while self._free and (intended_s := self._loop.take()) is not None:
            connection = self._a_free_one()
            connection.send(self._make(), intended_s, now_s)
            if self._order.timeout_s is not None:
                self._sent.append((now_s, connection))

    def _a_free_one(self) -> _Connection:
        """By chance: in turn, those that a death brought together would stay together, as if they were one client."""
        place = self._random.randrange(len(self._free))
        self._free[place], self._free[-1] = self._free[-1], self._free[place]
        return self._free.pop()

    def _first_timeout_s(self) -> float | None:
        timeout_s = self._order.timeout_s
        return None if timeout_s is None or not self._sent else self._sent[0][0] + timeout_s

    def _lose_patience(self, now_s: float) -> None:
        timeout_s = self._order.timeout_s
        while timeout_s is not None and self._sent and self._sent[0][0] + timeout_s <= now_s:
            sent_s, connection = self._sent.popleft()
            if connection.intended_s is not None and connection.sent_s == sent_s:
                self._end(connection, now_s, False)
                self._renew(connection)

    def _hear(self, connection: _Connection) -> None:
        answer = connection.read()
        if answer is None:
            return
        if connection.intended_s is not None:
            self._end(connection, time.monotonic(), is_good(answer))
        if not answer:
            self._renew(connection)

    def _end(self, connection: _Connection, now_s: float, good: bool) -> None:
        intended_s, connection.intended_s = connection.intended_s, None
        assert intended_s is not None, "it had a request under way"
        self._loop.answered(intended_s, now_s, good)
        self._keep(intended_s, now_s, connection.home, good)
        self._free.append(connection)

    def _renew(self, connection: _Connection) -> None:
        number = connection.socket.fileno()
        self._poll.unregister(number)
        del self._by_number[number]
        connection.socket.close()
        connection.connect()
        self._register(connection)

    def _register(self, connection: _Connection) -> None:
        self._by_number[connection.socket.fileno()] = connection
        self._poll.register(connection.socket.fileno(), select.EPOLLIN)

    def _keep(self, intended_s: float, ended_s: float, home: int, good: bool) -> None:
        if self._order.keeps_events:
            self._events.append(Event(intended_s, ended_s, home, good))


def main() -> None:
    """One order, one outcome."""
    with suppress(OSError):
        os.nice(PRIORITY)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    outcome = _Generator(order).run()
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")


if __name__ == "__main__":
    main()
