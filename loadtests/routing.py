"""What it brings that a client asks a key's primary, or a replica, by itself: `python -m loadtests.routing`.

Every case is measured with routing and without, in many short rounds that alternate on one fresh cluster, so that a
drift of the machine's speed meets both; the changes are medians of those from one round to its neighbour. Without
routing the load is spread evenly over the nodes all the same: it is the hop that is measured, not that one node has
all the work. Twice:

    the Python client   as many clients as nodes, each with another node first in its list, all in one process
    lean connections    raw sockets, which leave the processor to the nodes: what any client can gain that routes.
                        Each worker has one to every node, and sends one request at a time

`nodes us` and `client us` are processor time per request, of all nodes and of the client's process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import cast
from urllib.parse import urlsplit
from urllib.request import urlopen

import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

import kvstore
from kvstore.client.asynchronous import AsyncClient
from kvstore.paths import CLUSTER
from kvstore.routing.route import Route
from kvstore.routing.table import Overview, RoutingTable, decode_overview
from loadtests.http_load import Result, fill
from loadtests.side_by_side import addresses_of, dev_cluster
from loadtests.wire import is_good, is_whole

WARM_UP_S = 0.5
"""Enough to learn the topology."""
VALUE = b"x" * 255
Call = Callable[[AsyncClient, str], Awaitable[object]]


async def _lock_and_release(client: AsyncClient, key: str) -> None:
    lock = client.lock(key, wait=0, ttl=30)
    await lock.acquire()
    await lock.release()


CALLS: dict[str, Call] = {
    "strong put": lambda client, key: client.put(key, VALUE, consistency="strong"),
    "strong get": lambda client, key: client.get(key, consistency="strong"),
    "weak put": lambda client, key: client.put(key, VALUE, consistency="weak"),
    "weak get": lambda client, key: client.get(key, consistency="weak"),
    "lock and release": _lock_and_release,
}
"""By the Python client."""
LEAN = ("strong put", "strong get", "weak put", "weak get")


@dataclass
class Bench:
    """A cluster, and how it is loaded."""

    urls: list[str]
    pids: list[int]
    keys: list[str]
    connections: int
    seconds: float
    rounds: int

    def through_client(self, case: str) -> Pairs:
        """All rounds of the Python client."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._through_client(CALLS[case]))

    async def _through_client(self, call: Call) -> Pairs:
        rotated = [self.urls[first:] + self.urls[:first] for first in range(len(self.urls))]
        pairs = Pairs()
        async with AsyncExitStack() as stack:
            clients: dict[bool, list[AsyncClient]] = {}
            for routing in (False, True):
                connected = [kvstore.connect(urls, routing=routing) for urls in rotated]
                clients[routing] = [await stack.enter_async_context(one) for one in connected]
                await self._drive(clients[routing], call, WARM_UP_S)
            for routing in self._turns():
                with self._spent() as spent:
                    result = await self._drive(clients[routing], call, self.seconds)
                pairs.add(routing, result, spent)
        return pairs

    def _turns(self) -> Iterator[bool]:
        """Without and with; then with and without, so that neither is always the first."""
        for number in range(self.rounds):
            yield from (False, True) if number % 2 else (True, False)

    async def _drive(self, clients: Sequence[AsyncClient], call: Call, seconds: float) -> Result:
        result, until_s = Result(seconds=seconds), time.perf_counter() + seconds

        async def work(number: int) -> None:
            client, dice = clients[number % len(clients)], Random(number)
            while (began_s := time.perf_counter()) < until_s:
                key = f"{number}" if call is _lock_and_release else dice.choice(self.keys)
                try:
                    await call(client, key)
                except kvstore.KvstoreError:
                    result.wrong += 1
                result.latencies.add(time.perf_counter() - began_s)

        await asyncio.gather(*(work(number) for number in range(self.connections)))
        return result

    def lean(self, case: str) -> Pairs:
        """All rounds of raw connections."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._lean(case))

    async def _lean(self, case: str) -> Pairs:
        level, verb = case.split()
        table, pairs = self._table(), Pairs()
        wires = [[await _Wire.connect(url) for url in self.urls] for _ in range(self.connections)]
        for routing in self._turns():
            result = Result(seconds=self.seconds)
            until_s = time.perf_counter() + self.seconds

            async def work(number: int) -> None:
                dice, own = Random(number), self.urls[number % len(self.urls)]
                while (began_s := time.perf_counter()) < until_s:  # noqa: B023 - awaited below, in this round
                    key = dice.choice(self.keys)
                    best = table.endpoint_for(Route(key.encode(), case == "strong put")) if routing else None  # noqa: B023
                    wire = wires[number][self.urls.index(best or own)]
                    result.wrong += not await wire.ask(_request(verb, level, key))  # noqa: B023
                    result.latencies.add(time.perf_counter() - began_s)  # noqa: B023

            with self._spent() as spent:
                await asyncio.gather(*(work(number) for number in range(self.connections)))
            pairs.add(routing, result, spent)
        for wire in itertools.chain(*wires):
            wire.close()
        return pairs

    def _table(self) -> RoutingTable:
        told: dict[str, Overview] = {}
        for url in self.urls:
            with urlopen(url + CLUSTER) as page:
                told[url] = decode_overview(page.read())
        table = RoutingTable.of(told, turn=0)
        assert table is not None, "the cluster has several nodes"
        return table

    @contextmanager
    def _spent(self) -> Iterator[Spent]:
        """The processor time that passes while its body runs."""
        nodes_s, client_s, spent = self._of_nodes_s(), time.process_time(), Spent()
        yield spent
        spent.nodes_s, spent.client_s = self._of_nodes_s() - nodes_s, time.process_time() - client_s

    def _of_nodes_s(self) -> float:
        """Of all nodes since they were started."""
        times = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in self.pids)
        return sum(int(user) + int(system) for user, system in times) / os.sysconf("SC_CLK_TCK")


@dataclass
class Spent:
    """Processor time, in seconds."""

    nodes_s: float = 0.0
    client_s: float = 0.0


@dataclass(frozen=True)
class Figures:
    """Of one round."""

    per_s: float
    p50_ms: float
    p99_ms: float
    nodes_us: float
    """Processor time of all nodes per request."""
    client_us: float
    wrong: int


class Pairs:
    """The rounds of one case, those without and with routing side by side."""

    def __init__(self) -> None:
        self._rounds: dict[bool, list[Figures]] = {False: [], True: []}

    def add(self, routing: bool, result: Result, spent: Spent) -> None:
        """Another round."""
        count = max(len(result.latencies), 1)
        p50_ms, p99_ms = result.latencies.percentile_ms(0.5), result.latencies.percentile_ms(0.99)
        spent_us = (1e6 * spent.nodes_s / count, 1e6 * spent.client_s / count)
        figures = Figures(result.rate, p50_ms, p99_ms, *spent_us, result.wrong)
        self._rounds[routing].append(figures)

    def both(self, name: str) -> tuple[float, float]:
        """The medians of a figure, without routing and with it."""
        plain, routed = (median(getattr(one, name) for one in self._rounds[routing]) for routing in (False, True))
        return plain, routed

    def change(self, name: str) -> float:
        """The median of how much a figure changes from one round to its neighbour."""
        pairs = zip(self._rounds[False], self._rounds[True], strict=True)
        return float(median(getattr(routed, name) / getattr(plain, name) - 1 for plain, routed in pairs))

    @property
    def wrong(self) -> int:
        """Requests that failed, in all rounds."""
        return sum(one.wrong for rounds in self._rounds.values() for one in rounds)


class _Wire(asyncio.Protocol):
    """One connection, and one request at a time on it."""

    @classmethod
    async def connect(cls, url: str) -> _Wire:
        where = urlsplit(url)
        _, wire = await asyncio.get_running_loop().create_connection(cls, where.hostname or "", where.port or 0)
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""

    async def ask(self, request: bytes) -> bool:
        """Whether the answer was one of success."""
        self._answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if is_whole(self._buffer):
            is_fine, self._buffer = is_good(self._buffer), b""
            self._answered.set_result(is_fine)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_result(False)

    def close(self) -> None:
        self._transport.close()


def _request(verb: str, level: str, key: str) -> bytes:
    tail = f"/v1/kv/{key}?consistency={level} HTTP/1.1\r\nHost: localhost\r\n".encode()
    if verb == "get":
        return b"GET " + tail + b"\r\n"
    return b"PUT " + tail + b"Content-Length: %d\r\n\r\n" % len(VALUE) + VALUE


def main() -> None:
    """Measures, and prints a table for each size of cluster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, action="append", help="a size of cluster; may be said again [3]")
    parser.add_argument("--by", choices=("client", "lean"), help="one of the two ways of asking [both]")
    parser.add_argument("--only", action="append", help="a case, such as 'strong put'; may be said again [all]")
    parser.add_argument("--seconds", type=float, default=0.5, help="per round")
    parser.add_argument("--rounds", type=int, default=20, help="of each case, with routing and without")
    parser.add_argument("--connections", type=int, default=96)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--base-port", type=int, default=17_701)
    options = parser.parse_args()
    for nodes in options.nodes or [3]:
        with dev_cluster(options.base_port, nodes) as told:
            urls = [node["http"] for node in told]
            keys = [f"key{number:09}" for number in range(options.keys)]
            bench = Bench(
                urls, [node["pid"] for node in told], keys, options.connections, options.seconds, options.rounds
            )
            addresses = addresses_of(told)
            fill(addresses, options.keys, len(VALUE), options.connections)
            cases = [one for one in _cases(options.only) if options.by in (None, one[0])]
            results: dict[tuple[str, str], Pairs] = {}
            for by, case in track(cases, f"{nodes} nodes", console=Console(stderr=True)):
                results[by, case] = bench.through_client(case) if by == "client" else bench.lean(case)
        _show(nodes, results)


