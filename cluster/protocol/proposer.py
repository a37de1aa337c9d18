"""The proposer: CASPaxos on one key, as a conversation.

Rystsov, "CASPaxos" (2018), section 2.2. `run()` is a generator: it yields what to ask of the replicas and is sent
the answers; it never waits, sends or looks at a clock itself (cluster/coordination/drive.py does).

    prepare   a ballot to all; a majority promises and tells its records
    choose    the newest record goes through the change
    accept    the result to all; a majority has it: it is chosen

What must not be lost between these lines, each found the hard way by somebody:

* A ballot is spent once an accept bears it. The next attempt takes another, whatever became of this one.
* Once an accept was sent, refusals and silence prove nothing: a copy may have been accepted, relayed and
  overwritten. The retry that meets its own origin proposes it again. The retry that meets another's write under a
  newer ballot than its own accept is Uncertain: that write may have replaced ours. But a majority that promised and
  holds nothing as new as our accept never took it, and never will: the retry goes on, under the same origin, for a
  replica outside that majority may have it and hand it to somebody else.
* A condition that fails is reported only when what it saw is on a majority.
* A ballot is above the origin it carries, so an origin only grows along the history of a key. (A weak write that is
  merged under an older ballot would let the next strong write have an older origin than the one it replaces, and
  the weak write, kept aside elsewhere too, would come back over it.)
* Where a key was deleted for good, its absence has the floor as its origin: a weak write as old is superseded by it,
  and a retry whose accept was as old is Uncertain, for it may have been chosen, deleted and forgotten.
* An expired value is absent, and before anybody is told so its tombstone is on a majority: a clock that is behind would
  show the value again. The tombstone keeps the origin of the value, for it is what became of that write: under an
  origin of its own it would supersede weak writes that are newer than the value, and that nobody deleted.
* Fences are the key's, and any replica of the majority may be the one that was told of the highest: what is proposed
  bears those of all that promised, whichever of them has the newest record. Ballots alone don't say that replicas
  agree on them: before a write is refused for what was seen, the fences are on a majority, too. Nor does it suffice
  that a majority shows them: a replica takes fences under a ballot that it holds past any promise, and who was promised
  before was not told. So they count where all that promise tell them, or where an accept of ours bore them.
* A reader's fence (Settle.fence) is no write: the record is proposed once more, with the fence, under its own origin.
  What comes of it is known by its ballot alone, and an attempt that fails has only closed the door to earlier holders.
* A prepared ballot (promised with the last accept) is used only while this node's own replica still shows that
  promise and that record; see prepared.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import msgspec

from cluster.protocol.acceptor import newest
from cluster.protocol.changes import Change, Compute, Merge, Put, Settle
from cluster.protocol.messages import Accept, Accepted, Held, Prepare, Promised, Read, Refused, Reply
from cluster.protocol.prepared import Prepared, PreparedBallots
from cluster.protocol.steps import Answers, Ask, Pause
from storage.ballot import NONE
from storage.record import Record


class Chosen(msgspec.Struct, frozen=True, gc=False):
    """The change's record is on a majority."""

    record: Record
    slots: tuple[int, ...]
    """The replicas known to have it on disk."""


class Refuted(msgspec.Struct, frozen=True, gc=False):
    """The change does not apply to this record, which is on a majority; of an expired value to its tombstone."""

    record: Record | None
    slots: tuple[int, ...]


class Uncertain(msgspec.Struct, frozen=True, gc=False):
    """The change may be applied, now or later, under this origin."""

    origin: int
    slots: tuple[int, ...]


Steps = Generator[Ask | Pause, Answers, Chosen | Refuted | Uncertain]


def _no_clock() -> int:
    return 0


