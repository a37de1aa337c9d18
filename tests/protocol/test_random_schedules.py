"""The real pure modules under random schedules, and under each mutant, which must be caught.

A failure prints the preset and the seed; `World(seed, PRESETS[name], Rules())` is that very schedule again.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from cluster.protocol.acceptor import Acceptor, Decision
from cluster.protocol.changes import Put, Settle
from cluster.protocol.messages import Accept, Accepted, Answer, Refused
from cluster.protocol.prepared import Prepared, PreparedBallots
from cluster.protocol.proposer import Proposer, Refuted
from cluster.protocol.reader import Agreed, StrongRead, newest
from cluster.protocol.steps import Answers
from cluster.protocol.weak_write import WeakWrite
from storage.ballot import NONE
from storage.record import Record, ReplicaState
from tests.protocol.linearizable import is_linearizable
from tests.protocol.world import MAJORITY, Options, Rules, World

PRESETS = {
    "strong only": Options(),
    "strong and weak": Options(weak=0.25),
    "weak, clocks far apart": Options(weak=0.25, skew=400),
    "many copies": Options(relay=0.3, duplicate=0.5, concurrency=6, calls=16),
    "lossy": Options(loss=0.2, weak=0.1, concurrency=5, calls=16),
    "two proposers and relays": Options(
        loss=0.0,
        crash=0.0,
        duplicate=0.0,
        relay=0.5,
        concurrency=2,
        calls=8,
        stride=16,
        kinds=(25, 0, 75),
        own_first=0.7,
    ),
    "deletions": Options(deletes=0.6, purges=0.25, restarts=0.02, relay=0.2, kinds=(30, 45, 25), calls=12),
    "deletions and weak": Options(
        deletes=0.5, purges=0.25, restarts=0.02, relay=0.15, weak=0.35, kinds=(35, 40, 25), calls=12, loss=0.1
    ),
    "deletions, few at a time": Options(
        deletes=0.5, purges=0.15, relay=0.3, weak=0.4, kinds=(35, 40, 25), calls=8, concurrency=2, skew=12
    ),
    "expiring": Options(expiring=0.7, relay=0.15, kinds=(50, 20, 30), calls=12),
    "expiring and weak": Options(expiring=0.5, weak=0.35, relay=0.15, kinds=(50, 20, 30), calls=12, skew=100),
    "expiring and purged": Options(
        expiring=0.5, weak=0.25, deletes=0.2, purges=0.25, restarts=0.02, relay=0.15, kinds=(45, 25, 30), calls=12
    ),
    "fenced": Options(fenced=0.7, relay=0.15, kinds=(20, 60, 20)),
    "fenced and weak": Options(fenced=0.6, weak=0.35, relay=0.15, kinds=(20, 60, 20), skew=100),
    "fenced, replicas cut off": Options(
        fenced=1.0,
        weak=0.4,
        loss=0.0,
        crash=0.0,
        duplicate=0.0,
        relay=0.2,
        merge=0.0,
        kinds=(0, 100, 0),
        calls=18,
        concurrency=2,
        skew=1,
        stride=16,
        own_first=0.7,
        away=0.08,
    ),
    "fenced, one missed it": Options(fenced=0.8, relay=0.1, kinds=(20, 70, 10), calls=8, begins_missed=True),
    "fenced, deleted and purged": Options(
        fenced=0.6,
        deletes=0.4,
        expiring=0.2,
        purges=0.25,
        restarts=0.02,
        weak=0.25,
        relay=0.15,
        kinds=(15, 65, 20),
        calls=12,
    ),
    "read under fences": Options(fenced=0.7, fenced_reads=0.7, relay=0.15, kinds=(45, 45, 10)),
    "read under fences, and weak": Options(
        fenced=0.6, fenced_reads=0.7, weak=0.35, relay=0.15, kinds=(45, 45, 10), skew=100
    ),
    "read under fences, one missed it": Options(
        fenced=0.8, fenced_reads=0.8, relay=0.2, kinds=(45, 45, 10), calls=8, begins_missed=True
    ),
    "read under fences, deleted and purged": Options(
        fenced=0.2,
        fenced_reads=0.3,
        deletes=0.5,
        expiring=0.2,
        purges=0.25,
        restarts=0.02,
        weak=0.25,
        relay=0.15,
        kinds=(45, 45, 10),
        calls=12,
    ),
}
SEEDS = 1_000
"""Per preset, in the suite; `python -m tests.protocol.campaign` runs as many as you like."""


def holds(seed: int, options: Options, rules: Rules) -> bool:
    """Whether this schedule is linearizable and converges."""
    world = World(seed, options, rules)
    try:
        world.run()
    except AssertionError:
        return False
    if not (world.converges() and world.keeps_fences()):
        return False
    return world.stays_deleted() and world.keeps_fences() and is_linearizable(world.history)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_schedule_is_linearizable_and_converges(preset: str) -> None:
    for seed in range(SEEDS):
        assert holds(seed, PRESETS[preset], Rules()), f"{preset}: seed {seed}"


# -- mutants: one rule missing each ------------------------------------------------------------------------------


class AcceptIgnoresPromise(Acceptor):
    def may_accept(self, state: ReplicaState, message: Accept) -> bool:
        return message.record.ballot > state.ballot


class DuplicateDropsPromise(Acceptor):
    def accept_again(self, state: ReplicaState, message: Accept) -> Decision:
        return Decision(state, Accepted(True))


class DisplacedIsForgotten(Acceptor):
    def displaces(self, held: Record | None, record: Record) -> bool:
        return False


class AllNackMeansNo(Proposer):
    def note_failed_accept(self, answers: Answers) -> None:
        super().note_failed_accept(answers)
        refusals = [answer for _, answer in answers if isinstance(answer, Refused)]
        if len(refusals) == len(answers) >= MAJORITY:
            self.sent = None


class OwnValueIsConflict(Proposer):
    def is_own(self, base: Record | None) -> bool:
        return False

    def is_uncertain(self, base: Record | None) -> bool:
        return False


class TakesAnything(Acceptor):
    def is_sound(self, record: Record) -> bool:
        return True


class MergeUnderAnOlderBallot(Proposer):
    """What the first version did: a weak write merged under a ballot below its own origin."""

    def __init__(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        super().__init__(*args, **kwargs)
        self._above = 0


class SupersededByAnything(WeakWrite):
    def is_taken(self, answer: Answer) -> bool:
        return super().is_taken(answer) or (isinstance(answer, Refused) and answer.origin >= self.record.origin)


class ReadWithoutWriteBack(StrongRead):
    def write_back(self, held: dict[int, Record | None]):  # type: ignore[no-untyped-def, override]
        return Agreed(newest(list(held.values())), tuple(held))
        yield


class BallotIsUsedTwice(PreparedBallots):
    """A prepared ballot stays after it was used, as in gryadka's reference code."""

    def take(self, key: bytes) -> Prepared | None:
        found, state = self._ballots.get(key), self._own_state(key)
        return Prepared(found[0], state.record) if found and state and state.record else None


