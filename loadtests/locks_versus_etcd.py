"""`make bench-locks`: locks of kvstore and of etcd, side by side on this machine in one run.

    uncontended    clients with a lock each: acquire and release, again and again; pairs a second
    contended      clients that all want one lock: each waits for it, and gives it on at once; handovers a second

Both get the same work over plain HTTP/1.1 from the same client, whose connections are spread over three members, and
rounds alternate, so that a drift of the machine's speed meets both. etcd's lock is that of its JSON gateway
(/v3/lock), under a lease that each client takes once; ours has a lease with each grant. Both write to disk before they
answer. Needs etcd (Debian: etcd-server); without it only our own figures are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import shutil
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.cases.sides.etcd import Etcd
from loadtests.cases.sides.side import addresses
from loadtests.http_load import HEAD_END, Addresses
from loadtests.side_by_side import cluster

TTL_S = 30


class Connection:
    """One kept connection, and one request at a time on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, method: str, path: str, body: bytes = b"", more: str = "") -> dict[str, Any]:
        """The answer's JSON. Raises RuntimeError for a status that is not 2xx."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(HEAD_END)
        length = answer.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        content = await self._reader.readexactly(int(length))
        if answer[9:10] != b"2":
            raise RuntimeError(f"{answer[9:12].decode()}: {content[:200]!r}")
        found: dict[str, Any] = json.loads(content)
        return found

    def close(self) -> None:
        self._writer.close()


class Locker(Protocol):
    """A client of one of the two."""

    async def begin(self, connection: Connection) -> None:
        """What it needs once."""
        ...

    async def acquire(self, lock: str) -> None: ...

    async def release(self) -> None: ...


class OurLocker:
    """kvstore's API."""

    async def begin(self, connection: Connection) -> None:
        self._connection = connection

    async def acquire(self, lock: str) -> None:
        self._path = f"/v1/locks/{lock}"
        wish = b'{"owner":"bench","ttl":"%ds","wait":"60s"}' % TTL_S
        self._token = (await self._connection.ask("POST", self._path, wish))["token"]

    async def release(self) -> None:
        await self._connection.ask("DELETE", self._path, more=f"KV-Lock-Token: {self._token}\r\n")


class EtcdLocker:
    """etcd's JSON gateway."""

    async def begin(self, connection: Connection) -> None:
        self._connection = connection
        self._lease = (await connection.ask("POST", "/v3/lease/grant", b'{"TTL":%d}' % (20 * TTL_S)))["ID"]

    async def acquire(self, lock: str) -> None:
        name = base64.b64encode(lock.encode()).decode()
        body = json.dumps({"name": name, "lease": self._lease}).encode()
        self._key = (await self._connection.ask("POST", "/v3/lock/lock", body))["key"]

    async def release(self) -> None:
        await self._connection.ask("POST", "/v3/lock/unlock", json.dumps({"key": self._key}).encode())


async def _measure(
    addresses: Addresses, kind: type[Locker], clients: int, shared: bool, seconds: float, run: int
) -> float:
    """Pairs of acquire and release a second, of all clients together."""
    count, counting = 0, False

    async def work(number: int, ends: asyncio.Event) -> None:
        nonlocal count
        host, port = addresses[number % len(addresses)]
        connection = Connection(*await asyncio.open_connection(host, port))
        locker = kind()
        await locker.begin(connection)
        lock = f"bench-{run}" if shared else f"bench-{run}-{number}"
        while not ends.is_set():
            await locker.acquire(lock)
            await locker.release()
            count += counting
        connection.close()

    ends = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(work(number, ends))
        await asyncio.sleep(0.5)
        counting, began = True, time.perf_counter()
        await asyncio.sleep(seconds)
        counting, lasted = False, time.perf_counter() - began
        ends.set()
    return count / lasted


CASES = {
    "uncontended, 1 client": (1, False),
    "uncontended, 24 clients": (24, False),
    "contended, 3 clients": (3, True),
    "contended, 24 clients": (24, True),
    "contended, 96 clients": (96, True),
}


def main() -> None:
    """Measures each case for the seconds asked for, rounds alternating, and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="per case and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base-port", type=int, default=17_601)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with ExitStack() as stack:
        sides: dict[str, tuple[Addresses, type[Locker]]] = {
            "kvstore": (stack.enter_context(cluster(options.base_port)), OurLocker)
        }
        if shutil.which("etcd"):
            members = stack.enter_context(Etcd(3, options.base_port)).members
            sides["etcd"] = addresses(members), EtcdLocker
        rates: dict[str, dict[str, list[float]]] = {case: {side: [] for side in sides} for case in CASES}
        steps = [(case, run, side) for case in CASES for run in range(options.rounds) for side in sides]
        for case, run, side in track(steps, "measuring", console=Console(stderr=True)):
            (places, kind), (clients, shared) = sides[side], CASES[case]
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rate = runner.run(_measure(places, kind, clients, shared, options.seconds, run))
            rates[case][side].append(rate)
    figures = {case: {side: statistics.median(found) for side, found in by.items()} for case, by in rates.items()}
    for case, by in rates.items():
        if "etcd" in by:
            figures[case]["ratio"] = statistics.median(a / b for a, b in zip(by["kvstore"], by["etcd"], strict=True))
    _show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _show(figures: dict[str, dict[str, float]]) -> None:
    table = Table(title="acquire and release, pairs a second: medians over the rounds")
    for column in ("case", "kvstore", "etcd", "ratio"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case, row in figures.items():
        theirs = f"{row['etcd']:,.0f}" if "etcd" in row else "-"
        table.add_row(case, f"{row['kvstore']:,.0f}", theirs, f"{row['ratio']:.2f}" if "ratio" in row else "-")
    Console().print(table)


if __name__ == "__main__":
    main()