class Proposer:
    """Carries one change through; used once. `sent` may be looked at from outside at any moment."""

    def __init__(
        self,
        key: bytes,
        change: Change | Compute,
        *,
        majority: int,
        tick: Callable[[int], int],
        prepared: PreparedBallots,
        now_ms: Callable[[], int] = _no_clock,
        clock_offset_max_ms: int = 0,
    ) -> None:
        """tick(above) gives a new ballot above that one; now_ms() this node's time, and without one nothing expires.

        clock_offset_max_ms: how far the clock of who asks for the change may be ahead of ours; it is not believed more.
        """
        self.key, self.change, self.majority = key, change, majority
        self._tick, self._prepared = tick, prepared
        self._now_ms, self._clock_offset_max_ms = now_ms, clock_offset_max_ms
        self._above = change.record.origin if isinstance(change, Merge) else NONE
        self.sent: int | None = None
        """The origin of our value once an accept bears it: from here on nobody may say `not applied`."""
        self._sent_under = NONE
        """The lowest ballot of our accepts that may have been chosen."""
        self._floor = NONE
        """Up to here the key may have been deleted for good, as those say that promised the last ballot."""
        self.promised = self.accepted = 0
        """How many replicas granted the last prepare, and the last accept."""

    def carry_on(self, begun: Accept) -> Steps:
        """The whole conversation from where straight_accept() has begun it.

        It asks for that accept once more: who has it says so, and it is one accept all the same.
        """
        self.sent, self._sent_under = begun.record.origin, begun.record.ballot
        ended = yield from self._ask_to_accept(begun, is_new=True)
        if ended is not None:
            return ended
        yield Pause(1)
        return (yield from self.run())

    def run(self) -> Steps:
        """The whole conversation."""
        attempt = 0
        base: Record | None
        agreed: tuple[int, ...]
        while True:
            prepared = self._prepared.take(self.key)
            if prepared is not None and prepared.ballot > self._above and not self._is_renewal:
                ballot, base, agreed = prepared.ballot, prepared.base, ()  # one round trip less
                self._floor = NONE
            else:
                ballot = self._tick(self._above)
                answers = yield Ask(Prepare(self.key, ballot), self.majority)
                promises = self._promises(answers)
                self.promised = len(promises)
                if len(promises) < self.majority:
                    attempt += 1
                    yield Pause(attempt)
                    continue
                base = self.with_all_fences(newest([record for _, record in promises]), promises)
                agreed = self._agreed(promises, base)
            if self.is_uncertain(base):
                return Uncertain(self.sent or NONE, ())
            told, base = base, self.marked(self.as_of_now(base), ballot)
            is_changed = base is not told
            if is_changed:
                agreed = ()  # nobody has this tombstone, or this mark, yet
            record = self._own_again(base, ballot) or self._apply(base, ballot)
            if self.sent is not None:
                agreed = ()  # ours may be on a minority: only a newer record on a majority rules it out
                if record is None and base is None:
                    return Uncertain(self.sent, ())
            renew = self._is_renewal and base is not None
            is_prepared = prepared is not None and ballot == prepared.ballot
            may_ask = not (renew or is_changed) and self.sent is None and self.is_shown_by_reads(base, is_prepared)
            if record is None and not agreed and may_ask:
                agreed = yield from self._check_still_settled(base)
            if record is None and agreed and not renew:
                self._keep_unspent(ballot, base)
                return Refuted(base, agreed)
            ended = yield from self._accept(ballot, base, record)
            if ended is not None:
                return ended
            attempt += 1
            yield Pause(attempt)

    def _accept(
        self, ballot: int, base: Record | None, record: Record | None
    ) -> Generator[Ask, Answers, Chosen | Refuted | Uncertain | None]:
        """Proposes `record`, or `base` once more where the change does not apply. None: try again."""
        proposal = record
        if proposal is None:
            assert base is not None, "an absent key is agreed on by every majority"
            proposal = base.under(ballot, base.weak)
        else:
            if not self.is_own(base):  # else an earlier accept of ours may have been chosen, and nothing rules it out
                self._sent_under = ballot
            self.sent = proposal.origin
        # After a merge comes the next weak write, if anything: a promise would stand in its way.
        next_ballot = NONE if isinstance(self.change, Merge) else self._tick(ballot)
        return (yield from self._ask_to_accept(Accept(self.key, proposal, next_ballot), record is not None))

    def _ask_to_accept(self, accept: Accept, is_new: bool) -> Generator[Ask, Answers, Chosen | Refuted | None]:
        """is_new: whether it bears the change, and not what was there."""
        answers = yield Ask(accept, self.majority)
        slots = tuple(slot for slot, answer in answers if type(answer) is Accepted)
        self.accepted = len(slots)
        if len(slots) < self.majority:
            self.note_failed_accept(answers)
            return None
        if sum(type(answer) is Accepted and answer.promised_next for _, answer in answers) >= self.majority:
            self._prepared.put(self.key, accept.next_ballot, accept.record)
        return Chosen(accept.record, slots) if is_new else Refuted(accept.record, slots)

    def note_failed_accept(self, answers: Answers) -> None:
        """No majority took it: aim higher. Whatever the refusals say, our value may be somewhere."""
        self._look_above(answers)

    def is_uncertain(self, base: Record | None) -> bool:
        """A retry that meets another's newer write can't know what became of its own.

        Nor can one that meets a floor: its own may have been deleted, and all of that purged. A merge may be applied
        again: its origin makes the second time do nothing.
        """
        if self.sent is None or isinstance(self.change, Merge) or self.is_own(base):
            return False
        return _ballot(base) > self._sent_under or self._floor >= self._sent_under

    def is_deleted_for_good(self, base: Record | None) -> bool:
        """Whether a merge comes too late: all that was as old is purged. A floor never stands against a record."""
        return base is None and isinstance(self.change, Merge) and self.change.record.origin <= self._floor

    def as_of_now(self, base: Record | None) -> Record | None:
        """The tombstone of a base that has expired: by our clock, or by that of who asks, if that is ahead.

        A merge does not mind: it compares writes, and tells nobody of a value.
        """
        if base is None or not base.expires_at_ms or isinstance(self.change, Merge):
            return base
        own_ms = self._now_ms()
        now_ms = max(own_ms, min(self.change.now_ms, own_ms + self._clock_offset_max_ms))
        return base.deleted() if base.is_expired(now_ms) else base

    @property
    def _is_renewal(self) -> bool:
        """Whether a replica is to be brought along that has promised more: a ballot from before would be below that."""
        return isinstance(self.change, Settle) and self.change.renew

    def marked(self, base: Record | None, ballot: int) -> Record | None:
        """The base bearing the fence of who reads it; itself (`is`) where it does, or nobody's is to be remembered."""
        return self.change.marked(base, ballot, self._floor) if isinstance(self.change, Settle) else base

    def is_shown_by_reads(self, base: Record | None, is_prepared: bool) -> bool:
        """Whether a majority that shows this base has it settled: its fences only where an accept of ours bore them."""
        return is_prepared or base is None or base.fences is None

    def is_own(self, base: Record | None) -> bool:
        """Whether an earlier attempt of this very change was adopted."""
        return self.sent is not None and base is not None and base.origin == self.sent

    def _own_again(self, base: Record | None, ballot: int) -> Record | None:
        return base.under(ballot, base.weak) if base is not None and self.is_own(base) else None

    def _apply(self, base: Record | None, ballot: int) -> Record | None:
        """What the change makes of the base; under the origin that it had before, if it was sent before."""
        record = None if self.is_deleted_for_good(base) else self.change.apply(base, ballot)
        if record is None or self.sent is None:
            return record
        return msgspec.structs.replace(record, origin=self.sent)

    def _check_still_settled(self, base: Record | None) -> Generator[Ask, Answers, tuple[int, ...]]:
        """Before a refusal out of a prepared ballot: is `base` on a majority now?

        A read costs no disk write, so it comes before proposing the same record again. Gives the replicas that
        agree, or nothing.
        """
        answers = yield Ask(Read(self.key, value=False), self.majority)
        held = [(slot, answer.record) for slot, answer in answers if type(answer) is Held]
        agreed = tuple(slot for slot, record in held if self.is_same(record, base))
        return agreed if len(agreed) >= self.majority else ()

    def _keep_unspent(self, ballot: int, base: Record | None) -> None:
        """A ballot that a majority has promised, and no accept has borne, serves the next change."""
        if base is not None:
            self._prepared.put(self.key, ballot, base)

    def _promises(self, answers: Answers) -> list[tuple[int, Record | None]]:
        self._look_above(answers)
        promised = [(slot, answer) for slot, answer in answers if type(answer) is Promised]
        self._floor = max((answer.floor for _, answer in promised), default=NONE)
        return [(slot, answer.record) for slot, answer in promised]

    def _look_above(self, answers: Answers) -> None:
        for _, answer in answers:
            if type(answer) is Refused and answer.highest > self._above:
                self._above = answer.highest

    def with_all_fences(self, base: Record | None, promises: list[tuple[int, Record | None]]) -> Record | None:
        """The newest record, bearing the fences of all; itself (`is`) where there are none, or no more."""
        if base is None:
            return None
        for _, record in promises:
            if record is not None and record.fences is not None and record is not base:
                base = base.bearing(record.fences)
        return base

    def is_same(self, record: Record | None, base: Record | None) -> bool:
        """Whether a replica that holds the one holds the other: the same write, under the same ballot and fences."""
        if record is None or base is None:
            return record is base
        return record.ballot == base.ballot and record.fences == base.fences

    def _agreed(self, promises: list[tuple[int, Record | None]], base: Record | None) -> tuple[int, ...]:
        """The promising replicas, if all hold this very record; else nothing."""
        agree = all(self.is_same(record, base) for _, record in promises)
        return tuple(slot for slot, _ in promises) if agree else ()


