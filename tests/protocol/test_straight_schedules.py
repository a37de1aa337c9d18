"""Random schedules of writes that begin with their accept, as those of a volley do (coordination/writing/volley.py)."""

from __future__ import annotations

import pytest

from cluster.protocol.messages import Accept, Accepted
from cluster.protocol.proposer import Chosen, Proposer, Steps, straight_accept
from cluster.protocol.steps import Ask
from storage.ballot import SLOT_BITS
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
        answers = yield Ask(accept, enough)
        took = [(slot, answer) for slot, answer in answers if isinstance(answer, Accepted)]
        if len(took) < self.majority:
            return (yield from self.carry_on(accept))
        if all(answer.promised_next for _, answer in took):
            self._prepared.put(self.key, accept.next_ballot, accept.record)
        return Chosen(accept.record, tuple(slot for slot, _ in took))


class ForgetsThatItWasSent(Straight):
    """Begins anew, as if nothing had left this node."""

    def carry_on(self, begun: Accept) -> Steps:
        self.sent = None
        return (yield from self.run())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_schedule_is_linearizable_and_converges(preset: str) -> None:
    for seed in range(SEEDS):
        assert holds(seed, PRESETS[preset], Rules(proposer=Straight)), f"{preset}: seed {seed}"


def test_what_was_sent_must_not_be_forgotten() -> None:
    presets = list(PRESETS.values())
    schedules = ((seed, presets[seed % len(presets)]) for seed in range(MUTANT_SEEDS))
    assert not all(holds(seed, options, Rules(proposer=ForgetsThatItWasSent)) for seed, options in schedules)
