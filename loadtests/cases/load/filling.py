"""Fills keys in order, a hundred in a request, and knows of each that it is written.

The requests are as those of the batch's case; a program of ours sends them, not wrk, because every key must be there in
the end and none may be written twice. What is refused is sent again, and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import uvloop

from loadtests.cases.load.work import PREFIX, batch_of, puts_done
from loadtests.http_load import Addresses
from loadtests.latencies import Latencies
from loadtests.wire import is_good, is_whole

EACH = 100
REQUEST_BYTES_MAX = 512 << 10
"""Of values in one request: etcd takes 1.5 MiB with its base64 and all."""
CONNECTIONS = 16
TRIES_MAX = 50
AGAIN_AFTER_S = 0.1
READ_BYTES = 1 << 18
APART_S_MIN = 0.5
"""Of two points of a curve: batches come in bursts, so a shorter time shows those and no rate."""


class NotFilled(Exception):
    """A key could not be written; the last answer stands in the message."""


@dataclass
class Filled:
    """How it went."""

    seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    """Of whole requests."""
    refused: int = 0
    """Requests that had to be sent again."""
    points: list[tuple[float, int]] = field(default_factory=list)
    """(seconds since the start, keys written)."""


def fill(
    side: str,
    addresses: Addresses,
    first: int,
    end: int,
    value_bytes: int,
    tell: Callable[[int], None] = lambda _: None,
    prefix: str = PREFIX,
    query: str = "",
) -> Filled:
    """Writes the keys first to end - 1, spread over the addresses. Raises NotFilled, OSError.

    tell: called with the number of keys just written. query: of kvstore's batches.
    """

    def batch(start: int, count: int) -> bytes:
        return batch_of(side, "put", start, count, value_bytes, prefix, query)

    each = max(1, min(EACH, REQUEST_BYTES_MAX // value_bytes))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_fill(side, addresses, range(first, end, each), end, batch, tell))
    except ExceptionGroup as errors:  # of the connections, which fail alike
        raise errors.exceptions[0] from errors


async def _fill(
    side: str,
    addresses: Addresses,
    all_starts: range,
    end: int,
    batch: Callable[[int, int], bytes],
    tell: Callable[[int], None],
) -> Filled:
    filled, began_s, written = Filled(), time.perf_counter(), 0
    starts = iter(all_starts)

    async def work(number: int, starts: Iterator[int]) -> None:
        nonlocal written
        host, port = addresses[number % len(addresses)]
        reader, writer = await asyncio.open_connection(host, port, limit=READ_BYTES)
        for start in starts:  # shared: each takes the next
            count = min(all_starts.step, end - start)
            await _write(side, reader, writer, batch(start, count), count, filled)
            written += count
            filled.points.append((time.perf_counter() - began_s, written))
            tell(count)
        writer.close()

    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(work(number, starts))
    filled.seconds = time.perf_counter() - began_s
    return filled


async def _write(
    side: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, count: int, filled: Filled
) -> None:
    answer = b""
    for _ in range(TRIES_MAX):
        sent_s, answer = time.perf_counter(), b""
        writer.write(request)
        while not is_whole(answer):
            data = await reader.read(READ_BYTES)
            if not data:
                raise NotFilled(f"{side} closed the connection in the middle of an answer: {answer[:300]!r}")
            answer += data
        filled.latencies.add(time.perf_counter() - sent_s)
        if is_good(answer) and puts_done(side, answer) == count:
            return
        filled.refused += 1
        await asyncio.sleep(AGAIN_AFTER_S)
    raise NotFilled(f"{side} refused a batch {TRIES_MAX} times, last with {answer[:600]!r}")


def thinned(points: list[tuple[float, int]], count: int) -> list[tuple[float, int]]:
    """About so many of them, evenly spread in time, the last among them: what lies between two is a rate."""
    if not points:
        return []
    apart_s = max(APART_S_MIN, points[-1][0] / count)
    kept: list[tuple[float, int]] = []
    for point in points:
        if point[0] - (kept[-1][0] if kept else 0.0) >= apart_s:
            kept.append(point)
    if kept and points[-1][0] - kept[-1][0] < apart_s / 2:
        kept.pop()  # so that no rate is that of a moment
    return kept if kept and kept[-1] == points[-1] else [*kept, points[-1]]
