"""More than the nodes may have under way, from clients that don't wait for one another: what each is told holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.impatient import Impatient, Tally
from tests.cluster.client import Client
from tests.cluster.harness import ClusterHarness, wait_until

IN_FLIGHT_MAX = 8
"""Of each node: far fewer than come, on the fastest machine."""
WRITES = 3_000
PATIENCE_S = 30.0
"""Of the clients: none hangs up, so that each is told what became of its write."""
BATCH = 500


@pytest.fixture
def small(tmp_path: Path) -> Iterator[ClusterHarness]:
    with ClusterHarness(tmp_path, flags=["--requests-in-flight-max", str(IN_FLIGHT_MAX)]) as cluster:
        yield cluster


def storm(cluster: ClusterHarness, told: dict[int, int], pages: dict[str, list[int]]) -> Tally:
    """All writes within half a second, each of a key of its own; and pages about the nodes meanwhile."""

    def put(number: int) -> bytes:
        value = b"%d" % number
        head = b"PUT /v1/kv/storm/%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (number, len(value))
        return head + value

    def look() -> None:
        for name in cluster.names:
            client = Client(cluster.http_address(name))
            for path, seen in pages.items():
                seen.append(client.call("GET", path).status)
            client.close()

    async def run() -> Tally:
        hosts = [cluster.http_address(name).rpartition(":") for name in cluster.names]
        load = Impatient(
            [(host, int(port)) for host, _, port in hosts],
            put,
            rate=2 * WRITES,
            seconds=0.5,
            patience_s=PATIENCE_S,
            connections_max=600,
            on_end=told.__setitem__,
        )
        looking = asyncio.get_running_loop().run_in_executor(None, look)
        tally = await load.run()
        await looking
        return tally

    return asyncio.run(run())


def values(client: Client, numbers: list[int]) -> dict[int, str | None]:
    """What a strong read shows of each of these keys."""
    shown: dict[int, str | None] = {}
    for first in range(0, len(numbers), BATCH):
        some = numbers[first : first + BATCH]
        operations = [{"op": "get", "key": f"storm/{number}"} for number in some]
        body = json.dumps({"operations": operations}).encode()
        answer = client.call("POST", "/v1/batch?timeout=60s", body, {"Content-Type": "application/json"})
        assert answer.status == 200, answer.body
        for number, result in zip(some, json.loads(answer.body)["results"], strict=True):
            assert result["status"] in (200, 404), result
            shown[number] = result.get("value")
    return shown


def test_what_was_refused_is_absent_what_was_acknowledged_is_there_and_the_cluster_goes_on(
    small: ClusterHarness,
) -> None:
    told: dict[int, int] = {}
    pages: dict[str, list[int]] = {"/livez": [], "/readyz": [], "/metrics": []}
    tally = storm(small, told, pages)

    assert tally.offered == len(told) == WRITES
    assert len(tally.refused) > 0, "nobody was told to come back"
    assert len(tally.in_time) > 0, "nothing was done meanwhile"
    assert all(status == 200 for seen in pages.values() for status in seen), pages
    client = Client(small.http_address("n1"))
    wait_until(lambda: client.call("PUT", "/v1/kv/after", b"x").status == 200, "a write to be taken again")
    shown = values(client, list(told))
    for number, status in told.items():
        if status == 200:
            assert shown[number] == str(number), f"acknowledged write {number} is lost"
        elif status == 503:
            assert shown[number] is None, f"refused write {number} was applied"
    assert set(told.values()) <= {200, 503, 504, 0}
    client.close()
