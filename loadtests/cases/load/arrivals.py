"""An open loop's book: requests that arrive at a fixed rate, whether or not the answers keep up.

Request i is meant for second i/rate, and its latency counts from there. A server that stalls for a second is charged
with all that should have been sent in that second, where a closed loop would have sent, and counted, one request per
connection: what is called coordinated omission. The clock is handed in, so that tests can stall a server without
waiting for it.

The generator's own fault is kept apart: how late it was to notice that a request was due. What is noticed in time and
then waits for a connection waits for the server.
"""

from __future__ import annotations

from collections import deque

from loadtests.latencies import Latencies


class OpenLoop:
    """So many requests a second for so long, from start_s on the caller's clock."""

    def __init__(self, rate: float, seconds: float, start_s: float) -> None:
        self._rate = rate
        self._start_s = start_s
        self._count = round(rate * seconds)
        self._noticed = 0
        self._waiting: deque[float] = deque()
        self._under_way = 0
        self.latencies = Latencies()
        self.lateness = Latencies()
        """How late the generator itself noticed that a request was due."""
        self.wrong = 0
        self.unanswered = 0

    @property
    def next_s(self) -> float | None:
        """When the next request is due; None after the last."""
        return self._start_s + self._noticed / self._rate if self._noticed < self._count else None

    @property
    def is_over(self) -> bool:
        """All are answered."""
        return self._noticed == self._count and not self._waiting and not self._under_way

    def notice(self, now_s: float) -> None:
        """Takes up all that is due by now."""
        while (due_s := self.next_s) is not None and due_s <= now_s:
            self.lateness.add(now_s - due_s)
            self._waiting.append(due_s)
            self._noticed += 1

    def take(self) -> float | None:
        """A connection is free: the intended second of the request that goes on it, the oldest; None if none waits."""
        if not self._waiting:
            return None
        self._under_way += 1
        return self._waiting.popleft()

    def answered(self, intended_s: float, now_s: float, is_good: bool) -> None:
        """Its answer is here, or its connection broke. Either way it took so long."""
        self._under_way -= 1
        self.latencies.add(now_s - intended_s)
        self.wrong += not is_good

    def give_up(self, under_way: list[float], now_s: float) -> list[float]:
        """The end of patience: what has no answer counts as wrong, with the time it has waited until now.

        under_way: the intended seconds of those taken. Returns those of all that were given up.
        """
        late = [*under_way, *self._waiting]
        self._waiting.clear()
        for intended_s in late:
            self.latencies.add(now_s - intended_s)
        self._under_way = 0
        self.wrong += len(late)
        self.unanswered += len(late)
        return late
