"""The puts of one batch that have one primary, handed to it in one message.

Each is answered for itself, so that one that hangs holds up none of the others. The rules are those of handover.py:
what may have reached a node is handed to nobody else, and what it surely did not take goes on alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from cluster.coordination.drive import BUDGET_SHARE, Context
from cluster.coordination.writing.primary import OnOutcome
from cluster.protocol.changes import Change, Put
from cluster.protocol.messages import Answer, Forwarded, ForwardMany, Lost, Outcome
from cluster.requests import Unknown
from cluster.tasks import safely

Writes = Sequence[tuple[bytes, Put]]
OnOutcomeOf = Callable[[int, Outcome], None]
"""(place, outcome)"""


class OfferToOthers(Protocol):
    """See Handover.offer_to_others."""

    def __call__(
        self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome, but: int
    ) -> None: ...


class HandingMany:
    """Some of the puts of a batch, until each has an outcome or goes on alone."""

    __slots__ = (
        "_context",
        "_needed",
        "_offer_to_others",
        "_on_outcome",
        "_waiting",
        "deadline_s",
        "patience_s",
    )

    def __init__(
        self,
        context: Context,
        puts: Writes,
        places: Sequence[int],
        needed: int,
        deadline_s: float,
        on_outcome: OnOutcomeOf,
        offer_to_others: OfferToOthers,
    ) -> None:
        """places: which of the puts they are. on_outcome(place, outcome) follows once for each, by the deadline."""
        self._context, self._needed, self._on_outcome = context, needed, on_outcome
        self._offer_to_others = offer_to_others
        self.deadline_s, self.patience_s = deadline_s, float("inf")
        self._waiting = {place: puts[place] for place in places}
        """Those without an answer, by place."""

    def offer(self, primary: int) -> None:
        """Sends them."""
        context = self._context
        context.sweeper.add(self)
        budget_s = self.deadline_s - context.clock.monotonic_s()
        forward = ForwardMany(list(self._waiting.values()), self._needed, int(budget_s * BUDGET_SHARE * 1000))
        context.transport.send_many(primary, forward, [partial(self._answered, place) for place in self._waiting])

    def expire(self) -> None:
        """They were handed over, and for these nothing came back in time."""
        waiting, self._waiting = self._waiting, {}
        for place in waiting:
            self._nobody_knows(place)

    def hurry(self) -> None:
        """Nobody else may be asked."""

    def _answered(self, place: int, slot: int, answer: Answer) -> None:
        write = self._waiting.pop(place, None)
        if write is None:
            return
        if not self._waiting:
            self._context.sweeper.discard(self)
        if type(answer) is Forwarded:
            safely(self._on_outcome, place, answer.outcome)
        elif type(answer) is Lost and answer.sent:
            self._nobody_knows(place)
        else:  # not sent, or refused before anything was done with it
            on_outcome = partial(self._on_outcome, place)
            self._offer_to_others(*write, self._needed, self.deadline_s, on_outcome, but=slot)

    def _nobody_knows(self, place: int) -> None:
        safely(self._on_outcome, place, Unknown(self._needed, 0, (), None))
