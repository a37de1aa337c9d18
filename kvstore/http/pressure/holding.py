"""Holding: refusals that wait a moment, where clients come back at once instead of after Retry-After.

A client that sends again as soon as it is refused asks as fast as it is answered: some hundred of them keep a node busy
with nothing but refusing them. Held for a moment, each of them asks a few times a second.

But those who come at their own pace, as strangers do, come as often whatever others are told; to hold theirs would only
make them open more connections. Which kind they are is found out: where there are several times as many refusals as
answers, refusals are held on trial. Where fewer come then, holding goes on, for as long as there are too many; where
not, the longest hold is tried, too: very many clients come often even so. Where that is in vain, or where connections
are opened meanwhile, it ends, and is tried again some seconds later, after a longer time each time. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

WINDOW_S = 0.1
"""Counts are looked at so often, or once in a hold, where that is longer: those who are held come in waves."""
WATCH_S, WATCH_AGAIN_S = 1.0, 0.2
MANY = 3.0
"""So many refusals for each answer, for so long (the shorter time where it has helped), and it is tried. Twice the load
makes two, or four where its clients share the machine with the nodes."""
SHARE = 2.0
"""So many are left for each answer where holding helps."""
FREE_PER_S = 500.0
"""So many are none too many: they cost nobody anything."""
TRIAL_HOLD_S = 0.2
"""How long refusals are held on trial, at first."""
SKIPPED_S = 0.1
"""Of a trial, beside one hold: first come those who were refused before it."""
COUNTED_HOLDS = 2
"""So long is counted what comes: they come in waves."""
HELPS = 0.6
"""Of the refusals before it, what may come in a trial that has shown that holding helps."""
HOLD_S_MIN, HOLD_S_MAX = 0.01, 0.4
"""The longest is less than the patience of common clients by half."""
LONGER, SHORTER = 1.5, 0.95
"""From one window to the next."""
VAIN_WINDOWS = 8
"""So many in a row in which as many came as the trial would not have passed, and it is no help any more."""
OPENED_PER_S_MAX = 500.0
"""Connections that may be opened while refusals are held: new clients come all the time."""
AGAIN_S, AGAIN_S_MAX = 5.0, 20.0
"""Between two trials; twice as long after each that was in vain, for one of them costs those who come at their own pace
thousands of connections."""
LOOK_S = 0.05
"""How often a trial is looked at."""
STALE_S = 1.0
"""A window that ended so long ago says that nobody was refused since."""


class _Stage(Enum):
    AT_ONCE = auto()
    TRIAL = auto()
    HOLDING = auto()


class _Counts:
    """What came in some time."""

    __slots__ = ("answers", "refusals", "seconds")

    def __init__(self) -> None:
        self.refusals = self.answers = 0
        self.seconds = 0.0

    def add(self, other: _Counts) -> None:
        self.refusals += other.refusals
        self.answers += other.answers
        self.seconds += other.seconds

    @property
    def refusals_per_s(self) -> float:
        return self.refusals / self.seconds

    def are_many(self, share: float) -> bool:
        """Whether there were more refusals than that for each answer."""
        return self.refusals > max(FREE_PER_S * self.seconds, share * self.answers)


class Holding:
    """How long a refusal is held. Times are of one monotonic clock, in seconds."""

    __slots__ = ("_again_s", "_before_per_s", "_counts", "_ends_s", "_opened", "_opened_so_far", "_pause_s", "_stage",
                 "_sum", "_vain", "_watch_s", "held", "hold_s")  # fmt: skip

    def __init__(self, opened: Callable[[], int]) -> None:
        """opened: how many connections were ever opened."""
        self._opened_so_far, self._opened = opened, 0
        self._ends_s = self._again_s = float("-inf")
        self._counts = _Counts()
        """Of this window."""
        self._watch_s, self._pause_s = WATCH_S, AGAIN_S
        self._before_per_s = 0.0
        """Refusals before the trial."""
        self.held = 0
        """Refusals that wait now; counted by whoever lets them."""
        self.hold_s = 0.0
        self._enter(_Stage.AT_ONCE, 0.0)

    def refused(self, now_s: float) -> float:
        """One more is refused: how long that one is held."""
        if now_s >= self._ends_s:
            self._close(now_s)
        self._counts.refusals += 1
        return self.hold_s

    def answered(self) -> None:
        """One was done, or failed in its own way."""
        self._counts.answers += 1

    def _enter(self, stage: _Stage, hold_s: float) -> None:
        self._stage, self.hold_s = stage, hold_s
        self._sum, self._vain = _Counts(), 0

    @property
    def _window_s(self) -> float:
        return LOOK_S if self._stage is _Stage.TRIAL else max(WINDOW_S, self.hold_s)

    def _close(self, now_s: float) -> None:
        """The end of a window. The first refusal after its time ends it, so it may have been longer than others."""
        counts, self._counts = self._counts, _Counts()
        counts.seconds = now_s - self._ends_s + self._window_s
        opened = self._opened_so_far() - self._opened
        self._opened += opened
        if now_s - self._ends_s > STALE_S:
            self._pause_s = AGAIN_S
            self._again_s = min(self._again_s, now_s + AGAIN_S)
            self._enter(_Stage.AT_ONCE, 0.0)
        elif self._stage is _Stage.AT_ONCE:
            self._watch(counts, now_s)
        elif opened > OPENED_PER_S_MAX * max(WINDOW_S, counts.seconds):
            self._let_go(now_s)
        elif self._stage is _Stage.TRIAL:
            self._try(counts, now_s)
        else:
            self._adjust(counts, now_s)
        self._ends_s = now_s + self._window_s

    def _watch(self, counts: _Counts, now_s: float) -> None:
        self._sum.add(counts)
        if self._sum.seconds < self._watch_s:
            return
        if self._sum.are_many(MANY) and now_s >= self._again_s:
            self._before_per_s = self._sum.refusals_per_s
            self._begin_trial(TRIAL_HOLD_S)
        else:
            self._enter(_Stage.AT_ONCE, 0.0)

    def _begin_trial(self, hold_s: float) -> None:
        self._enter(_Stage.TRIAL, hold_s)
        self._sum.seconds = -(SKIPPED_S + hold_s)

    def _try(self, counts: _Counts, now_s: float) -> None:
        if self._sum.seconds < 0:
            self._sum.seconds = max(0.0, self._sum.seconds + counts.seconds)
            return
        self._sum.add(counts)
        if self._sum.seconds < COUNTED_HOLDS * self.hold_s:
            return
        if self._sum.refusals_per_s <= HELPS * self._before_per_s:
            self._watch_s, self._pause_s = WATCH_AGAIN_S, AGAIN_S
            self._enter(_Stage.HOLDING, self.hold_s)
        elif self.hold_s < HOLD_S_MAX:
            self._begin_trial(HOLD_S_MAX)
        else:
            self._let_go(now_s)

    def _adjust(self, counts: _Counts, now_s: float) -> None:
        are_many, was_longest = counts.are_many(SHARE), self.hold_s == HOLD_S_MAX
        is_vain = are_many and was_longest and counts.refusals_per_s > HELPS * self._before_per_s
        self.hold_s = min(self.hold_s * LONGER, HOLD_S_MAX) if are_many else self.hold_s * SHORTER
        self._vain = self._vain + 1 if is_vain else 0
        if self._vain == VAIN_WINDOWS:
            self._let_go(now_s)
        elif self.hold_s < HOLD_S_MIN:
            self._enter(_Stage.AT_ONCE, 0.0)

    def _let_go(self, now_s: float) -> None:
        """It does not help: refusals go out at once, for some time in any case."""
        self._again_s, self._watch_s = now_s + self._pause_s, WATCH_S
        self._pause_s = min(2 * self._pause_s, AGAIN_S_MAX)
        self._enter(_Stage.AT_ONCE, 0.0)
