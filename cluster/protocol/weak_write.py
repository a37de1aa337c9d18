"""The weak write: accepts without prepare, under the coordinator's clock, and a merge where they are refused.

The write keeps one ballot and one origin from beginning to end, so it can be sent as often as need be and is applied
at most once. Never is it sent again under another ballot: a copy may be accepted somewhere already.

    1. accept, yielding, to all replicas of the key. Enough have taken it: done.
    2. refused by a promise, by a strong record, or by a higher ballot with an older origin: a merge round through the
       key's primary, which queues it behind the strong writes that stand in its way.
    3. no primary, or no majority for it: accept again, without yielding.
    4. refused again: kept aside on this node's disk and merged later; nobody knows yet.

A replica may hold an origin so far ahead that no clock which is right can have given it out: a node whose clock was
wrong wrote it. Such a record does not supersede a write, or the write would be acknowledged and never be read. Where
every replica has said that it did not take the write, it surely is nowhere, and begins anew, under a fresh ballot
above that origin. Where one may have it, or will get it, nobody may say that it is written, nor send it again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import cast

import msgspec

from cluster.protocol.changes import Merge
from cluster.protocol.messages import Accept, Accepted, Answer, Lost, Outcome, Refused, Settled
from cluster.protocol.spread import Spread
from cluster.protocol.steps import Answers, Ask, HandOver, Pause, Step
from cluster.requests import Unknown, Written
from storage.ballot import BALLOT_MAX, NONE
from storage.record import Record


class Taken(msgspec.Struct, frozen=True, gc=False):
    """Enough replicas have the write on disk, or something newer that supersedes it."""


class Stuck(msgspec.Struct, frozen=True, gc=False):
    """It can't be brought in now."""


class Outrun(msgspec.Struct, frozen=True, gc=False):
    """It surely is nowhere, and an origin from too far ahead stands in its way: begin anew, above this ballot."""

    highest: int


