"""Drive: carries a conversation of the pure core (proposer, readers) to its end.

The generator says whom to ask and how many must grant; Drive sends, counts and resumes it. No task, future or lock
per replica: answers are callbacks, and a late one finds its round over and is ignored. One sweep looks after the
deadlines and the slow replicas of all conversations, instead of a timer for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from random import Random
from typing import Any, Protocol

from cluster.ballot_clock import BallotClock
from cluster.clock import Clock
from cluster.link.transport import Transport
from cluster.membership.fitness import Roster
from cluster.protocol.changes import Change
from cluster.protocol.messages import Answer, Outcome, Read, Refused
from cluster.protocol.quorum import Quorum, Verdict
from cluster.protocol.steps import Answers, Ask, HandOver, Pause, Step
from cluster.tasks import safely

SWEEP_S = 0.02
"""How often deadlines are looked at, and so how exactly they are kept."""
PATIENCE_S = 0.1
"""When a conversation stops waiting for a slow replica: far above a healthy answer, far below a timeout. Doubled each
time, for a late answer to an old round is not heard: on a slow network no round would ever hear enough."""
BUDGET_SHARE = 0.95
"""Of the time left, what another node may use for it: its answer has to travel back, and says more than a timeout."""
BACKOFF_S_MIN = 0.004
BACKOFF_S_MAX = 0.25
"""Pause before another attempt, doubled each time, with jitter, so that two proposers don't duel for ever."""


class Watched(Protocol):
    """What the sweeper looks after."""

    deadline_s: float
    patience_s: float

    def expire(self) -> None:
        """The deadline has passed."""
        ...

    def hurry(self) -> None:
        """It has waited long enough for the slow ones."""
        ...


class Sweeper:
    """Calls each conversation that is overdue or that has waited long enough. Sweeps only while there are any."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: dict[Watched, None] = {}
        self._is_sweeping = False

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, item: Watched) -> None:
        """From now on its `deadline_s` and `patience_s` are watched."""
        self._watched[item] = None
        if not self._is_sweeping:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def discard(self, item: Watched) -> None:
        """It is over."""
        self._watched.pop(item, None)

    def _sweep(self) -> None:
        now_s = self._clock.monotonic_s()
        for item in list(self._watched):
            if item not in self._watched:
                continue  # whoever was called before it has ended it, or has it begun: its time is not up
            if now_s >= item.deadline_s:
                self.discard(item)
                safely(item.expire)
            elif now_s >= item.patience_s:
                safely(item.hurry)
        self._is_sweeping = bool(self._watched)
        if self._is_sweeping:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)


HandOverTo = Callable[[bytes, Change, int, float, Callable[[Outcome], None]], None]
"""(key, change, needed, deadline_s, on_outcome): lets the key's primary propose; see handover.py."""


class Context:
    """What every conversation of a node needs."""

    __slots__ = ("ballots", "clock", "hand_over", "random", "roster", "sweeper", "transport")

    def __init__(
        self, transport: Transport, ballots: BallotClock, clock: Clock, random: Random, roster: Roster
    ) -> None:
        self.transport, self.ballots, self.clock, self.random = transport, ballots, clock, random
        self.roster = roster
        self.sweeper = Sweeper(clock)
        self.hand_over: HandOverTo = _nobody_proposes
        """Set once the primary is there."""


def _nobody_proposes(key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: object) -> None:
    raise AssertionError("the node is not put together yet")


