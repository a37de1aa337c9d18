"""Eight processes share one file: a counter inside a lock, while some are stopped and some are killed; and votes."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from storage.shared_file.file import SharedFile
from tests.cluster.harness import clean_environment, wait_until
from tests.kvstore.embedded.worker import COUNTER, INCREMENTS, REGISTER, TTL_S, VOTES

WORKERS = 8
PAUSED_S = 3 * TTL_S + 0.5
"""Three leases: the one thing here that needs time to pass."""


class Workers:
    """The processes, and what they have told."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "app.db"
        self._folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, task: str) -> subprocess.Popen[bytes]:
        """One more."""
        log = self._folder / f"{len(self.running)}.log"
        command = [sys.executable, "-m", "tests.kvstore.embedded.worker", task, str(self.file), str(log)]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, env=clean_environment())
        self.running.append(worker)
        return worker

    def events(self) -> list[dict[str, Any]]:
        """All that was told, in the order of time."""
        lines = [line for log in self._folder.glob("*.log") for line in log.read_text().splitlines()]
        return sorted(map(json.loads, lines), key=lambda event: event["at"])

    def told(self, what: str) -> list[dict[str, Any]]:
        """When this was told."""
        return [event for event in self.events() if event["what"] == what]

    def wait_for_more(self, writes: int) -> None:
        """Until so many more increments were acknowledged."""
        before = len(self.told("wrote"))
        wait_until(lambda: len(self.told("wrote")) >= before + writes, f"{writes} more increments", 60)

    def pause_a_holder(self, number: int) -> int:
        """Lets this worker stop between reading and writing, the next time it holds the lock; its process id."""
        (self._folder / f"{number}.pause").touch()
        pid = self.running[number].pid
        wait_until(lambda: is_stopped(pid), "a holder to stop", 60)
        return pid

    def end(self) -> None:
        """Lets each that lives finish what it has begun."""
        living = [worker for worker in self.running if worker.poll() is None]
        for worker in living:
            if worker.stdin is not None:
                worker.stdin.close()
        for worker in living:
            assert worker.wait(60) == 0

    def close(self) -> None:
        """Leaves nothing behind."""
        for worker in self.running:
            worker.kill()
            worker.wait()
            if worker.stdin is not None:
                worker.stdin.close()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    started = Workers(tmp_path)
    yield started
    started.close()


@pytest.mark.parametrize("task", ["count", "fence"])
def test_no_increment_is_lost_whoever_is_stopped_or_killed(workers: Workers, task: str) -> None:
    source = random.Random(7)
    for _ in range(WORKERS):
        workers.start(task)
    wait_until(lambda: len(workers.told("ready")) == WORKERS, "all workers to be ready", 60)
    began_s = time.monotonic()
    workers.wait_for_more(120)
    check_shares(workers, began_s)

    # Two that hold the lock are stopped between reading and writing, one anywhere, maybe within a transaction.
    stopped = [workers.pause_a_holder(0), workers.pause_a_holder(1)]
    elsewhere = workers.running[2].pid
    os.kill(elsewhere, signal.SIGSTOP)
    time.sleep(PAUSED_S)
    for pid in (*stopped, elsewhere):
        os.kill(pid, signal.SIGCONT)
    for pid in stopped:
        wait_until(lambda pid=pid: any(one["pid"] == pid for one in workers.told("refused")), "a refusal", 60)
    workers.wait_for_more(20)

    killed: set[int] = set()
    for victim in source.sample(range(3, WORKERS), 4):
        workers.running[victim].kill()
        workers.running[victim].wait()
        killed.add(workers.running[victim].pid)
        workers.start(task)
        workers.wait_for_more(5)
    workers.end()
    check_history(workers, killed)


def check_shares(workers: Workers, began_s: float) -> None:
    """While nobody is disturbed all get about the same: nobody starves."""
    shares = Counter(event["pid"] for event in workers.told("granted") if event["at"] >= began_s)
    fair = shares.total() / WORKERS
    assert len(shares) == WORKERS
    assert fair / 3 <= min(shares.values()), shares
    assert max(shares.values()) <= fair * 3, shares


def check_history(workers: Workers, killed: set[int]) -> None:
    wrote, writing = workers.told("wrote"), workers.told("writing")
    in_flight = sum(
        sum(one["pid"] == pid for one in writing) - sum(one["pid"] == pid for one in wrote) for pid in killed
    )
    with kvstore.open(workers.file) as db:
        found = db.get(COUNTER)
    assert found is not None
    assert len(wrote) <= int(found.text) <= len(wrote) + in_flight, "every acknowledged increment counts, once"
    assert len({event["number"] for event in wrote}) == len(wrote), "no two wrote the same number"
    in_order = sorted(wrote, key=lambda event: event["number"])
    fences = [event["fence"] for event in in_order]
    assert fences == sorted(set(fences)), "holders follow one another in the order of their fences"
    granted = [event["fence"] for event in workers.told("granted")]
    assert len(set(granted)) == len(granted)
    assert {event["why"] for event in workers.told("refused")} <= {"Fenced", "LockLost"}
    checker = sqlite3.connect(workers.file)
    assert checker.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    checker.close()


def test_a_change_of_a_register_is_one_step(workers: Workers) -> None:
    for _ in range(WORKERS):
        workers.start("change")
    wait_until(lambda: len(workers.told("done")) == WORKERS, "all changes", 120)
    workers.end()
    file = SharedFile(workers.file)
    assert file.read(lambda reading: reading.register(REGISTER)).value == b"%d" % (WORKERS * INCREMENTS)
    file.close()


def test_a_vote_never_has_two_winners(workers: Workers) -> None:
    for _ in range(WORKERS):
        workers.start("vote")
    victims = workers.running[:2]
    wait_until(lambda: len(workers.told("voted")) > VOTES, "some votes", 60)
    for victim in victims:
        victim.kill()
        victim.wait()
    workers.end()
    for number in range(VOTES):
        votes = [event for event in workers.told("voted") if event["number"] == number]
        assert len(votes) >= WORKERS - len(victims)
        (winner,) = {event["winner"] for event in votes}
        new = [event for event in votes if event["is_new"]]
        assert all(event["pid"] == int(winner) for event in new)
        assert len(new) == 1 or int(winner) in {victim.pid for victim in victims}, "one was told that it decided it"
    with kvstore.open(workers.file) as db:
        decision = db.vote_result("vote 0")
        assert decision is not None
        assert decision.value == 0
