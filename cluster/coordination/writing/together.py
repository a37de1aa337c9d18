"""Writes of one key that go together: those that overwrite one another in the same instant need one proposal.

The strong writes of a key have an order, that of its line, and each is a round of votes and a commit. Of a run of
writes that ask for nothing but to be written (no condition, no fence), all but the last are overwritten by the next at
once: no read could ever come between them. So only the last is proposed. Once it is chosen all of them are applied,
each under a version of its own below that of the last; if it is unknown whether it is, so it is of all; if nothing was
sent, none is.

A version tells two writes apart: who writes on the condition that his own version is there is refused, for another went
over it. So each needs a ballot of this node's that nobody else was given, above all that the key has borne. A promised
ballot is fixed before it is known who will use it; where others wait, it is asked for with room below it.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Protocol, TypeVar

from msgspec.structs import replace

from cluster.ballot_clock import ballot_below
from cluster.protocol.changes import Change, Compute, Put
from cluster.protocol.messages import Outcome
from cluster.requests import ALWAYS, Unknown, Written

ROOM = 63
"""Ballots below one that is promised while others wait: so many writes can go before it. A millisecond has 4,096."""
APART_S_MAX = 1.0
"""How far apart their deadlines may be: the earliest becomes that of all."""
LEFT_S_MIN = 0.1
"""Who has less time left goes alone, so that others are not told `unknown` for his sake."""


class Waiting(Protocol):
    """One write in the line of its key."""

    change: Change | Compute
    needed: int
    deadline_s: float
    is_over: bool


Write = TypeVar("Write", bound=Waiting)


def is_plain(write: Waiting, majority: int) -> bool:
    """Whether nothing is asked but that it be written, and on a majority."""
    return write.needed <= majority and is_plain_put(write.change)


def is_plain_put(change: Change | Compute) -> bool:
    """Whether it asks for nothing but to be written."""
    return type(change) is Put and change.condition == ALWAYS and change.fence is None


def run_behind(first: Write, line: deque[Write], majority: int, now_s: float) -> tuple[list[Write], int]:
    """Those at the head of the line that can go with the one whose turn it is, and how many places of it they are.

    Between them there may be some that are over already.
    """
    along: list[Write] = []
    places = 0
    if line and is_plain(first, majority) and first.deadline_s - now_s >= LEFT_S_MIN:
        for place, write in enumerate(islice(line, ROOM)):
            if write.is_over:
                continue
            is_near = abs(write.deadline_s - first.deadline_s) <= APART_S_MAX
            if not (is_near and write.deadline_s - now_s >= LEFT_S_MIN and is_plain(write, majority)):
                break
            along.append(write)
            places = place + 1
    return along, places


def outcome_of_earlier(outcome: Outcome, steps: int) -> Outcome:
    """What became of a write so many places before the last, which had this outcome."""
    if isinstance(outcome, Written):
        return replace(outcome, version=ballot_below(outcome.version, steps))
    if isinstance(outcome, Unknown) and outcome.version is not None:
        return replace(outcome, version=ballot_below(outcome.version, steps))
    return outcome