def _cases(only: Sequence[str] | None) -> list[tuple[str, str]]:
    every = [*(("client", case) for case in CALLS), *(("lean", case) for case in LEAN)]
    return [(by, case) for by, case in every if not only or case in only]


def _show(nodes: int, results: dict[tuple[str, str], Pairs]) -> None:
    table = Table(title=f"{nodes} nodes; without routing : with it; medians, changes from round to neighbouring round")
    for column in ("by", "case", "per s", "change", "p50 ms", "p99 ms", "nodes us", "change", "client us", "failed"):
        table.add_column(column, justify="left" if column in ("by", "case") else "right")
    for (by, case), pairs in results.items():
        per_s, p50, p99 = map(pairs.both, ("per_s", "p50_ms", "p99_ms"))
        nodes_us, client_us = map(pairs.both, ("nodes_us", "client_us"))
        table.add_row(
            *(by, case, f"{per_s[0]:,.0f} : {per_s[1]:,.0f}", f"{pairs.change('per_s'):+.0%}"),
            *(f"{plain:.1f} : {routed:.1f}" for plain, routed in (p50, p99)),
            *(f"{nodes_us[0]:.0f} : {nodes_us[1]:.0f}", f"{pairs.change('nodes_us'):+.0%}"),
            *(f"{client_us[0]:.0f} : {client_us[1]:.0f}", f"{pairs.wrong}"),
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
