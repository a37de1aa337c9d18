"""The strong read: one round trip and no disk write while the replicas agree.

Attiya, Bar-Noy and Dolev, "Sharing Memory Robustly in Message-Passing Systems" (1995): a reader that finds the
newest value on a minority writes it back to a majority before it returns it, else the next reader may not find it.
Here, because a promise may forbid that write, there is a third step: the primary settles the key.

    ask     a majority tells its ballots, the nearest also its value: the same ballot everywhere is the answer
    again   otherwise all tell their records: a majority on one ballot is the answer
    write   otherwise the newest record goes to all, as an ordinary accept: once a majority has it, it is the answer
    settle  otherwise NeedsSettling: a CASPaxos round that changes nothing

Ballots are compared, never values: equal values can come from two writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator

import msgspec

from cluster.protocol.acceptor import newest
from cluster.protocol.messages import Accept, Accepted, Held, Read
from cluster.protocol.steps import Answers, Ask, Pause
from storage.ballot import NONE
from storage.record import Record


class Agreed(msgspec.Struct, frozen=True, gc=False):
    """This record (None: absent) is on a majority."""

    record: Record | None
    slots: tuple[int, ...]
    """The replicas that answered: at least as many as were asked for, the majority that holds it among them."""


class NeedsSettling(msgspec.Struct, frozen=True, gc=False):
    """A promise stands in the way of the write-back."""


Steps = Generator[Ask | Pause, Answers, Agreed | NeedsSettling]


class StrongRead:
    """One read of one key."""

    def __init__(self, key: bytes, *, majority: int, needed: int, first: tuple[int, ...]) -> None:
        """first: whom to ask first, nearest in front; at least `needed` of the key's replicas."""
        self.key, self.majority, self.needed, self.first = key, majority, needed, first
        self.held: dict[int, Record | None] = {}
        """What each replica that answered in the last round holds; a value may have been left out."""

    def run(self) -> Steps:
        """The whole conversation."""
        nearest = self.first[0]
        answers = yield Ask(Read(self.key, value=False), self.needed, self.first, value_from=nearest, hedge=True)
        held = self._hold(answers)
        agreed = self._agreement(held)
        if agreed is not None and nearest in held and _ballot(held[nearest]) == _ballot(agreed.record):
            return agreed
        attempt = 0
        while True:
            answers = yield Ask(Read(self.key, value=True), self.needed, linger=True)
            held = self._hold(answers)
            if len(held) >= self.needed:
                agreed = self._agreement(held)
                return agreed if agreed is not None else (yield from self.write_back(held))
            attempt += 1
            yield Pause(attempt)

    def write_back(self, held: dict[int, Record | None]) -> Generator[Ask, Answers, Agreed | NeedsSettling]:
        """Puts the newest record on a majority before it is returned."""
        record = newest(list(held.values()))
        assert record is not None, "replicas that all hold nothing agree"
        # A weak record steps back where a strong proposer is at work: taken past its promise, it would leave that
        # proposer's write unknown. Settling then queues behind it.
        answers = yield Ask(Accept(self.key, record, NONE, yielding=record.weak), self.majority)
        taken: dict[int, Record | None] = {slot: record for slot, answer in answers if type(answer) is Accepted}
        self.held = held | taken
        return Agreed(record, tuple(self.held)) if len(taken) >= self.majority else NeedsSettling()

    def _hold(self, answers: Answers) -> dict[int, Record | None]:
        """The records by slot; a digest's value is missing, which _agreement() makes up for."""
        self.held = {slot: answer.record for slot, answer in answers if type(answer) is Held}
        return self.held

    def _agreement(self, held: dict[int, Record | None]) -> Agreed | None:
        """The ballot that a majority shares, if `needed` replicas have answered."""
        if len(held) < self.needed:
            return None
        counts = Counter(map(_ballot, held.values()))
        ballot, count = max(counts.items(), key=lambda item: item[1])
        if count < self.majority:
            return None
        same = [record for record in held.values() if _ballot(record) == ballot]
        # The value, where one sent it; a tombstone has none, and then any of them will do.
        record = max(same, key=lambda record: record is not None and record.value is not None)
        return Agreed(record, tuple(held))


class Newest(msgspec.Struct, frozen=True, gc=False):
    """The newest record among those that answered."""

    record: Record | None
    slots: tuple[int, ...]


class WeakRead:
    """One weak or eventual read: the newest of what `needed` replicas hold, and no promise beyond that."""

    def __init__(self, key: bytes, *, needed: int, first: tuple[int, ...]) -> None:
        """first: whom to ask before anybody else."""
        self.key, self.needed, self.first = key, needed, first
        self.held: dict[int, Record | None] = {}

    def run(self) -> Generator[Ask | Pause, Answers, Newest]:
        """The whole conversation."""
        answers = yield Ask(Read(self.key, value=True), self.needed, self.first, hedge=True)
        attempt = 0
        while True:
            self.held = held = {slot: answer.record for slot, answer in answers if type(answer) is Held}
            if len(held) >= self.needed:
                return Newest(newest(list(held.values())), tuple(held))
            if attempt:
                yield Pause(attempt)
            attempt += 1
            answers = yield Ask(Read(self.key, value=True), self.needed)


def _ballot(record: Record | None) -> int:
    return record.ballot if record is not None else NONE
