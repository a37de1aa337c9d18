"""`make overload`: what a cluster does with more than it can carry.

Finds what a fresh three-node cluster can do (a closed loop), then offers a multiple of it for some seconds in an open
loop (impatient.py), ends the load, and sees how soon a plain strong put is quick again. Everything runs on this
machine: nodes and client share its cores, so the client takes its share of what is left. With `--apart` the client has
a core of its own and the nodes have the others, for the peak as for the overload. `--json FILE` keeps the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import uvloop
from rich.console import Console
from rich.table import Table

from loadtests.apart import Cores, NotApart
from loadtests.http_load import Addresses, Result, fill, load, puts
from loadtests.impatient import Impatient, Make, Tally
from loadtests.side_by_side import addresses_of, dev_cluster

KEYS = 10_000
NICE = -15
QUICK_S = 0.1
"""A strong put that takes no longer is quick: some ten times what it takes at rest."""
QUICK_ONES = 5
"""So many quick ones in a row, and the cluster has recovered."""
RECOVERED_S_MAX = 60.0
CONNECTIONS = 3_000
"""Open before the load begins; more are made when all of these wait for answers."""
WATCH_S = 0.25
MIB = 1 << 20


@dataclass
class Figures:
    """One run, as it is shown and kept."""

    case: str
    apart: bool
    """Whether client and nodes had cores of their own."""
    peak_per_s: float
    """Of the closed loop, before and after the overload, in the middle: machines have moods."""
    offered_per_s: float
    goodput_per_s: float
    """Answered 2xx within the client's patience."""
    goodput_share: float
    """Of the peak."""
    peak_cores: float
    """Processor seconds per second that the nodes had at the peak; the client had the rest."""
    cores: float
    """The same under the load, of which refusals are paid, too."""
    goodput_share_per_core: float
    """Of the peak, by what the nodes had of the processor: what a client on a machine of its own would leave."""
    p50_ms: float
    p99_ms: float
    refused_per_s: float
    refused_p50_ms: float
    refused_p99_ms: float
    silent_per_s: float
    """Not answered within the patience, or found no connection."""
    other: dict[int, int]
    """Other answers, by status."""
    rss_before_mib: float
    """Of the node that has most."""
    rss_peak_mib: float
    rss_after_mib: float
    not_alive: int
    """Times that a node was seen to hold another for dead."""
    recovered_s: float
    """After the end of the load, until strong puts were quick."""
    client_behind_ms: float
    """How late the client was, 99 times of 100 at most: large, and the figures are of the client."""


@dataclass(frozen=True)
class Peak:
    """What a closed loop gets."""

    per_s: float
    cores: float
    """Processor seconds per second that the nodes had for it."""

    def and_again(self, other: Peak) -> Peak:
        """The middle of two."""
        return Peak((self.per_s + other.per_s) / 2, (self.cores + other.cores) / 2)


class Watch:
    """Looks at the nodes from the side while they are under load."""

    def __init__(self, addresses: Addresses, pids: list[int]) -> None:
        self._addresses, self._pids = addresses, pids
        self.rss_peak_mib = 0.0
        self.not_alive = 0
        self.cores = 0.0
        """Processor seconds per second that the nodes had while there was load."""

    def cpu_s(self) -> float:
        """Processor time that the nodes have had so far."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._pids]
        return sum(int(of[11]) + int(of[12]) for of in fields) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Of the node that has most."""
        page = os.sysconf("SC_PAGE_SIZE")
        return max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page / MIB for pid in self._pids)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.gather(asyncio.sleep(WATCH_S), asyncio.to_thread(self._look))

    def _look(self) -> None:
        self.rss_peak_mib = max(self.rss_peak_mib, self.rss_mib())
        for address in self._addresses:
            members = json.loads(ask(address, "GET", "/v1/cluster")[1])["members"]
            self.not_alive += sum(member["state"] not in ("self", "alive") for member in members)


