"""The rules on fences, one at a time: at the acceptor, in the changes, and at the proposer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from cluster.protocol.acceptor import Acceptor
from cluster.protocol.changes import RENEW, SETTLE, Change, Merge, Put, Settle
from cluster.protocol.messages import Accept, Accepted, Held, Prepare, Promised, Read, Refused
from cluster.protocol.prepared import PreparedBallots
from cluster.protocol.proposer import Chosen, Proposer, Refuted
from cluster.protocol.steps import Ask
from cluster.requests import FENCES_MAX, Condition, ConditionKind, Conflict, Fence
from storage.ballot import NONE
from storage.fences import digest_of, joined
from storage.record import Record, ReplicaState

ACCEPTOR = Acceptor()


def record(ballot: int, value: bytes | None = b"v", *, weak: bool = False, **fences: int) -> Record:
    return Record(ballot, ballot, weak, value, fences=fences or None)


def accept(state: ReplicaState, what: Record, next_ballot: int = NONE) -> ReplicaState:
    decision = ACCEPTOR.accept(state, Accept(b"k", what, next_ballot))
    assert isinstance(decision.reply, Accepted)
    return decision.state


def fences_of(state: ReplicaState) -> dict[str, int] | None:
    assert state.record is not None
    return state.record.fences


# -- fences themselves -------------------------------------------------------------------------------------------


def test_fences_are_joined_by_maximum_and_nothing_is_copied_where_none_are_new() -> None:
    some = {"a": 5, "b": 1}
    assert joined(some, {"a": 4, "c": 2}) == {"a": 5, "b": 1, "c": 2}
    assert joined(some, {"a": 5}) is joined(some, None) is joined(some, {}) is some
    assert joined(None, some) is some
    assert joined(None, None) is None
    unfenced = record(5)
    assert unfenced.bearing(None) is unfenced


def test_equal_fences_have_one_digest_whatever_their_order() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 1, "b": 3})
    assert digest_of(None) == digest_of({}) == 0


# -- the acceptor --------------------------------------------------------------------------------------------------

OVER: dict[str, tuple[Record, dict[str, int]]] = {
    "a weak write, which knows of none": (record(9, weak=True), {"lock": 7}),
    "a strong write that was told of none": (record(9), {"lock": 7}),
    "a deletion": (record(9, None), {"lock": 7}),
    "a lower fence": (record(9, lock=6), {"lock": 7}),
    "a higher fence": (record(9, lock=8), {"lock": 8}),
    "another lock's": (record(9, other=1), {"lock": 7, "other": 1}),
}


@pytest.mark.parametrize("what", OVER)
def test_what_is_accepted_bears_what_was_held(what: str) -> None:
    newer, expected = OVER[what]
    held = accept(ReplicaState(), record(5, lock=7))
    after = accept(held, newer)
    assert fences_of(after) == expected
    assert after.record is not None
    assert (after.ballot, after.record.value, after.record.weak) == (9, newer.value, newer.weak)


def test_the_same_ballot_brings_fences_too() -> None:
    """From a replica that was told more. The state changes, and so it goes to disk."""
    held = accept(ReplicaState(), record(5, a=1, b=5))
    decision = ACCEPTOR.accept(held, Accept(b"k", record(5, a=3, b=2), NONE))
    assert decision.state is not held
    assert fences_of(decision.state) == {"a": 3, "b": 5}
    assert ACCEPTOR.accept(decision.state, Accept(b"k", record(5, a=3), NONE)).state is decision.state


def test_the_same_ballot_keeps_the_value_that_is_here() -> None:
    held = accept(ReplicaState(), record(5, b"v"))
    after = accept(held, record(5, lock=7).without_value())
    assert after.record == record(5, b"v", lock=7)


def test_what_is_pushed_out_leaves_its_fences_here() -> None:
    held = accept(accept(ReplicaState(), record(5, lock=7)), record(9, b"weak", weak=True))
    decision = ACCEPTOR.accept(held, Accept(b"k", record(12), NONE))
    assert decision.displaced == record(9, b"weak", weak=True)
    assert fences_of(decision.state) == {"lock": 7}


def test_what_is_refused_brings_nothing() -> None:
    held = accept(ReplicaState(), record(9))
    decision = ACCEPTOR.accept(held, Accept(b"k", record(5, lock=7), NONE))
    assert isinstance(decision.reply, Refused)
    assert decision.state is held


def test_a_promise_tells_the_fences() -> None:
    held = accept(accept(ReplicaState(), record(5, lock=7)), record(9, None, weak=True))
    promised = ACCEPTOR.prepare(held, Prepare(b"k", 20)).reply
    assert isinstance(promised, Promised)
    assert promised.record is not None
    assert promised.record.fences == {"lock": 7}


@pytest.mark.parametrize(
    ("held", "settled", "ballot"),
    [
        (record(5, a=7), record(9, b=2), 9),
        (record(9, a=7), record(5, b=2), 9),
        (record(9, a=7), record(9, b=2), 9),
    ],
)
def test_restoring_joins(held: Record, settled: Record, ballot: int) -> None:
    decision = ACCEPTOR.restore(ReplicaState(held.ballot, held), settled, 30)
    assert decision.state.ballot == ballot
    assert fences_of(decision.state) == {"a": 7, "b": 2}


# -- the changes -------------------------------------------------------------------------------------------------


def put(number: int, lock: str = "lock", *, value: bytes | None = b"new", if_absent: bool = False) -> Put:
    condition = Condition(ConditionKind.IF_ABSENT) if if_absent else Condition()
    return Put(value, "", condition, fence=Fence(lock, number))


@pytest.mark.parametrize("value", [b"new", None])
def test_a_fenced_write_bears_the_higher_of_both(value: bytes | None) -> None:
    base = record(5, lock=7, other=3)
    for number in (7, 8):
        written = put(number, value=value).apply(base, 20)
        assert written is not None
        assert (written.value, written.fences) == (value, {"lock": number, "other": 3})
    assert put(6, value=value).apply(base, 20) is None
    first = put(1).apply(None, 20)
    assert first is not None
    assert first.fences == {"lock": 1}


def test_a_deletion_and_an_expired_value_keep_their_fences() -> None:
    deleted = Put(None, "").apply(record(5, lock=7), 20)
    assert deleted is not None
    assert deleted.fences == {"lock": 7}
    assert put(6).apply(deleted, 30) is None
    assert put(6).apply(Record(5, 5, False, b"v", "", 1, {"lock": 7}).deleted(), 30) is None


def test_a_merge_keeps_what_the_key_has_seen() -> None:
    merged = Merge(record(9, weak=True, a=1)).apply(record(5, a=7), 20)
    assert merged is not None
    assert (merged.origin, merged.weak, merged.fences) == (9, True, {"a": 7})
    alone = Merge(record(9, weak=True)).apply(None, 20)
    assert alone is not None
    assert alone.fences is None


def test_a_conflict_says_whether_it_was_the_fence() -> None:
    base = record(5, lock=7)
    assert put(6).conflict(base, ("n1",)) == Conflict(5, 1, ("n1",), fence=7)
    assert put(6, if_absent=True).conflict(base, ("n1",)) == Conflict(5, 1, ("n1",), fence=7)
    assert put(7, if_absent=True).conflict(base, ("n1",)) == Conflict(5, 1, ("n1",))
    assert put(6).conflict(record(5, None, lock=7), ("n1",)) == Conflict(None, 1, ("n1",), fence=7)


def test_a_key_bears_so_many_locks_and_no_more() -> None:
    full = record(5, **{f"lock{number}": number + 1 for number in range(FENCES_MAX)})
    assert put(9, "one more").apply(full, 20) is None
    assert put(9, "one more").conflict(full, ()) == Conflict(5, 0, (), is_full=True)
    known = put(9, "lock3").apply(full, 20)
    assert known is not None
    assert known.fences is not None
    assert len(known.fences) == FENCES_MAX


# -- the proposer --------------------------------------------------------------------------------------------------


def propose(change: Change, prepared: PreparedBallots | None = None) -> Proposer:
    ballots = count(100, 10)
    prepared = prepared or PreparedBallots(lambda _: None)
    return Proposer(b"k", change, majority=2, tick=lambda above: max(next(ballots), above + 1), prepared=prepared)


def after_promises(change: Change, *promised: Record | None) -> tuple[Proposer, Callable[[object], object], Ask]:
    """What a proposer asks next that was promised its ballot by replicas with these records."""
    proposer = propose(change)
    steps = proposer.run()
    next(steps)
    step = steps.send([(slot, Promised(one)) for slot, one in enumerate(promised)])
    if isinstance(step, Ask) and isinstance(step.request, Read):  # does a majority agree by now?
        step = steps.send([(slot, Held(one, False)) for slot, one in enumerate(promised)])
    assert isinstance(step, Ask)
    return proposer, steps.send, step  # type: ignore[return-value]


def ended_by(send: Callable[[object], object], answers: object) -> object:
    with pytest.raises(StopIteration) as end:
        send(answers)
    return end.value.value


PROPOSED: dict[str, tuple[Change, bytes | None]] = {
    "a put": (Put(b"new", ""), b"new"),
    "a deletion": (Put(None, ""), None),
    "a merge": (Merge(record(50, b"weak", weak=True)), b"weak"),
    "a settle, of what they don't agree on": (SETTLE, b"v"),
    "a settle that renews": (RENEW, b"v"),
}


@pytest.mark.parametrize("what", PROPOSED)
def test_what_is_proposed_bears_the_fences_of_all_that_promised(what: str) -> None:
    """Whichever of them has the newest record: here it knows of one lock only, and the older one of the other."""
    change, value = PROPOSED[what]
    _, _, ask = after_promises(change, record(5, lock=7), record(9, other=2))
    assert isinstance(ask.request, Accept)
    assert ask.request.record.value == value
    assert ask.request.record.fences == {"lock": 7, "other": 2}


def test_replicas_of_one_ballot_with_other_fences_do_not_agree() -> None:
    """A fence that only one of them was told of would be reported, and not be there for the next who asks."""
    _, send, ask = after_promises(put(6), record(9, lock=7), record(9))
    assert isinstance(ask.request, Accept)
    assert ask.request.record.fences == {"lock": 7}
    assert ask.request.record.origin == 9
    end = ended_by(send, [(slot, Accepted(True)) for slot in range(2)])
    assert isinstance(end, Refuted)
    assert end.record is not None
    assert end.record.fences == {"lock": 7}


def test_a_lower_fence_that_all_know_to_be_lower_is_refused_at_once() -> None:
    proposer = propose(put(6))
    steps = proposer.run()
    next(steps)
    end = ended_by(steps.send, [(slot, Promised(record(9, lock=7))) for slot in range(2)])
    assert isinstance(end, Refuted)
    assert proposer.sent is None


@pytest.mark.parametrize("fences", [{"lock": 7}, {}])
def test_out_of_a_prepared_ballot_a_fence_is_reported_once_a_majority_shows_it(fences: dict[str, int]) -> None:
    own = record(9, lock=7)
    prepared = PreparedBallots(lambda _: ReplicaState(200, own))
    prepared.put(b"k", 200, own)
    steps = propose(put(6), prepared).run()
    ask = next(steps)
    assert isinstance(ask, Ask)
    assert isinstance(ask.request, Read)
    answers = [(0, Held(own, False)), (1, Held(record(9, **fences), False))]
    if fences:
        assert isinstance(ended_by(steps.send, answers), Refuted)
    else:
        ask = steps.send(answers)
        assert isinstance(ask, Ask)
        assert isinstance(ask.request, Accept), "it proposes what it saw, before it tells of it"


def test_its_own_write_that_it_meets_again_bears_what_was_seen_meanwhile() -> None:
    proposer, send, ask = after_promises(put(7), record(5), record(5))
    assert isinstance(ask.request, Accept)
    sent = ask.request.record
    assert proposer.sent == sent.origin
    send([(slot, Refused(sent.ballot + 1, NONE, NONE, False)) for slot in range(2)])  # pauses
    send([])  # prepares again
    again = send([(0, Promised(sent)), (1, Promised(record(5, other=2)))])
    assert isinstance(again, Ask)
    assert isinstance(again.request, Accept)
    assert again.request.record.fences == {"lock": 7, "other": 2}
    assert isinstance(ended_by(send, [(slot, Accepted(True)) for slot in range(2)]), Chosen)


# -- reading under a fence -----------------------------------------------------------------------------------------


def under(number: int, lock: str = "lock") -> Settle:
    return Settle(fence=Fence(lock, number))


MARKED: dict[str, Record] = {
    "a value": record(9, other=2),
    "a value that has seen a lower one": record(9, lock=6, other=2),
    "a weak value": record(9, weak=True, other=2),
    "a tombstone": record(9, None, other=2),
    "a value that was proposed again": record(3, other=2).under(9, weak=False),
    "one that can expire": Record(9, 9, False, b"v", "text/plain", 10**15, {"other": 2}),
}


@pytest.mark.parametrize("what", MARKED)
def test_a_fenced_read_proposes_what_is_there_with_the_fence(what: str) -> None:
    base = MARKED[what]
    proposer, send, ask = after_promises(under(7), base, base)
    assert isinstance(ask.request, Accept)
    assert ask.request.record == base.under(100, base.weak).bearing({"lock": 7})
    assert proposer.sent is None, "it is nobody's write"
    end = ended_by(send, [(slot, Accepted(True)) for slot in range(2)])
    assert isinstance(end, Refuted)
    assert end.record == ask.request.record


@pytest.mark.parametrize("seen", [7, 8])
def test_what_has_seen_the_fence_is_not_proposed_again(seen: int) -> None:
    base = record(9, lock=seen)
    steps = propose(under(7)).run()
    next(steps)
    end = ended_by(steps.send, [(slot, Promised(base)) for slot in range(2)])
    assert isinstance(end, Refuted)
    assert end.record is base


@pytest.mark.parametrize(("floors", "origin"), [((NONE, NONE), 1), ((NONE, 40), 40)])
def test_the_mark_of_a_key_that_holds_nothing_is_older_than_all_writes_and_as_old_as_the_floor(
    floors: tuple[int, int], origin: int
) -> None:
    steps = propose(under(7)).run()
    next(steps)
    ask = steps.send([(slot, Promised(None, floor)) for slot, floor in enumerate(floors)])
    assert isinstance(ask, Ask)
    assert isinstance(ask.request, Accept)
    mark = ask.request.record
    assert mark == Record(100, origin, False, None, fences={"lock": 7})
    weak = record(41, b"weak", weak=True)
    merged = Merge(weak).apply(mark, 200)
    assert merged is not None
    assert (merged.origin, merged.value, merged.fences) == (41, b"weak", {"lock": 7})
    assert Merge(record(origin, b"purged", weak=True)).apply(mark, 200) is None
    assert put(6).apply(mark, 200) is None
    assert put(7, if_absent=True).apply(mark, 200) is not None


def test_an_expired_value_becomes_the_tombstone_that_bears_the_fence() -> None:
    base = Record(9, 9, False, b"v", "text/plain", 1, {"other": 2})
    proposer = Proposer(
        b"k", under(7), majority=2, tick=lambda _: 100, prepared=PreparedBallots(lambda _: None), now_ms=lambda: 2
    )
    steps = proposer.run()
    next(steps)
    ask = steps.send([(slot, Promised(base)) for slot in range(2)])
    assert isinstance(ask, Ask)
    assert isinstance(ask.request, Accept)
    assert ask.request.record == Record(100, 9, False, None, fences={"other": 2, "lock": 7})


def test_a_fenced_read_that_is_tried_again_meets_its_own_mark_and_sees_it_through() -> None:
    base = record(9)
    _, send, ask = after_promises(under(7), base, base)
    assert isinstance(ask.request, Accept)
    mark = ask.request.record
    send([(slot, Refused(105, NONE, NONE, False)) for slot in range(2)])  # pauses
    send([])  # prepares again
    again = send([(0, Promised(mark)), (1, Promised(base))])
    assert isinstance(again, Ask)
    assert isinstance(again.request, Accept)
    assert (again.request.record.origin, again.request.record.fences) == (9, {"lock": 7})
    assert again.request.record.ballot > mark.ballot


def test_fences_that_a_majority_shows_are_not_settled_by_that() -> None:
    """One promised tells of the fence and one does not. The second may have taken it since, past another's promise,
    whose write under a lower fence then follows: docs/protocol.md has the steps."""
    steps = propose(under(7)).run()
    next(steps)
    ask = steps.send([(0, Promised(record(9, lock=7))), (1, Promised(record(9)))])
    assert isinstance(ask, Ask)
    assert isinstance(ask.request, Accept), "it does not ask whether a majority shows it by now"
    assert ask.request.record.fences == {"lock": 7}


def test_a_prepared_ballot_does_not_serve_over_other_fences_than_it_was_prepared_over() -> None:
    own = record(9)
    prepared = PreparedBallots(lambda _: ReplicaState(200, own.bearing({"lock": 7})))
    prepared.put(b"k", 200, own)
    assert prepared.take(b"k") is None


def test_a_ballot_that_was_promised_and_not_spent_serves_the_next_change() -> None:
    """So that who reads under one fence again and again asks for no promise each time, which is a disk write."""
    own = record(9, lock=7)
    prepared = PreparedBallots(lambda _: ReplicaState(100, own))
    steps = propose(under(7), prepared).run()
    next(steps)
    assert isinstance(ended_by(steps.send, [(slot, Promised(own)) for slot in range(2)]), Refuted)
    for _ in range(3):
        steps = propose(under(7), prepared).run()
        ask = next(steps)
        assert isinstance(ask, Ask)
        assert isinstance(ask.request, Read)
        assert isinstance(ended_by(steps.send, [(slot, Held(own, False)) for slot in range(2)]), Refuted)


def test_a_reader_is_told_why_it_must_not_go_by_what_it_read() -> None:
    names = ("n1", "n2")
    assert under(7).conflict(record(9, lock=7), names) is None
    assert under(7).conflict(record(9, lock=8), names) == Conflict(9, 2, names, fence=8)
    assert under(7).conflict(record(9, None, lock=8), names) == Conflict(None, 2, names, fence=8)
    full = record(5, **{f"lock{number}": number + 1 for number in range(FENCES_MAX)})
    assert under(7, "one more").marked(full, 20, NONE) is full
    assert under(7, "one more").conflict(full, names) == Conflict(5, 2, names, is_full=True)
    assert SETTLE.conflict(full, names) is None