class Drive:
    """One conversation about a key with the replicas in `slots`."""

    __slots__ = (
        "_context",
        "_key",
        "_on_end",
        "_on_expire",
        "_round",
        "_slots",
        "_steps",
        "_wait_s",
        "deadline_s",
        "patience_s",
    )

    def __init__(
        self,
        context: Context,
        key: bytes,
        steps: Generator[Step, Answers, Any],
        slots: tuple[int, ...],
        deadline_s: float,
        on_end: Callable[[Any], None],
        on_expire: Callable[[], None],
    ) -> None:
        """Exactly one is called: on_end with what the generator returns, or on_expire at the deadline."""
        self._context, self._key, self._steps, self._slots = context, key, steps, slots
        self.deadline_s = deadline_s
        self.patience_s, self._wait_s = float("inf"), PATIENCE_S
        self._on_end, self._on_expire = on_end, on_expire
        self._round: _Round | None = None

    def start(self) -> None:
        """Begins."""
        self._context.sweeper.add(self)
        self.advance(None)

    def advance(self, answers: Answers | Outcome | None) -> None:
        """Resumes the generator with what its last step brought."""
        self._round = None
        self.patience_s = float("inf")
        try:
            step = self._steps.send(answers)  # type: ignore[arg-type]  # None the first time, an outcome after HandOver
        except StopIteration as end:
            self._context.sweeper.discard(self)
            self._on_end(end.value)
            return
        if type(step) is Ask:
            self._ask(step)
        elif type(step) is Pause:
            self._pause(step)
        else:
            assert type(step) is HandOver
            self._context.hand_over(self._key, step.change, step.needed, self.deadline_s, self._handed_over)

    def expire(self) -> None:
        """The deadline has passed: whatever still comes is ignored."""
        self._round = None
        self._steps.close()
        self.deadline_s = float("-inf")
        self._on_expire()

    @property
    def _is_over(self) -> bool:
        return self.deadline_s == float("-inf")

    def hurry(self) -> None:
        """Goes on without the slow replicas, if enough have answered to make that useful."""
        round_ = self._round
        if round_ is None:
            return
        enough = round_.quorum.verdict is Verdict.ACHIEVED
        if round_.ask.hedge or (round_.ask.linger and enough):
            self._wait_s *= 2
            self.advance(round_.answers)

    def _ask(self, ask: Ask) -> None:
        context = self._context
        if self._is_over:
            return
        if not context.ballots.check_durable() and type(ask.request) is not Read:  # which bears no ballot
            context.ballots.when_durable(partial(self._ask, ask))
            return
        slots = ask.slots or self._slots
        self._round = round_ = _Round(self, ask, len(slots))
        if ask.hedge or ask.linger:
            self.patience_s = context.clock.monotonic_s() + self._wait_s
        for slot in slots:
            request = ask.request
            if slot == ask.value_from:
                assert type(request) is Read
                request = Read(request.key, value=True)
            context.transport.send(slot, request, round_.on_answer)

    def _pause(self, pause: Pause) -> None:
        longest = min(BACKOFF_S_MIN * 2.0**pause.attempt, BACKOFF_S_MAX)
        delay = longest * (0.5 + self._context.random.random() / 2)
        asyncio.get_running_loop().call_later(delay, self._resume)

    def _handed_over(self, outcome: Outcome) -> None:
        if not self._is_over:
            self.advance(outcome)

    def _resume(self) -> None:
        if not self._is_over:
            self.advance([])


class _Round:
    """The answers to one Ask."""

    __slots__ = ("answers", "ask", "drive", "grant", "grants", "quorum")

    def __init__(self, drive: Drive, ask: Ask, asked: int) -> None:
        self.drive, self.ask = drive, ask
        self.grant, self.grants = ask.request.grant, ask.grants
        self.quorum = Quorum(ask.needed, asked)
        self.answers: Answers = []

    def on_answer(self, slot: int, answer: Answer) -> None:
        """Counts it; resumes the conversation once the vote is decided."""
        if type(answer) is Refused:  # late or not: the clock absorbs every ballot that it is told
            self.drive._context.ballots.absorb(answer.highest)
        if self.drive._round is not self:
            return
        self.answers.append((slot, answer))
        is_granted = type(answer) is self.grant if self.grants is None else self.grants(answer)
        verdict = self.quorum.add(is_granted)
        if verdict is Verdict.PENDING:
            return
        waits = self.ask.linger if verdict is Verdict.ACHIEVED else self.ask.hear_out
        if waits and self.quorum.outstanding:
            return
        self.drive.advance(self.answers)
