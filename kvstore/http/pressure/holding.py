"""Holding: refusals that wait a moment, where clients come back at once instead of after Retry-After.

A client that sends again as soon as it is refused asks as fast as it is answered: some hundred of them keep a node busy
with nothing but refusing them. Held for a moment, each of them asks a few times a second.

But those who come at their own pace, as strangers do, come as often whatever others are told; to hold theirs would only
make them open more connections. Which kind they are is found out: where there are several times as many refusals as
answers, refusals are held on trial. Where fewer come then, holding goes on, for as long as there are too many; where
not, or where connections are opened meanwhile, it ends, and is tried again some seconds later. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

WINDOW_S = 0.1
MANY, LASTING = 3.0, 10
"""So many refusals for each answer, in so many windows together, and it is tried. Twice the load makes two, or four if
its clients share the machine with the nodes."""
SHARE = 2.0
"""So many are left for each answer where holding helps."""
FREE = 50
"""So many in a window are none too many: some hundred a second cost nobody anything."""
TRIAL_S = 0.2
"""How long refusals are held on trial."""
SKIPPED, COUNTED = 3, 4
"""Windows of a trial: in the first ones come those who were refused before it."""
HELPS = 0.6
"""Of the refusals before it, what may come in a trial that has shown that holding helps."""
HOLD_S_MIN, HOLD_S_MAX = 0.01, 0.4
"""The longest is less than the patience of common clients by half."""
LONGER, SHORTER = 1.5, 0.95
"""From one window to the next: longer soon, shorter slowly, for the effect comes only after the hold."""
VAIN_WINDOWS = 20
"""So many in a row in which the longest hold is not enough, and it is no help any more."""
OPENED_MAX = 100
"""Connections that may be opened in a window while refusals are held: new clients come all the time."""
AGAIN_S = 5.0
"""Between two trials."""
STALE_S = 1.0
"""A window that ended so long ago says that nobody was refused since."""


class _Stage(Enum):
    AT_ONCE = auto()
    TRIAL = auto()
    HELD = auto()


class Holding:
    """How long a refusal is held. Times are of one monotonic clock, in seconds."""

    __slots__ = (
        "_again_s",
        "_all_answered",
        "_all_refused",
        "_before",
        "_ends_s",
        "_opened",
        "_opened_so_far",
        "_refused",
        "_stage",
        "_windows",
        "answered",
        "held",
        "hold_s",
    )

    def __init__(self, opened: Callable[[], int]) -> None:
        """opened: how many connections were ever opened."""
        self._opened_so_far, self._opened = opened, 0
        self._ends_s = self._again_s = float("-inf")
        self._refused = 0
        self.answered = 0
        """In this window; counted by whoever answers."""
        self.held = 0
        """Refusals held now; counted by whoever holds them."""
        self._before = 0.0
        """Refusals in a window before the trial."""
        self._enter(_Stage.AT_ONCE, 0.0)

    def refused(self, now_s: float) -> float:
        """One more is refused: how long that one is held."""
        if now_s >= self._ends_s:
            self._close(now_s)
        self._refused += 1
        return self.hold_s

    def _enter(self, stage: _Stage, hold_s: float) -> None:
        self._stage, self.hold_s = stage, hold_s
        self._windows = self._all_refused = self._all_answered = 0

    def _close(self, now_s: float) -> None:
        """The end of a window."""
        opened = self._opened_so_far() - self._opened
        self._opened += opened
        if now_s - self._ends_s > STALE_S:
            self._enter(_Stage.AT_ONCE, 0.0)
        elif self._stage is _Stage.AT_ONCE:
            self._watch(now_s)
        elif opened > OPENED_MAX:
            self._let_go(now_s)
        elif self._stage is _Stage.TRIAL:
            self._try(now_s)
        else:
            self._adjust(now_s)
        self._ends_s = now_s + WINDOW_S
        self._refused = self.answered = 0

    def _watch(self, now_s: float) -> None:
        self._windows += 1
        self._all_refused += self._refused
        self._all_answered += self.answered
        if self._windows < LASTING:
            return
        if self._all_refused > max(FREE * LASTING, MANY * self._all_answered) and now_s >= self._again_s:
            self._before = self._all_refused / LASTING
            self._enter(_Stage.TRIAL, TRIAL_S)
        else:
            self._enter(_Stage.AT_ONCE, 0.0)

    def _try(self, now_s: float) -> None:
        self._windows += 1
        if self._windows > SKIPPED:
            self._all_refused += self._refused
        if self._windows < SKIPPED + COUNTED:
            return
        if self._all_refused > HELPS * COUNTED * self._before:
            self._let_go(now_s)
        else:
            self._enter(_Stage.HELD, TRIAL_S)

    def _adjust(self, now_s: float) -> None:
        are_many = self._refused > max(FREE, SHARE * self.answered)
        is_longest = self.hold_s == HOLD_S_MAX
        self.hold_s = min(self.hold_s * LONGER, HOLD_S_MAX) if are_many else self.hold_s * SHORTER
        self._windows = self._windows + 1 if are_many and is_longest else 0
        if self._windows == VAIN_WINDOWS:
            self._let_go(now_s)
        elif self.hold_s < HOLD_S_MIN:
            self._enter(_Stage.AT_ONCE, 0.0)

    def _let_go(self, now_s: float) -> None:
        """It does not help: refusals go out at once, for some time in any case."""
        self._again_s = now_s + AGAIN_S
        self._enter(_Stage.AT_ONCE, 0.0)
