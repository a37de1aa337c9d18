"""Eight worker processes increment one counter inside a lock while nodes die and holders are paused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.client import Client
from tests.cluster.harness import ClusterHarness, clean_environment, wait_until

WORKERS = 8
KEY_OF = {"plainly": "counter", "under-the-fence": "fenced-counter"}
"""How the workers read, and the key that they count at."""
TTL_S = 1
PAUSED_S = 3 * TTL_S + 0.5
"""Three leases: the one thing here that needs time to pass."""


class Workers:
    """The processes, and what they have told."""

    def __init__(self, folder: Path, cluster: ClusterHarness, reads: str) -> None:
        self._folder = folder
        addresses = [cluster.http_address(name) for name in cluster.names]
        self.running = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.lock_worker", str(folder / f"{number}.log"), "the lock/1",
                 KEY_OF[reads], f"{TTL_S}s", reads, *addresses],
                stdin=subprocess.PIPE,
                env=clean_environment(),
            )
            for number in range(WORKERS)
        ]  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        """All that was told, in the order of time."""
        lines = [line for log in self._folder.glob("*.log") for line in log.read_text().splitlines()]
        return sorted(map(json.loads, lines), key=lambda event: event["at"])

    def count(self, what: str) -> int:
        """How often this was told."""
        return sum(event["what"] == what for event in self.events())

    def pause_a_holder(self, number: int) -> int:
        """Lets this worker stop between reading and writing, the next time it holds the lock; its process id."""
        (self._folder / f"{number}.pause").touch()
        pid = self.running[number].pid
        wait_until(lambda: _is_stopped(pid), "a holder to stop")
        return pid

    def end(self) -> None:
        """Lets each finish what it has begun."""
        for worker in self.running:
            if worker.stdin is not None:
                worker.stdin.close()
        for worker in self.running:
            assert worker.wait(60) == 0

    def close(self) -> None:
        """Leaves nothing behind."""
        for worker in self.running:
            worker.kill()
            worker.wait()


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture(params=KEY_OF)
def reads(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def workers(tmp_path: Path, cluster3: ClusterHarness, reads: str) -> Iterator[Workers]:
    folder = tmp_path / "workers"
    folder.mkdir()
    workers = Workers(folder, cluster3, reads)
    yield workers
    workers.close()


def test_no_increment_is_lost_while_nodes_die_and_holders_are_paused(
    cluster3: ClusterHarness, workers: Workers, reads: str
) -> None:
    def more(count: int) -> None:
        """Waits until so many more increments are acknowledged."""
        goal = workers.count("written") + count
        wait_until(lambda: workers.count("written") >= goal, f"{count} more increments", interval_s=0.1)

    more(20)
    continued = set()
    for number, victim in enumerate(cluster3.names):
        cluster3.kill(victim)
        more(10)
        cluster3.restart(victim)
        more(10)
        paused = workers.pause_a_holder(number)
        time.sleep(PAUSED_S)
        os.kill(paused, signal.SIGCONT)
        continued.add(paused)
        more(10)
    workers.end()

    events = workers.events()
    written = [event for event in events if event["what"] == "written"]
    doubtful = [event for event in events if event["what"] == "unknown"]
    values = [event["value"] for event in written]
    assert len(set(values)) == len(values), "two acknowledged writes took the same step: an increment was lost"
    with_client = Client(cluster3.http_address("n1"))
    final = int(with_client.get(KEY_OF[reads]).body)
    with_client.close()
    assert len(values) <= final <= len(values) + len(doubtful)

    # In the order of their fences the sections follow one another: none read what a later holder had written.
    by_fence = sorted(written, key=lambda event: event["fence"])
    assert [event["value"] for event in by_fence] == sorted(values)
    fences = [event["fence"] for event in events if event["what"] == "granted"]
    assert len(set(fences)) == len(fences), "one fence was granted twice"

    stale = [event for event in events if event["what"] == "refused" and event.get("code") == "fenced"]
    assert continued <= {event["pid"] for event in stale}, "a continued holder's write was not refused"
