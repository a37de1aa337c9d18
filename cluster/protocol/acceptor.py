"""The acceptor: the one rule by which anything ever changes a replica.

Lamport, "Paxos Made Simple" (2001), section 2.2, in its own words: an acceptor can accept a proposal numbered n
iff it has not responded to a prepare request having a number greater than n. Here, per key:

    prepare(ballot)         is granted when ballot > promised and ballot > accepted; sets promised
    accept(ballot, record)  is granted when ballot > accepted and ballot >= promised

A client's write, a read's write-back, read repair, a hint, a streamed partition: all are the same accept. There
is no other door, because each door that copied a record past a promise has lost somebody's acknowledged write.

Three additions to the textbook:

1. The next ballot. An accept may ask for the promise of the proposer's next ballot, so that its next write can
   skip prepare (CASPaxos section 2.2.1). An accept that is here already, from a relay or a duplicate, is granted
   again, and says truthfully whether that promise was given: a replica may have promised more to another since.
2. What is pushed out. A weak record that gives way to anything but a newer weak record is returned as `displaced`
   and kept aside on disk: what pushed it out may itself fail, and the weak write was acknowledged.
3. Yielding. While a promise is outstanding (promised > accepted) a strong proposer is at work on the key or has
   just been. A weak write that says `yielding` is then refused although its ballot would do, and goes through that
   proposer instead. To refuse is always safe; to accept would turn the strong write under way into an unknown.
   A weak write that finds no proposer comes again without `yielding`.

And one about keys that are not here:

4. The floor. Where a key was deleted for good up to a ballot (cluster/repair/floors/) its absence has that ballot as
   promise and as origin: what is as old is refused, and a weak write that is as old is superseded. A floor is no
   record: it never wins over one.

And one about fences (storage/fences.py), which are the key's and not the record's:

5. They only grow. Whatever is accepted here bears what was held before, joined with what came; also a weak write, which
   knows of none, and also the ballot that is here already, which may come back from a replica that was told more.
   A promise tells them with the record. So a fence that a majority took is told by every majority, whatever was
   written since, and by whom.

Rules of this file: no I/O, no clock, no chance, and nothing is changed: states go in, states come out.
"""

from __future__ import annotations

import msgspec

from cluster.protocol.messages import Accept, Accepted, Prepare, Promised, Refused, Reply, Unfit
from storage.ballot import NONE
from storage.record import Record, ReplicaState


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What the acceptor decided: the reply may be sent once `state` (and `displaced`) are on disk."""

    state: ReplicaState
    """Identical (`is`) to the state that went in when nothing changed."""
    reply: Reply
    displaced: Record | None = None
    """A weak record that was pushed out and must be kept aside."""


PROMISED_NEXT, NOT_PROMISED_NEXT = Accepted(True), Accepted(False)


class Acceptor:
    """Decides; remembers nothing. Small methods, so that a test can break one rule at a time."""

    def prepare(self, state: ReplicaState, message: Prepare) -> Decision:
        """Grants the promise when the ballot is above everything promised and accepted."""
        if message.ballot > state.promised and message.ballot > state.ballot:
            promised = ReplicaState(message.ballot, state.record, state.floor)
            return Decision(promised, Promised(state.record, state.floor))
        return Decision(state, self.refusal(state))

    def accept(self, state: ReplicaState, message: Accept) -> Decision:
        """Grants the record when it is newer than what is here and no promise stands in its way."""
        record, held = message.record, state.record
        if not self.is_sound(record):
            return Decision(state, Unfit("a record has no ballot, or one below its origin; the sender is at fault"))
        if held is not None and record.ballot == held.ballot:
            return self.accept_again(state, message)
        if not self.may_accept(state, message):
            return Decision(state, self.refusal(state))
        promised = max(state.promised, message.next_ballot or record.ballot)
        displaced = held if self.displaces(held, record) else None
        if held is not None and held.fences is not None:
            record = self.fenced(record, held)
            displaced = displaced and displaced.without_fences()  # they stay here
        reply = PROMISED_NEXT if promised == message.next_ballot else NOT_PROMISED_NEXT
        return Decision(ReplicaState(promised, record), reply, displaced)

    def accept_again(self, state: ReplicaState, message: Accept) -> Decision:
        """The record is here already; the promise that rides along still counts, and so do its fences."""
        assert state.record is not None, "a ballot that is here bears a record"
        if state.origin != message.record.origin:
            return Decision(state, Unfit("one ballot came with two different writes; the sender is at fault"))
        promised = max(state.promised, message.next_ballot)
        record = self.fenced(state.record, message.record)
        if promised != state.promised or record is not state.record:
            state = ReplicaState(promised, record)
        return Decision(state, Accepted(promised == message.next_ballot))

    def restore(self, state: ReplicaState, record: Record | None, promised: int) -> Decision:
        """What a round settled that left this replica out takes the place of what it forgot.

        Not a door past the rule: until this is on disk the replica takes part in nothing for the key, and what it may
        have promised before lies below `promised`. A record of its own under a higher ballot is true, and stays.
        """
        held = state.record
        if record is None or (held is not None and held.ballot >= record.ballot):
            kept, displaced = held, None
        else:
            kept, displaced = record, held if self.displaces(held, record) else None
        if kept is not None and record is not None and held is not None:
            kept = self.fenced(self.fenced(kept, held), record)
        promised = max(promised, state.promised, kept.ballot if kept is not None else NONE)
        return Decision(ReplicaState(promised, kept, NONE if kept else state.floor), Accepted(False), displaced)

    def sealed(self, state: ReplicaState, message: Accept, seal: int) -> Decision | None:
        """The refusal of what is new and at or below a seal (cluster/replica/gates.py); None for all else."""
        if message.record.ballot > seal or message.record.ballot == state.ballot:
            return None
        return Decision(state, self.refusal(ReplicaState(max(state.promised, seal), state.record, state.floor)))

    def may_accept(self, state: ReplicaState, message: Accept) -> bool:
        """The rule, and the courtesy of a weak write to a strong proposer."""
        ballot = message.record.ballot
        if message.yielding and state.promised > state.ballot:
            return False
        return ballot > state.ballot and ballot >= state.promised

    def is_sound(self, record: Record) -> bool:
        """Whether the record can have come from a proposer that keeps the rules (proposer.py)."""
        return NONE < record.origin <= record.ballot

    def fenced(self, record: Record, other: Record) -> Record:
        """The record with the other's fences joined to its own; itself (`is`) where they add nothing."""
        return record.bearing(other.fences)

    def displaces(self, held: Record | None, record: Record) -> bool:
        """Whether accepting `record` pushes out a weak write that nothing newer and weak replaces."""
        return held is not None and held.weak and (not record.weak or held.origin > record.origin)

    def refusal(self, state: ReplicaState) -> Refused:
        """What the proposer must be above, and whether a weak write is superseded here."""
        weak = state.record.weak if state.record is not None else state.floor > NONE
        return Refused(state.promised, state.ballot, state.origin, weak)


def newest(records: list[Record | None]) -> Record | None:
    """The record with the highest ballot; None where nobody has one."""
    return max(records, key=lambda record: record.ballot if record is not None else NONE, default=None)