class WeakWrite:
    """One weak or eventual write of one key. All but `run` may be looked at from outside at any moment."""

    def __init__(
        self,
        key: bytes,
        record: Record,
        *,
        needed: int,
        majority: int,
        replicas: int,
        name_of: Callable[[int], str],
        horizon: Callable[[int], int] = lambda ballot: BALLOT_MAX,
    ) -> None:
        """horizon(ballot): above it lies no origin that a clock which is right gave out by now."""
        self._horizon = horizon
        self.key, self.record, self.needed, self.majority, self.replicas = key, record, needed, majority, replicas
        self._name_of = name_of
        self.taken: set[str] = set()
        """The names of the replicas that acknowledged it."""
        self.may_be_applied = False
        """Whether anybody may hold it, or come to: nobody may say `not applied` then."""
        self.must_be_kept = False
        """Whether it was refused and not merged: then it must be kept aside on disk."""
        self.lost: list[int] = []
        """The slots from which no answer will come to the latest round."""
        self.met_wrong_clock = False
        """Whether a replica holds what only a clock that is wrong can have written."""

    @property
    def first_accept(self) -> Accept:
        """What replicas are asked first. May have been sent before run() by whoever says so in may_be_applied."""
        return Accept(self.key, self.record, NONE, yielding=True)

    def run(self) -> Generator[Step, Answers, Taken | Stuck | Outrun]:
        """The whole conversation."""
        yielding, attempt = True, 0
        while True:
            answers = yield from self._accept(yielding)
            if len(self.taken) >= self.needed:
                return Taken()
            if self._may_begin_anew(answers):
                return Outrun(max(answer.highest for _, answer in answers if type(answer) is Refused))
            if any(self.stands_back(answer) for _, answer in answers):
                outcome = yield from self._merge()
                if isinstance(outcome, Settled) and self._is_too_far(outcome.record):
                    return Stuck()
                if isinstance(outcome, Settled) and outcome.record is not None and len(self.taken) < self.needed:
                    yield from self._spread(outcome.record)
                if len(self.taken) >= self.needed:
                    return Taken()
                if not yielding:
                    return Stuck()
                yielding = False
            elif not self.may_be_applied:
                return Stuck()  # nothing was sent to anybody
            else:
                attempt += 1
                yield Pause(attempt)

    def _may_begin_anew(self, answers: Answers) -> bool:
        """Whether a record from afar stands in the way, and no replica has the write, nor could take it any more."""
        refusals = [answer for _, answer in answers if type(answer) is Refused]
        if self.may_be_applied or not any(map(self.is_from_afar, refusals)):
            return False
        return all(refusal.highest > self.record.ballot for refusal in refusals)

    def _accept(self, yielding: bool) -> Generator[Step, Answers, Answers]:
        before, self.may_be_applied = self.may_be_applied, True
        accept = self.first_accept if yielding else Accept(self.key, self.record, NONE)
        answers = yield Ask(accept, self.needed, grants=self.is_taken, hedge=True, hear_out=True)
        kinds = [answer for _, answer in answers]
        self.lost = [slot for slot, answer in answers if type(answer) is Lost]
        self.met_wrong_clock = self.met_wrong_clock or any(map(self.is_from_afar, kinds))
        surely_nowhere = len(answers) == self.replicas and all(
            is_surely_without(answer, self.record) for answer in kinds
        )
        self.may_be_applied = before or not surely_nowhere
        self.taken.update(self._name_of(slot) for slot, answer in answers if self.is_taken(answer))
        self.must_be_kept = self.must_be_kept or any(self.stands_back(answer) for answer in kinds)
        return answers

    def _merge(self) -> Generator[Step, Answers, Outcome]:
        before, self.may_be_applied = self.may_be_applied, True
        # A HandOver is sent its outcome where an Ask is sent answers.
        outcome = cast(Outcome, (yield HandOver(Merge(self.record), max(self.needed, self.majority))))
        if isinstance(outcome, Written | Settled):
            self.must_be_kept = False
        if isinstance(outcome, Settled) and self._is_too_far(outcome.record):
            self.met_wrong_clock = True
            # What settled there was written with a wrong clock. This write may have been there before it, and gone.
            return outcome
        if isinstance(outcome, Written | Settled):
            self.taken.update(outcome.replicas)
        elif not isinstance(outcome, Unknown):
            self.may_be_applied = before
        return outcome

    def _spread(self, settled: Record) -> Generator[Step, Answers, None]:
        """The key is settled on something newer on a majority, but more replicas were asked for."""
        slots = yield from Spread(self.key, settled, needed=self.needed, majority=self.majority).run()
        self.taken.update(map(self._name_of, slots))

    def is_taken(self, answer: Answer) -> bool:
        """Whether this answer acknowledges the write."""
        return is_taken(answer, self.record) and not self.is_from_afar(answer)

    def stands_back(self, answer: Answer) -> bool:
        """Whether a merge round has to bring the write in at this replica."""
        return type(answer) is Refused and not self.is_taken(answer)

    def is_from_afar(self, answer: Answer) -> bool:
        """Whether the replica holds what only a clock that is wrong can have written."""
        return type(answer) is Refused and answer.origin > self._horizon(self.record.ballot)

    def _is_too_far(self, settled: Record | None) -> bool:
        return settled is not None and settled.origin > self._horizon(self.record.ballot)


def is_taken(answer: Answer, record: Record) -> bool:
    """Whether the replica has the weak record on disk, or a newer weak record that supersedes it.

    Superseded counts only by a newer *weak* record: that one is itself never dropped without being kept aside,
    while a strong proposal that stands here may yet fail and vanish, and ours would have vanished with it.
    """
    if type(answer) is Accepted:
        return True
    return type(answer) is Refused and answer.weak and answer.origin >= record.origin


def is_surely_without(answer: Answer, record: Record) -> bool:
    """Whether the replica surely did not accept it by this message: it refused, could not, or was never asked.

    That it holds this very write (superseded by itself) says the contrary.
    """
    if type(answer) is Lost:
        return not answer.sent
    return type(answer) is not Accepted and not (type(answer) is Refused and answer.origin == record.origin)