class FloorIsNotHeard(Proposer):
    """A proposer that takes the absence of a deleted key for one that never was."""

    def _promises(self, answers: Answers) -> list[tuple[int, Record | None]]:
        promises = super()._promises(answers)
        self._floor = NONE
        return promises


class ExpiryOfBaseIsNotSettled(Proposer):
    """A proposer that tells of a deletion by expiry before it is on a majority."""

    def _accept(self, ballot, base, record):  # type: ignore[no-untyped-def]
        if record is None and base.value is None:
            return Refuted(base, ())
        return (yield from super()._accept(ballot, base, record))


class FencesLostOnWeakWrite(Acceptor):
    """A weak write knows of no fence, and takes those away that are there."""

    def fenced(self, record: Record, other: Record) -> Record:
        return record if record.weak else super().fenced(record, other)


class SameBallotBringsNoFences(Acceptor):
    def accept_again(self, state: ReplicaState, message: Accept) -> Decision:
        decision = super().accept_again(state, message)
        return msgspec.structs.replace(decision, state=ReplicaState(decision.state.promised, state.record))


class FencesNotJoinedFromPromises(Proposer):
    """The newest record is all that counts, as for values."""

    def with_all_fences(self, base, promises):  # type: ignore[no-untyped-def]
        return base


class SeenFenceIsNotSettled(Proposer):
    """Replicas agree where their ballots do."""

    def is_same(self, record: Record | None, base: Record | None) -> bool:
        return (record.ballot if record else NONE) == (base.ballot if base else NONE)


