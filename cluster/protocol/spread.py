"""Spreading: more copies of a settled record than the majority that settled it.

A request with `w` above a majority waits for them, but its key does not: the write is decided, and the next one may
begin. A replica that holds something newer counts, for that was chosen after this record and replaced it.
"""

from __future__ import annotations

from collections.abc import Generator

from cluster.protocol.changes import RENEW
from cluster.protocol.messages import Accept, Accepted, Answer, Refused
from cluster.protocol.steps import Answers, Ask, HandOver, Pause, Step
from storage.ballot import NONE
from storage.record import Record


class Spread:
    """Brings one settled record to `needed` replicas. `slots` may be looked at from outside at any moment."""

    def __init__(self, key: bytes, record: Record, *, needed: int, majority: int) -> None:
        self.key, self.record, self.needed, self.majority = key, record, needed, majority
        self.slots: tuple[int, ...] = ()
        """The replicas known to hold the record or a later one."""

    def run(self) -> Generator[Step, Answers, tuple[int, ...]]:
        """Ends when enough have it; until then it tries for ever."""
        attempt = 0
        while True:
            accept = Accept(self.key, self.record, NONE, yielding=self.record.weak)
            answers = yield Ask(accept, self.needed, grants=self.is_there, hedge=True)
            self.slots = tuple(slot for slot, answer in answers if self.is_there(answer))
            if len(self.slots) >= self.needed:
                return self.slots
            if attempt:  # not late, then, but kept away by a promise: a round of its own brings it past that
                yield HandOver(RENEW, self.majority)
            attempt += 1
            yield Pause(attempt)

    def is_there(self, answer: Answer) -> bool:
        """Whether the replica has the record on disk, or one accepted after it."""
        return type(answer) is Accepted or (type(answer) is Refused and answer.ballot > self.record.ballot)
