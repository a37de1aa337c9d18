"""Kills one node after another while the load runs, and waits until each is back before the next one's turn."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

from loadtests.runner.cluster import LoadCluster, NoCluster

RESTART_AFTER = "2s"
BEGIN_SHARE, END_SHARE = 0.1, 0.85
"""Of the run: users are there before the first death, and see the last one's node come back."""
GAP_SHARE = 1 / 15
GAP_S_MIN = 1.5
"""Between a node's return and the next death."""
BACK_S_MAX = 60.0
POLL_S = 0.1


class Chaos:
    """A thread that kills. A context manager; afterwards `deaths` and `troubles` say what it did."""

    def __init__(self, cluster: LoadCluster, seconds: float, say: Callable[[str], None]) -> None:
        """seconds: how long the load runs."""
        self._cluster = cluster
        self._seconds = seconds
        self._say = say
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos")
        self.deaths = 0
        self.troubles: list[str] = []

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if not self.deaths and not self.troubles:
            self.troubles.append("the load was over before a node was killed: give it more time")

    def _run(self) -> None:
        began_s = time.monotonic()
        try:
            self._kill_in_turn(began_s)
        except (NoCluster, OSError) as error:
            self.troubles.append(f"chaos could not go on: {error}")

    def _kill_in_turn(self, began_s: float) -> None:
        wait_s = BEGIN_SHARE * self._seconds
        for name in itertools.cycle(self._cluster.names):
            if self._ended.wait(wait_s) or time.monotonic() - began_s > END_SHARE * self._seconds:
                return
            pid = self._cluster.pid(name)
            self._cluster.kill(name)
            died_s = time.monotonic()
            self.deaths += 1
            self._say(f"{died_s - began_s:5.1f} s  {name} is killed (SIGKILL to {pid})")
            if not self._wait_until_back(name, pid, died_s):
                return
            self._say(f"{time.monotonic() - began_s:5.1f} s  {name} is back, {time.monotonic() - died_s:.1f} s later")
            wait_s = max(GAP_S_MIN, GAP_SHARE * self._seconds)

    def _wait_until_back(self, name: str, pid: int | None, died_s: float) -> bool:
        while not self._cluster.is_back(name, pid):
            if time.monotonic() - died_s > BACK_S_MAX:
                self.troubles.append(f"{name} was not ready {BACK_S_MAX:g} s after it was killed")
                return False
            if self._ended.wait(POLL_S):
                return False
        return True