class DeletesFences(Acceptor):
    def fenced(self, record: Record, other: Record) -> Record:
        return record if record.value is None else super().fenced(record, other)


class PutThatDeletesFences(Put):
    def apply(self, base: Record | None, ballot: int) -> Record | None:
        record = super().apply(base, ballot)
        return msgspec.structs.replace(record, fences=None) if record and record.value is None else record


class FencedReadMarksNobody(Proposer):
    """A fenced read that is a read."""

    def marked(self, base: Record | None, ballot: int) -> Record | None:
        return base


class FencedReadIsToldAtOnce(Proposer):
    """The reader need not wait: its mark is under way."""

    def _accept(self, ballot, base, record):  # type: ignore[no-untyped-def]
        ended = yield from super()._accept(ballot, base, record)
        is_marking = isinstance(self.change, Settle) and self.change.fence is not None
        return Refuted(base, ()) if is_marking and ended is None else ended


class MarkIsAWrite(Settle):
    """It is proposed, so it has an origin of its own."""

    def marked(self, base: Record | None, ballot: int, floor: int) -> Record | None:
        marked = super().marked(base, ballot, floor)
        return marked if marked is base or marked is None else msgspec.structs.replace(marked, origin=ballot)


class MarkOfNothingIsADeletion(Settle):
    """Where there is nothing, the mark is a deletion like any other."""

    def marked(self, base: Record | None, ballot: int, floor: int) -> Record | None:
        return super().marked(base, ballot, ballot)


class MarkIsOlderThanTheFloor(Settle):
    def marked(self, base: Record | None, ballot: int, floor: int) -> Record | None:
        return super().marked(base, ballot, NONE)


class PreparedUnderOtherFences(PreparedBallots):
    """Promise and record are what counts."""

    def take(self, key: bytes) -> Prepared | None:
        found, state = self._ballots.pop(key, None), self._own_state(key)
        if found is None or state is None or state.record is None:
            return None
        return Prepared(found[0], state.record) if (state.promised, state.ballot) == found[:2] else None


