"""A proposer that tries again, step by step."""

from __future__ import annotations

from itertools import count

import pytest

from cluster.protocol.changes import Put
from cluster.protocol.messages import Accept, Lost, Prepare, Promised, Refused
from cluster.protocol.prepared import PreparedBallots
from cluster.protocol.proposer import Proposer, Uncertain
from cluster.protocol.steps import Ask, Pause
from cluster.requests import Condition, ConditionKind
from storage.record import Record


def test_an_accept_that_may_have_been_chosen_is_not_ruled_out_by_a_later_one() -> None:
    """A create was chosen under its second ballot; the answers were lost, and another write replaced it.

    The proposer had found its own record meanwhile and proposed it a third time, in vain. What replaced it was older
    than that third accept, and so the client was told of a conflict. A strong read had seen its value.
    """
    ballots = count(10, 10)
    change = Put(b"ours", "", Condition(ConditionKind.IF_ABSENT))
    proposer = Proposer(
        b"k", change, majority=2, tick=lambda above: max(next(ballots), above), prepared=PreparedBallots(lambda _: None)
    )
    steps = proposer.run()

    def accepts_after(promises: dict[int, Record | None]) -> Accept:
        ask = steps.send([(slot, Promised(record)) for slot, record in promises.items()])
        assert isinstance(ask, Ask)
        assert isinstance(ask.request, Accept)
        return ask.request

    def prepares_again(first: object) -> None:
        assert isinstance(first, Pause)
        ask = steps.send([])
        assert isinstance(ask, Ask)
        assert isinstance(ask.request, Prepare)

    next(steps)
    first = accepts_after({1: None, 2: None}).record  # it reaches one replica
    prepares_again(steps.send([(slot, Lost(sent=True)) for slot in range(3)]))
    second = accepts_after({1: first, 2: None}).record  # it reaches a majority: chosen, and nobody tells
    assert (second.origin, second.value) == (first.origin, b"ours")
    prepares_again(steps.send([(slot, Lost(sent=True)) for slot in range(3)]))
    third = accepts_after({0: second, 1: second}).record
    theirs = Record(second.ballot + 1, second.ballot + 1, False, b"theirs")  # prepared before the third was
    assert theirs.ballot < third.ballot
    refusal = Refused(third.ballot + 1, theirs.ballot, theirs.origin, False)
    prepares_again(steps.send([(slot, refusal) for slot in range(3)]))
    with pytest.raises(StopIteration) as end:
        steps.send([(1, Promised(theirs)), (2, Promised(theirs))])
    assert isinstance(end.value.value, Uncertain)
