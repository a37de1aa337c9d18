"""What a floor says to proposers and writers, step by step."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from cluster.protocol.acceptor import Acceptor
from cluster.protocol.changes import Change, Merge, Put
from cluster.protocol.messages import Accept, Accepted, Prepare, Promised, Refused, Settled
from cluster.protocol.prepared import PreparedBallots
from cluster.protocol.proposer import Proposer, Refuted, Uncertain
from cluster.protocol.steps import Ask, HandOver, Pause
from cluster.protocol.weak_write import WeakWrite, is_taken
from storage.ballot import NONE
from storage.record import Record, ReplicaState

FLOOR = 100
ABSENT = ReplicaState(FLOOR, None, FLOOR)
"""A key of which a replica holds nothing, and that was deleted for good up to FLOOR."""


def weak(origin: int) -> Record:
    return Record(origin, origin, True, b"weak")


def propose(change: Change, states: list[ReplicaState]) -> Any:
    """Lets a proposer talk to three replicas that answer at once; how it ends, or its first accept."""
    steps = proposer(change).run()
    ask = next(steps)
    while True:
        assert isinstance(ask, Ask)
        if isinstance(ask.request, Accept):
            return ask.request
        assert isinstance(ask.request, Prepare)
        answers = [(slot, Acceptor().prepare(state, ask.request).reply) for slot, state in enumerate(states)]
        try:
            ask = steps.send(answers)
        except StopIteration as end:
            return end.value


def proposer(change: Change) -> Proposer:
    return Proposer(
        b"k", change, majority=2, tick=lambda above: max(above, 1_000) + 1, prepared=PreparedBallots(lambda _: None)
    )


@pytest.mark.parametrize("origin", [FLOOR - 1, FLOOR])
def test_a_weak_write_as_old_as_the_floor_is_superseded_by_it(origin: int) -> None:
    end = propose(Merge(weak(origin)), [ABSENT, ABSENT, ReplicaState()])
    assert isinstance(end, Refuted)
    assert end.record is None


def test_a_newer_weak_write_is_merged_over_a_floor() -> None:
    accept = propose(Merge(weak(FLOOR + 1)), [ABSENT] * 3)
    assert isinstance(accept, Accept)
    assert accept.record.origin == FLOOR + 1


def test_a_floor_never_stands_against_a_record() -> None:
    """One replica has not purged its tombstone yet, or holds what was never on the others."""
    old = ReplicaState(50, Record(50, 50, False, None))
    accept = propose(Merge(weak(60)), [ABSENT, old, ABSENT])
    assert isinstance(accept, Accept)
    assert accept.record.origin == 60


def test_a_strong_write_goes_over_a_floor() -> None:
    accept = propose(Put(b"new", ""), [ABSENT] * 3)
    assert isinstance(accept, Accept)
    assert accept.record.origin == accept.record.ballot > FLOOR


def test_a_retry_that_meets_a_floor_does_not_know_what_became_of_its_accept() -> None:
    """It may have been chosen, deleted by somebody, and purged: to do it again would be a second time."""
    steps = proposer(Put(b"new", "")).run()
    prepare = next(steps)
    accept = steps.send([(slot, Promised(None)) for slot in range(3)])
    assert isinstance(prepare, Ask)
    assert isinstance(accept, Ask)
    assert isinstance(accept.request, Accept)
    floor = accept.request.record.ballot + 5
    assert isinstance(steps.send([(slot, Refused(floor, NONE, floor, True)) for slot in range(3)]), Pause)
    steps.send([])
    with pytest.raises(StopIteration) as end:
        steps.send([(slot, Promised(None, floor)) for slot in range(3)])
    assert isinstance(end.value.value, Uncertain)


def test_what_a_floor_refuses_is_taken_for_superseded() -> None:
    refusal = Acceptor().accept(ABSENT, Accept(b"k", weak(FLOOR - 1), NONE, True)).reply
    assert is_taken(refusal, weak(FLOOR - 1))


def test_a_record_is_taken_over_a_floor_and_has_none_then() -> None:
    decision = Acceptor().accept(ABSENT, Accept(b"k", weak(FLOOR + 1), NONE))
    assert isinstance(decision.reply, Accepted)
    assert decision.state == ReplicaState(FLOOR + 1, weak(FLOOR + 1))


def test_a_promise_keeps_the_floor() -> None:
    decision = Acceptor().prepare(ABSENT, Prepare(b"k", FLOOR + 1))
    assert decision.reply == Promised(None, FLOOR)
    assert decision.state == ReplicaState(FLOOR + 1, None, FLOOR)


def test_a_seal_refuses_what_is_new_and_old_and_nothing_else() -> None:
    held = ReplicaState(50, Record(50, 50, False, b"held"))
    again = Accept(b"k", Record(50, 50, False, b"held"), NONE)
    assert Acceptor().sealed(held, again, FLOOR) is None
    assert Acceptor().sealed(held, Accept(b"k", weak(FLOOR + 1), NONE), FLOOR) is None
    refusal = Acceptor().sealed(held, Accept(b"k", weak(FLOOR), NONE), FLOOR)
    assert refusal is not None
    assert refusal.state is held
    assert refusal.reply == Refused(FLOOR, 50, 50, False)


def test_a_weak_write_that_merging_finds_superseded_by_a_floor_is_written() -> None:
    write = WeakWrite(b"k", weak(FLOOR), needed=1, majority=2, replicas=3, name_of=lambda slot: f"n{slot}")
    steps: Generator[Any, Any, Any] = write.run()
    next(steps)
    hand_over = steps.send([(slot, Refused(FLOOR + 9, NONE, NONE, False)) for slot in range(3)])
    assert isinstance(hand_over, HandOver)
    with pytest.raises(StopIteration):
        steps.send(Settled(None, ("n0", "n1")))
    assert write.taken == {"n0", "n1"}
    assert not write.must_be_kept