def ask(address: tuple[str, int], method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request over a connection of its own: status and body."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def recovered_s(addresses: Addresses) -> float:
    """Puts one key after another until several in a row were quick; how long until the first of those was done."""
    began_s, quick, first_s = time.perf_counter(), 0, 0.0
    number = 0
    while quick < QUICK_ONES:
        sent_s = time.perf_counter()
        if sent_s - began_s > RECOVERED_S_MAX:
            return float("inf")
        try:
            status, _ = ask(addresses[number % len(addresses)], "PUT", f"/v1/kv/after{number}", b"x")
        except OSError:
            status = 0
        now_s = time.perf_counter()
        number += 1
        quick = quick + 1 if status == 200 and now_s - sent_s <= QUICK_S else 0
        if quick == 1:
            first_s = now_s - began_s
    return first_s


def overload(
    addresses: Addresses, pids: list[int], make: Make, rate: float, seconds: float, patience_s: float
) -> tuple[Tally, Watch, float]:
    """Offers so much for so long: what came of it, what was seen meanwhile, and how soon it was over."""
    watch = Watch(addresses, pids)

    async def run() -> Tally:
        watching = asyncio.get_running_loop().create_task(watch.run())
        loop = Impatient(addresses, make, rate=rate, seconds=seconds, patience_s=patience_s)
        await loop.open(CONNECTIONS)
        had_s = watch.cpu_s()
        tally = await loop.run()
        watch.cores = (watch.cpu_s() - had_s) / tally.seconds  # the last answers come later, and belong to it
        watching.cancel()
        return tally

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(run())
    return tally, watch, recovered_s(addresses)


def numbered(make: Callable[[], bytes]) -> Make:
    """The same for every number."""
    return lambda number: make()


def one_key(query: str, value_bytes: int) -> Callable[[], bytes]:
    """PUTs of one hot key."""
    head = f"PUT /v1/kv/hot?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {value_bytes}\r\n\r\n"
    request = head.encode() + b"x" * value_bytes
    return lambda: request


def mixed(query: str, value_bytes: int) -> Callable[[], bytes]:
    """PUTs, GETs in equal parts."""
    random, put = Random(3), puts(query, KEYS, value_bytes)
    tail = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return lambda: put() if random.random() < 0.5 else b"GET /v1/kv/key%09d" % random.randrange(KEYS) + tail


def cases(query: str, value_bytes: int) -> dict[str, tuple[Callable[[], bytes], tuple[int, ...]]]:
    """By name: the request, and over how many connections the closed loop looks for the peak."""
    return {
        "put": (puts(query, KEYS, value_bytes), (96, 384)),
        "mixed": (mixed(query, value_bytes), (96, 384)),
        "hot": (one_key(query, value_bytes), (24, 96)),
        "big": (puts(query, 100, MIB), (12, 24)),
    }


def measure(addresses: Addresses, pids: list[int], options: argparse.Namespace) -> list[Figures]:
    """Every case asked for at every multiple."""
    query = f"timeout={options.timeout}" if options.timeout else ""
    figures: list[Figures] = []
    fill(addresses, KEYS, options.value_bytes, 96)
    for case in options.cases.split(","):
        make, connections = cases(query, options.value_bytes)[case]
        load(addresses, make, connections[0], options.peak_seconds)  # to warm up: keys there, connections made
        peak = _peak(addresses, pids, make, connections, options.peak_seconds)
        for times in options.times:
            before_mib = Watch(addresses, pids).rss_mib()
            rate = peak.per_s * times
            tally, watch, recovered = overload(addresses, pids, numbered(make), rate, options.seconds, options.patience)
            both = peak.and_again(_peak(addresses, pids, make, connections, options.peak_seconds))
            row = _figures(f"{case} x{times:g}", options.apart, both, tally, watch, before_mib, recovered)
            figures.append(row)
    return figures


def _go_first() -> None:
    """The client gets the processor when it wants it, where that is allowed: as if it ran on a machine of its own.

    It takes its share all the same. But late requests, and answers that nobody fetches, would be the client's doing.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    if hasattr(os, "SCHED_BATCH"):  # but not for each answer by itself
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _peak(
    addresses: Addresses, pids: list[int], make: Callable[[], bytes], connections: tuple[int, ...], seconds: float
) -> Peak:
    """Over whichever number of connections gets most."""
    best, watch = Peak(0.0, 0.0), Watch(addresses, pids)
    for count in connections:
        had_s = watch.cpu_s()
        result = load(addresses, make, count, seconds)
        if _rate(result) >= best.per_s:
            best = Peak(_rate(result), (watch.cpu_s() - had_s) / result.seconds)
    return best


def _rate(result: Result) -> float:
    """Answers 2xx per second."""
    return (len(result.latencies) - result.wrong) / result.seconds


def _figures(
    case: str, apart: bool, peak: Peak, tally: Tally, watch: Watch, before_mib: float, recovered: float
) -> Figures:
    return Figures(
        case=case,
        apart=apart,
        peak_per_s=round(peak.per_s),
        offered_per_s=round(tally.offered / tally.seconds),
        goodput_per_s=round(tally.goodput),
        goodput_share=round(tally.goodput / peak.per_s, 2) if peak.per_s else 0.0,
        peak_cores=round(peak.cores, 2),
        cores=round(watch.cores, 2),
        goodput_share_per_core=round(tally.goodput / peak.per_s * peak.cores / watch.cores, 2) if peak.per_s else 0.0,
        p50_ms=round(tally.in_time.percentile_ms(0.5), 1),
        p99_ms=round(tally.in_time.percentile_ms(0.99), 1),
        refused_per_s=round(len(tally.refused) / tally.seconds),
        refused_p50_ms=round(tally.refused.percentile_ms(0.5), 1),
        refused_p99_ms=round(tally.refused.percentile_ms(0.99), 1),
        silent_per_s=round((tally.silent + tally.unsent) / tally.seconds),
        other=tally.other,
        rss_before_mib=round(before_mib),
        rss_peak_mib=round(watch.rss_peak_mib),
        rss_after_mib=round(watch.rss_mib()),
        not_alive=watch.not_alive,
        recovered_s=round(recovered, 2),
        client_behind_ms=round(tally.behind.percentile_ms(0.99), 1),
    )


COLUMNS = {
    "case": "case",
    "peak_per_s": "peak /s",
    "offered_per_s": "offered /s",
    "goodput_per_s": "2xx in time /s",
    "goodput_share": "of peak",
    "peak_cores": "nodes' cores at peak",
    "cores": "under load",
    "goodput_share_per_core": "of peak per core",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "refused_per_s": "refused /s",
    "refused_p50_ms": "refused p50 ms",
    "refused_p99_ms": "refused p99 ms",
    "silent_per_s": "no answer /s",
    "other": "other",
    "rss_before_mib": "MiB before",
    "rss_peak_mib": "peak",
    "rss_after_mib": "after",
    "not_alive": "held dead",
    "recovered_s": "quick after s",
    "client_behind_ms": "client late p99 ms",
}


def title(cores: Cores | None) -> str:
    """What stands above the table. cores: None where nobody was kept to any."""
    whose = "client and nodes share all cores" if cores is None else str(cores)
    return f"more than it can carry; 2xx in time: within the client's patience; {whose}"


def _show(figures: list[Figures], cores: Cores | None) -> None:
    table = Table(title=title(cores))
    for column in COLUMNS.values():
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in figures:
        table.add_row(
            *(f"{value:,}" if isinstance(value, int) else str(value) for value in map(row.__getattribute__, COLUMNS))
        )
    Console(width=220).print(table)


def main() -> None:
    """Finds the peak, offers multiples of it, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="put", help="of put, mixed, hot and big, with commas between")
    parser.add_argument("--times", type=float, nargs="+", default=[2.0, 4.0], help="multiples of the peak")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load per case and multiple")
    parser.add_argument("--peak-seconds", type=float, default=3.0, help="per round of the closed loop; there are three")
    parser.add_argument("--patience", type=float, default=1.0, help="seconds after which the client hangs up")
    parser.add_argument("--timeout", default="", help="the requests' own `timeout`, such as 500ms; none by default")
    parser.add_argument("--value-bytes", type=int, default=255)
    parser.add_argument("--apart", action="store_true", help="a core for the client, the others for the nodes")
    parser.add_argument("--base-port", type=int, default=17_701)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        cores = Cores.parted() if options.apart else None
        with dev_cluster(options.base_port) as listed:
            pids = [node["pid"] for node in listed]
            _go_first()
            if cores is not None:
                cores.keep(pids)
            figures = measure(addresses_of(listed), pids, options)
    except NotApart as why:
        sys.exit(f"--apart: {why}; nothing was measured. Without it client and nodes share what there is.")
    _show(figures, cores)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in figures], indent=2))


if __name__ == "__main__":
    main()
