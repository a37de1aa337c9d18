"""Random schedules of writes that begin with their accept, as those of a volley do (coordination/writing/volley.py)."""

from __future__ import annotations

import pytest

from cluster.coordination.writing.together import is_plain_put
from cluster.protocol.changes import Change, Compute, Put
from cluster.protocol.messages import Accept, Accepted, Answer, Lost, Prepare
from cluster.protocol.proposer import (
    Chosen,
    Proposer,
    Steps,
    accept_after_promises,
    is_plain_promise,
    straight_accept,
)
from cluster.protocol.steps import Ask
from storage.ballot import NONE, SLOT_BITS
from tests.protocol.test_random_schedules import PRESETS, holds
from tests.protocol.world import Rules

SEEDS = 200
"""Per preset."""
MUTANT_SEEDS = 3_000


class Straight(Proposer):
    """Sends the accept of a prepared ballot first, and goes on from there unless a majority grants it."""

    is_begun = False

    def run(self) -> Steps:
        prepared = None if self.is_begun else self._prepared.take(self.key)
        self.is_begun = True
        if prepared is None:
            return (yield from super().run())
        accept = straight_accept(self.key, self.change, prepared, self._tick)
        if accept is None:
            self._prepared.put(self.key, *prepared)
            return (yield from super().run())
        self.sent = accept.record.origin
        # As a replica that leaves it out ends the waiting, whatever others say: sometimes at the first that grants it.
        enough = 1 if (accept.record.ballot >> SLOT_BITS) % 3 == 0 else self.majority
        return (yield from self._send(accept, enough))

    def _send(self, accept: Accept, enough: int) -> Steps:
        answers = yield Ask(accept, enough)
        took = [(slot, answer) for slot, answer in answers if isinstance(answer, Accepted)]
        if len(took) < self.majority:
            return (yield from self.carry_on(accept))
        if all(answer.promised_next for _, answer in took):
            self._prepared.put(self.key, accept.next_ballot, accept.record)
        return Chosen(accept.record, tuple(slot for slot, _ in took))


class First(Straight):
    """A plain put without a prepared ballot goes by plain promises (coordination/writing/canvass.py)."""

    is_first = True

    def run(self) -> Steps:
        change = self.change
        if not self.is_first or not self.is_plain_put(change) or self.key in self._prepared._ballots:
            self.is_first = False
            return (yield from super().run())
        self.is_first = False
        ballot = self._tick(NONE)
        answers = yield Ask(Prepare(self.key, ballot), self.majority, grants=self.is_plain)
        if sum(self.is_plain(answer) for _, answer in answers) < self.majority:
            return (yield from super().run())
        assert isinstance(change, Put)
        accept = accept_after_promises(self.key, change, ballot, self._tick)
        self.sent = accept.record.origin
        return (yield from self._send(accept, self.majority))

    def is_plain_put(self, change: Change | Compute) -> bool:
        return is_plain_put(change)

    def is_plain(self, answer: Answer) -> bool:
        return not isinstance(answer, Lost) and is_plain_promise(answer)


class MindsNoCondition(First):
    """Takes a put that is to be the first for one that asks for nothing."""

    def is_plain_put(self, change: Change | Compute) -> bool:
        return isinstance(change, Put) and change.condition.holds(None) and change.fence is None


class ForgetsThatItWasSent(Straight):
    """Begins anew, as if nothing had left this node."""

    def carry_on(self, begun: Accept) -> Steps:
        self.sent = None
        return (yield from self.run())


@pytest.mark.parametrize("proposer", [Straight, First])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_schedule_is_linearizable_and_converges(preset: str, proposer: type[Proposer]) -> None:
    for seed in range(SEEDS):
        assert holds(seed, PRESETS[preset], Rules(proposer=proposer)), f"{preset}: seed {seed}"


def test_a_condition_must_be_held_against_what_is_there() -> None:
    presets = list(PRESETS.values())
    schedules = ((seed, presets[seed % len(presets)]) for seed in range(MUTANT_SEEDS))
    assert not all(holds(seed, options, Rules(proposer=MindsNoCondition)) for seed, options in schedules)


def test_what_was_sent_must_not_be_forgotten() -> None:
    presets = list(PRESETS.values())
    schedules = ((seed, presets[seed % len(presets)]) for seed in range(MUTANT_SEEDS))
    assert not all(holds(seed, options, Rules(proposer=ForgetsThatItWasSent)) for seed, options in schedules)
