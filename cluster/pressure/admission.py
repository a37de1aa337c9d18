"""Admission: whether one more of a kind may begin, told from how long those before it took. Pure, on a clock of others.

A server that takes all that comes does its work for clients that have gone: once the wait is longer than their
patience, goodput falls to nothing, and it stays there until the queue is empty. So the wait is kept short.

    the wait    What those that ended lately took is what one that begins now will take, times how many more are under
                way by now than when those began (Little's law: the wait is the number under way by the rate). Not the
                number by the rate at once: those that hang on a dead peer are under way, too, and in nobody's way.
                From there to the next window: expectation.py.
    a burst     Many at once are no overload: a queue is good if it goes away again. So up to BURST may be under way
                without a question; more, if they are quick. What stands against that is the shortest wait of the last
                fifth of a second (CoDel; Nichols and Jacobson, "Controlling Queue Delay", 2012): above the target all
                that time, it is a standing queue.
    the limit   Then so many may be under way as make a wait of the target. It is looked at anew once that has had its
                effect, moved by what was seen then, and given up when it has not been needed for a while.

Where nothing completes there is no evidence: that is a lost majority, or a paused peer, and has its own answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from cluster.pressure.expectation import GROUP, Expectation

WINDOW_S = 0.05
"""Waits are averaged over so long; some hundred of them under load."""
PATIENCE_WINDOWS = 4
"""All of so many windows above the target are a standing queue."""
TARGET_S = 0.2
"""The wait that is kept. 512 clients that each wait for their answer make 60 to 110 ms on a small machine and are all
welcome. The shortest patience among common clients is a second, and a request waits at either end of it, too."""
BURST = 640
"""So many may be under way at once while nothing stands against it; clients that start together are as many."""
COUNT_MIN = 256
"""So many may be under way in any case: they are work for a tenth of a second, and a machine on which they are much
more is not to refuse the few clients that it has."""
BYTES_MIN = 64 << 20
"""The same of bytes: values large enough to take long by themselves. Some dozens of clients that each write a megabyte
and wait for their answer are no overload."""
FEW = 16
"""So few under way are no queue: whose time was up among them hung on something else, on a peer that is paused, say."""
SAFE_SHARE = 0.6
"""Of its time, what the expected wait may be: it is an average, and half of them take longer."""
SHORTEST_S = 0.0015
"""What took less did not wait for anything, and says nothing of those that do. (Clocks of loops stand still in a turn.)
"""
STALE_S = 2.0
"""What was seen so long ago says nothing."""
GROWTH = 1.1
SETTLE_S_MIN = 0.1


class Admission:
    """The requests of one kind. Times are of one monotonic clock, in seconds."""

    __slots__ = (
        "_bytes_in_flight",
        "_count",
        "_delays",
        "_ends_s",
        "_expectation",
        "_history",
        "_lag_s",
        "_needed_s",
        "_quick",
        "_sampled_s",
        "_settled_s",
        "_target_s",
        "_total_s",
        "bytes_limit",
        "in_flight",
        "is_short",
        "limit",
        "refused",
    )

    def __init__(
        self,
        *,
        target_s: float = TARGET_S,
        lag_s: Callable[[], float] = lambda: 0.0,
        bytes_in_flight: Callable[[], int] = lambda: 0,
    ) -> None:
        """lag_s: how long a request lies unseen before it can begin. bytes_in_flight: of their bodies."""
        self._target_s, self._lag_s, self._bytes_in_flight = target_s, lag_s, bytes_in_flight
        self.in_flight = 0
        self.refused = 0
        """Counted by whoever refuses."""
        self.is_short = False
        """Whether there is a standing queue, or was one just now."""
        self.limit = float(BURST)
        """How many may be under way now."""
        self.bytes_limit = inf
        """How many bytes of bodies may be."""
        self._ends_s = -inf
        self._count, self._quick, self._total_s = 0, 0, 0.0
        self._sampled_s = -inf
        self._settled_s = self._needed_s = -inf
        self._history: deque[tuple[float, int]] = deque()
        self._delays: deque[float] = deque(maxlen=PATIENCE_WINDOWS)
        self._expectation = Expectation()

    def look(self, now_s: float) -> None:
        """To be called before each question: what was seen in the last window counts from its end on."""
        if now_s >= self._ends_s:
            self._close(now_s)

    def is_full(self, now_s: float) -> bool:
        """Whether one more had better not begin."""
        self.look(now_s)
        return self.in_flight >= self.limit

    def begin(self, count: int = 1) -> None:
        """One more is under way, or so many."""
        self.in_flight += count

    def end(self, took_s: float, is_done: bool, is_late: bool = False) -> None:
        """One is over. is_done: as it should be; what failed may have waited for something else than its turn.

        is_late: it failed because its time was up. Were those left out, the others, who all made it, would always seem
        to show that there is time enough. But it may have hung on a dead peer, so it counts for no more than the
        target, and can't make a standing queue; and for nothing where there is no queue at all.
        """
        self.in_flight -= 1
        if is_late and self.in_flight >= FEW:
            self._count += 1
            self._total_s += min(took_s, self._target_s)
        elif is_done:
            if took_s >= SHORTEST_S:
                self._count += 1
                self._total_s += took_s
            else:
                self._quick += 1

    def expected_s(self) -> float:
        """How long one that begins now will take; 0 where nothing is known."""
        return self._expectation.shorter_s(self.in_flight)

    def can_make(self, timeout_s: float) -> bool:
        """Whether one that begins now is likely to end in that time. Behind few there is no queue to wait in: what took
        long among them hung on something that may be over, and a refusal would be all that is left of it."""
        return self.in_flight < FEW or self._expectation.longer_s(self.in_flight) <= SAFE_SHARE * timeout_s

    def _close(self, now_s: float) -> None:
        """The end of a window: what was seen in it."""
        count, total_s, quick = self._count, self._total_s, self._quick
        if now_s - self._ends_s > STALE_S:  # nobody came: those that ended in between say nothing of now
            count = 0
        elapsed_s = now_s - self._ends_s + WINDOW_S
        self._ends_s = now_s + WINDOW_S
        self._count, self._total_s, self._quick = 0, 0.0, 0
        self._history.append((now_s, self.in_flight))
        while now_s - self._history[0][0] > STALE_S:
            self._history.popleft()
        if not count:
            if now_s - self._sampled_s > STALE_S:
                self._forget()
            self._expectation.nothing_seen()
            if quick and not self.is_short:  # whatever the others hang on, it is no queue
                self.limit = max(self.limit, self.in_flight + BURST)
            return
        self._sampled_s = now_s
        took_s = total_s / count
        then = max(self._under_way_at(now_s - took_s), GROUP)
        self._delays.append(took_s * max(self.in_flight, GROUP) / then + self._lag_s())
        self._expectation.seen(self._delays[-1], self.in_flight, (count + quick) / elapsed_s)
        self._adjust(now_s)

    def _under_way_at(self, moment_s: float) -> int:
        for at_s, in_flight in reversed(self._history):
            if at_s <= moment_s:
                return in_flight
        return self._history[0][1]

    def _adjust(self, now_s: float) -> None:
        standing_s = min(self._delays) if len(self._delays) == PATIENCE_WINDOWS else 0.0
        if standing_s > self._target_s:
            if now_s >= self._settled_s:
                self._shorten(self._target_s / standing_s)
                self._settled_s = now_s + standing_s
            self._needed_s = now_s
        elif self.is_short:
            if self.in_flight >= self.limit / 2 or self._bytes_in_flight() >= self.bytes_limit / 2:
                self._needed_s = now_s
            if now_s - self._needed_s > STALE_S:
                self._open()
            elif now_s >= self._settled_s:
                self.limit, self.bytes_limit = self.limit * GROWTH, self.bytes_limit * GROWTH
                self._settled_s = now_s + max(SETTLE_S_MIN, self._delays[-1])
        else:
            self.limit = max(BURST, self.in_flight * self._target_s / self.expected_s())

    def _shorten(self, share: float) -> None:
        """So much of what is under way made the wait of the target; what is under way may be above the limit still."""
        self.is_short = True
        self.limit = max(COUNT_MIN, min(self.in_flight, self.limit) * share)
        self.bytes_limit = max(BYTES_MIN, min(self._bytes_in_flight(), self.bytes_limit) * share)

    def _open(self) -> None:
        self.is_short = False
        self.limit, self.bytes_limit = float(BURST), inf

    def _forget(self) -> None:
        self._delays.clear()
        self._expectation.forget()
        self._open()