def straight_accept(
    key: bytes, change: Change | Compute, prepared: Prepared, tick: Callable[[int], int]
) -> Accept | None:
    """What run() would ask for first where nothing stands in the way of a prepared ballot; None where something may.

    Whoever sends it has spent the ballot, and goes on with carry_on() unless a majority grants it.
    """
    base = prepared.base
    if base.expires_at_ms or not isinstance(change, Put | Compute):
        return None
    record = change.apply(base, prepared.ballot)
    return None if record is None else Accept(key, record, tick(prepared.ballot))


def is_plain_promise(reply: Reply) -> bool:
    """Whether it promises, and what is there bears no fences: a plain put then makes the same of it as of nothing.

    Fences would stay there all the same (acceptor.py, 5), but the record would not be what was proposed.
    """
    return type(reply) is Promised and (reply.record is None or reply.record.fences is None)


def accept_after_promises(key: bytes, put: Put, ballot: int, tick: Callable[[int], int]) -> Accept:
    """What run() would ask a plain put to be accepted with, once a majority has given plain promises of this ballot.

    Whoever sends it has spent the ballot, and goes on with carry_on() unless a majority grants it.
    """
    record = put.apply(None, ballot)
    assert record is not None, "a plain put has no condition and no fence"
    return Accept(key, record, tick(ballot))


def _ballot(record: Record | None) -> int:
    return record.ballot if record is not None else NONE
