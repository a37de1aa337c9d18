"""`make bench`: the levels side by side on a fresh cluster, with a bare aiohttp route as the yardstick.

Everything runs on this machine in one run: three nodes, the route and the client share its cores, so what counts are
the ratios. Prints a table; `--json FILE` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.http_load import Addresses, Result, fill, gets, load, puts

Case = tuple[Addresses, Callable[[], bytes]]
READY_S_MAX = 30.0


@contextmanager
def cluster(base_port: int) -> Iterator[Addresses]:
    """A fresh three-node cluster in processes of its own, gone afterwards."""
    with dev_cluster(base_port) as nodes:
        yield addresses_of(nodes)


@contextmanager
def dev_cluster(base_port: int, nodes: int = 3) -> Iterator[list[dict[str, Any]]]:
    """The same of so many nodes, as `kvstore dev` describes each: name, http, peer, pid, data."""
    with tempfile.TemporaryDirectory() as folder:
        size = ("--nodes", str(nodes), "--base-port", str(base_port))
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "dev", "--data", folder, *size], stdout=subprocess.DEVNULL
        )
        try:
            listing = Path(folder) / "cluster.json"
            _wait_for(listing.exists, process)
            yield json.loads(listing.read_text())["nodes"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def addresses_of(listed: list[dict[str, Any]]) -> Addresses:
    """Where the nodes listen for HTTP."""
    urls = [urlsplit(node["http"]) for node in listed]
    return [(url.hostname or "", url.port or 0) for url in urls]


@contextmanager
def bare_route(port: int) -> Iterator[Addresses]:
    """The yardstick in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "loadtests.bare_route", str(port)])
    try:
        _wait_for(lambda: _answers(port), process)
        yield [("127.0.0.1", port)]
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1):
            return True
    except OSError:
        return False


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("what is to be measured did not start; is its port taken?")
        time.sleep(0.05)


def main() -> None:
    """Measures each case for the seconds asked for, rounds alternating, and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="per case and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=96)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value-bytes", type=int, default=255)
    parser.add_argument("--base-port", type=int, default=17_501)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with cluster(options.base_port) as nodes, bare_route(options.base_port + 50) as bare:
        fill(nodes, options.keys, options.value_bytes, options.connections)
        cases = _cases(nodes, bare, options.keys, options.value_bytes)
        results: dict[str, list[Result]] = {name: [] for name in cases}
        for _ in track(range(options.rounds), "measuring", console=Console(stderr=True)):
            for name, (addresses, make) in cases.items():
                results[name].append(load(addresses, make, options.connections, options.seconds))
    figures = {name: _figures(rounds) for name, rounds in results.items()}
    _show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _cases(
    nodes: Addresses, bare: Addresses, keys: int, value_bytes: int
) -> dict[str, tuple[Addresses, Callable[[], bytes]]]:
    cases: dict[str, tuple[Addresses, Callable[[], bytes]]] = {
        "bare route, PUT": (bare, puts("", keys, value_bytes)),
        "bare route, GET": (bare, gets("", keys)),
    }
    for level in ("strong", "weak", "eventual"):
        cases[f"{level} put"] = (nodes, puts(f"consistency={level}", keys, value_bytes))
        cases[f"{level} get"] = (nodes, gets(f"consistency={level}", keys))
    return cases


def _figures(rounds: list[Result]) -> dict[str, float]:
    middle = sorted(rounds, key=lambda result: result.rate)[len(rounds) // 2]
    return {
        "per_s": round(middle.rate),
        "p50_ms": round(middle.latencies.percentile_ms(0.5), 1),
        "p99_ms": round(middle.latencies.percentile_ms(0.99), 1),
        "p99.9_ms": round(middle.latencies.percentile_ms(0.999), 1),
        "not_2xx": sum(result.wrong for result in rounds),
    }


def _show(figures: dict[str, dict[str, float]]) -> None:
    table = Table(title="medians over the rounds; share: of the bare route with the same method")
    for column in ("case", "per s", "share", "p50 ms", "p99 ms", "p99.9 ms", "not 2xx"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, row in figures.items():
        yardstick = figures[f"bare route, {'PUT' if name.lower().endswith('put') else 'GET'}"]
        share = row["per_s"] / yardstick["per_s"] if yardstick["per_s"] else 0.0
        cells = (
            f"{row['per_s']:,.0f}",
            f"{share:.2f}",
            *(str(row[key]) for key in ("p50_ms", "p99_ms", "p99.9_ms", "not_2xx")),
        )
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