WEAK_FENCED, MISSED_FENCE = PRESETS["fenced and weak"], PRESETS["fenced, one missed it"]
FENCED_DELETES, PURGED_FENCES = replace(PRESETS["fenced"], deletes=0.4), PRESETS["fenced, deleted and purged"]
LOSSY_FENCED = Options(
    fenced=1.0, loss=0.2, crash=0.1, duplicate=0.0, relay=0.0, kinds=(0, 100, 0), calls=18, concurrency=3, skew=4,
    own_first=0.7,
)  # fmt: skip
READ_FENCED, WEAK_READ_FENCED = PRESETS["read under fences"], PRESETS["read under fences, and weak"]
PURGED_READ_FENCED = PRESETS["read under fences, deleted and purged"]
MISSED_READ_FENCED = PRESETS["read under fences, one missed it"]
EXPIRING = PRESETS["expiring"]
DELETIONS, WEAK_DELETIONS = PRESETS["deletions"], PRESETS["deletions and weak"]
WEAK, COPIES, DUEL = PRESETS["weak, clocks far apart"], PRESETS["many copies"], PRESETS["two proposers and relays"]
MUTANTS = {
    "relay-ignores-promise": (Rules(relay_acceptor=AcceptIgnoresPromise()), COPIES, 4_000),
    "accept-ignores-promise": (Rules(acceptor=AcceptIgnoresPromise()), COPIES, 4_000),
    "read-without-write-back": (Rules(strong_read=ReadWithoutWriteBack), COPIES, 4_000),
    "all-nack-means-no": (Rules(proposer=AllNackMeansNo), COPIES, 8_000),
    "own-value-is-conflict": (Rules(proposer=OwnValueIsConflict), COPIES, 4_000),
    "duplicate-drops-promise": (Rules(acceptor=DuplicateDropsPromise()), DUEL, 20_000),
    "displaced-is-forgotten": (Rules(acceptor=DisplacedIsForgotten()), WEAK, 4_000),
    "ballot-is-used-twice": (Rules(prepared=BallotIsUsedTwice), PRESETS["lossy"], 4_000),
    "merge-under-an-older-ballot": (Rules(acceptor=TakesAnything(), proposer=MergeUnderAnOlderBallot), WEAK, 4_000),
    "strong-record-supersedes": (Rules(weak_write=SupersededByAnything), replace(WEAK, loss=0.2), 8_000),
    "purge-before-all-hold-it": (Rules(compares_all=False), DELETIONS, 4_000),
    "purge-ignores-kept-aside": (Rules(minds_what_is_kept_aside=False), WEAK_DELETIONS, 4_000),
    "purge-forgets-the-floor": (Rules(records_the_floor=False), DELETIONS, 4_000),
    "expiry-is-not-settled": (Rules(settles_expiry=False), EXPIRING, 4_000),
    "expired-base-is-not-settled": (Rules(proposer=ExpiryOfBaseIsNotSettled), EXPIRING, 4_000),
    "floor-is-not-heard": (Rules(proposer=FloorIsNotHeard), DELETIONS, 4_000),
    "fences-lost-on-weak-write": (Rules(acceptor=FencesLostOnWeakWrite()), WEAK_FENCED, 4_000),
    "fences-not-joined-from-promises": (Rules(proposer=FencesNotJoinedFromPromises), MISSED_FENCE, 4_000),
    "same-ballot-brings-no-fences": (Rules(acceptor=SameBallotBringsNoFences()), WEAK_FENCED, 4_000),
    "seen-fence-is-not-settled": (Rules(proposer=SeenFenceIsNotSettled), LOSSY_FENCED, 16_000),
    "fence-dropped-on-delete": (Rules(acceptor=DeletesFences(), put=PutThatDeletesFences), FENCED_DELETES, 4_000),
    "fenced-tombstone-is-purged": (Rules(keeps_fenced_tombstones=False), PURGED_FENCES, 4_000),
    "fenced-read-marks-nobody": (Rules(proposer=FencedReadMarksNobody), READ_FENCED, 4_000),
    "fenced-read-is-told-at-once": (Rules(proposer=FencedReadIsToldAtOnce), READ_FENCED, 4_000),
    "mark-supersedes-weak-writes": (Rules(settle=MarkIsAWrite), WEAK_READ_FENCED, 4_000),
    "mark-of-nothing-is-a-deletion": (Rules(settle=MarkOfNothingIsADeletion), PURGED_READ_FENCED, 4_000),
    "mark-is-older-than-the-floor": (Rules(settle=MarkIsOlderThanTheFloor), PURGED_READ_FENCED, 4_000),
    "prepared-under-other-fences": (Rules(prepared=PreparedUnderOtherFences), MISSED_READ_FENCED, 8_000),
}
"""Mutant -> what it breaks, the preset that shows it soonest, and the seeds within which it must be caught."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_mutant_is_caught(mutant: str) -> None:
    rules, options, seeds = MUTANTS[mutant]

    assert any(not holds(seed, options, rules) for seed in range(seeds)), f"{mutant} went unnoticed in {seeds} seeds"
