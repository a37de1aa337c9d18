"""The quick checkers: what each lets pass, and what it finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from kvstore.verify.checkers import convergence, counters, locks, sessions, sets, votes
from kvstore.verify.history import History
from kvstore.verify.judge import judge
from kvstore.verify.verdict import Judgement, Verdict
from tests.kvstore.verify.histories import begin, end, history, in_a_row, one


def what(judgement: Judgement) -> str:
    assert judgement.verdict is Verdict.VIOLATED
    return " ".join(finding.what for finding in judgement.findings)


def add(element: int, outcome: str = "ok", level: str = "strong") -> list[dict[str, Any]]:
    return one(element, "add", "s", outcome, value=element, level=level)


def read_all(*elements: int, level: str = "strong") -> list[dict[str, Any]]:
    return one("r", "read-all", "s", told_value=list(elements), level=level)


def test_a_set_keeps_what_was_acknowledged() -> None:
    judgement = sets.check(in_a_row(add(1), add(2, "unknown"), add(3, "fail"), read_all(1, 2), add(4)))

    assert judgement.verdict is Verdict.VALID
    assert any("2 recovered" in note for note in judgement.notes)
    assert any("4 never read" in note for note in judgement.notes)


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([add(1), read_all()], "element 1 of set 's' was lost"),
        ([add(1, "unknown"), read_all(1), read_all()], "was lost"),
        ([add(1), read_all(), read_all(1)], "known, then absent from a read, then there again"),
        ([read_all(7)], "element 7, which nobody had added"),
        ([add(3, "fail"), read_all(3)], "which nobody had added"),
        ([add(1), read_all(1, 1)], "more than once"),
        ([add(1, level="weak"), read_all(level="weak")], "was lost"),
    ],
)
def test_a_set_that_loses_or_invents(calls: list[list[dict[str, Any]]], says: str) -> None:
    assert says in what(sets.check(in_a_row(*calls)))


def test_a_weak_set_may_show_elements_late() -> None:
    calls = [add(1, level="weak"), read_all(level="weak"), read_all(1, level="weak")]

    assert sets.check(in_a_row(*calls)).verdict is Verdict.VALID


def test_an_add_during_a_read_may_be_missed() -> None:
    judged = history(begin("r", "read-all", "s"), *add(1), end("r", value=[]), *read_all(1))

    assert sets.check(judged).verdict is Verdict.VALID


def test_a_set_that_was_never_read_is_undecided() -> None:
    assert sets.check(in_a_row(add(1))).verdict is Verdict.UNDECIDED


def increment(process: int, amount: int = 1, outcome: str = "ok") -> list[dict[str, Any]]:
    return one(process, "increment", "c", outcome, value=amount)


def count(number: int) -> list[dict[str, Any]]:
    return one("r", "count", "c", told_value=number)


@pytest.mark.parametrize("number", [2, 3])
def test_an_unknown_increment_counts_or_does_not(number: int) -> None:
    calls = [increment(1, 2), increment(2, 1, "unknown"), increment(3, 5, "fail"), count(number)]

    assert counters.check(in_a_row(*calls)).verdict is Verdict.VALID


@pytest.mark.parametrize(("number", "says"), [(1, "too low"), (4, "too high")])
def test_a_counter_out_of_bounds(number: int, says: str) -> None:
    judgement = counters.check(in_a_row(increment(1, 2), increment(2, 1, "unknown"), count(number)))

    assert says in what(judgement)
    assert judgement.findings[0].details == {"read": number, "low": 2, "high": 3}


def test_a_counter_does_not_go_back() -> None:
    judgement = counters.check(in_a_row(increment(1, 1, "unknown"), count(1), count(0)))

    assert "went back" in what(judgement)


def test_a_counter_may_go_down_where_that_was_asked_for() -> None:
    assert counters.check(in_a_row(increment(1, 3), count(3), increment(1, -2), count(1))).verdict is Verdict.VALID


def timed(*events: tuple[float, Mapping[str, Any]]) -> History:
    return history(*({**event, "at": at} for at, event in events))


def acquire(process: int, fence: int, at: float, ttl: float = 2.0, **more: Any) -> list[tuple[float, dict[str, Any]]]:
    return [(at, begin(process, "acquire", "l", ttl=ttl, **more)), (at + 0.1, end(process, fence=fence))]


def release(process: int, fence: int, at: float, outcome: str = "ok") -> list[tuple[float, dict[str, Any]]]:
    return [(at, begin(process, "release", "l", fence=fence)), (at + 0.1, end(process, outcome))]


def renew(process: int, fence: int, at: float, outcome: str = "ok") -> list[tuple[float, dict[str, Any]]]:
    return [(at, begin(process, "renew", "l", fence=fence, ttl=2.0)), (at + 0.1, end(process, outcome))]


def joined(*parts: Iterable[tuple[float, dict[str, Any]]]) -> History:
    return timed(*(pair for part in parts for pair in part))


def test_a_lock_goes_from_hand_to_hand() -> None:
    judged = joined(
        acquire(1, 10, 0.0),
        renew(1, 10, 1.0),
        release(1, 10, 2.5, "unknown"),
        acquire(2, 11, 2.7),
        acquire(3, 15, 5.0),  # the lease of 11 ran out at 4.7
        release(2, 11, 6.0, "conflict"),
    )

    assert locks.check(judged).verdict is Verdict.VALID


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (
            [acquire(1, 10, 0.0), acquire(2, 11, 1.0)],
            "was held by process 1 (fence 10) and process 2 (fence 11) at once",
        ),
        ([acquire(1, 10, 0.0), renew(1, 10, 1.5), acquire(2, 11, 2.5)], "at once, from 2.600 to 3.500 s"),
        ([acquire(1, 10, 0.0), renew(1, 10, 1.0, "conflict")], "cut short"),
        ([acquire(1, 10, 0.0), acquire(2, 9, 3.0)], "under fence 9 after it had been under 10"),
        ([acquire(1, 10, 0.0), acquire(2, 10, 3.0)], "granted twice under fence 10"),
        ([acquire(1, 10, 0.0, permits=2), acquire(2, 11, 0.2, permits=2), acquire(3, 12, 0.4, permits=2)], "at once"),
    ],
)
def test_a_lock_with_two_holders_or_fences_out_of_order(
    parts: list[list[tuple[float, dict[str, Any]]]], says: str
) -> None:
    assert says in what(locks.check(joined(*parts)))


def test_a_semaphore_has_room_for_some() -> None:
    judged = joined(acquire(1, 10, 0.0, permits=2), acquire(2, 11, 0.2, permits=2))

    assert locks.check(judged).verdict is Verdict.VALID


def fenced(process: int, fence: int, outcome: str = "ok") -> list[dict[str, Any]]:
    return one(process, "fenced-put", "k", outcome, value=f"{process}", lock="l", fence=fence)


def test_fenced_writes_go_by_the_fence() -> None:
    right = in_a_row(fenced(1, 10), fenced(2, 11), fenced(1, 10, "conflict"))
    wrong = in_a_row(fenced(1, 10), fenced(2, 11), fenced(1, 10))

    assert locks.check(right).verdict is Verdict.VALID
    assert "took a write under fence 10 of lock 'l' after it had taken one under 11" in what(locks.check(wrong))


def vote(process: int, candidate: str, winner: str | None, outcome: str = "ok") -> list[dict[str, Any]]:
    return one(process, "vote", "v", outcome, value=candidate, told_value=winner)


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([vote(1, "a", "a"), vote(2, "b", "b")], "more than one winner: 'a' and 'b'"),
        ([vote(1, "a", "z")], "won by 'z', whom nobody had proposed"),
        ([vote(1, "a", None, "fail"), vote(2, "b", "a")], "proved to have failed"),
        ([vote(1, "a", "a"), one(3, "result", "v", told_value=None)], "decided, and later it was not"),
    ],
)
def test_a_vote_that_is_none(calls: list[list[dict[str, Any]]], says: str) -> None:
    assert says in what(votes.check(in_a_row(*calls)))


def test_a_vote_has_one_winner_for_ever() -> None:
    calls = [one(3, "result", "v", told_value=None), vote(1, "a", None, "unknown"), vote(2, "b", "a")]

    assert votes.check(in_a_row(*calls, one(3, "result", "v", told_value="a"))).verdict is Verdict.VALID


def inspect(node: str, version: str | None) -> list[dict[str, Any]]:
    return one("i", "inspect", node=node, told_version=version)


def weak_put(version: str, outcome: str = "ok") -> list[dict[str, Any]]:
    return one(1, "weak-put", "k", outcome, value=f"at {version}", told_version=version)


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([weak_put("10"), inspect("n1", "10"), inspect("n2", None)], "n1: version 10; n2: no version"),
        ([weak_put("10"), inspect("n1", "20"), inspect("n2", "20")], "which nobody wrote"),
        ([weak_put("0a"), weak_put("10"), inspect("n1", "0a"), inspect("n2", "0a")], "was lost to an older one"),
    ],
)
def test_replicas_that_did_not_converge(calls: list[list[dict[str, Any]]], says: str) -> None:
    assert says in what(convergence.check(in_a_row(*calls)))


def test_replicas_that_converged_in_the_end() -> None:
    calls = [weak_put("10"), weak_put("11", "unknown"), inspect("n1", "10"), inspect("n2", "11"), inspect("n1", "11")]

    assert convergence.check(in_a_row(*calls)).verdict is Verdict.VALID
    assert convergence.check(in_a_row(inspect("n1", "10"))).verdict is Verdict.UNDECIDED


def session_read(version: str | None, *claims: str, process: int = 1) -> list[dict[str, Any]]:
    return one(process, "weak-read", claims=list(claims), told_version=version, told_value=version and "v")


BOTH = ("monotonic-reads", "read-your-writes")


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([session_read("11", *BOTH), session_read("10", *BOTH)], "after it had read 11"),
        ([session_read("11", *BOTH), session_read(None, *BOTH)], "after it had read 11"),
        ([weak_put("11"), session_read("10", *BOTH)], "after it had written 11"),
    ],
)
def test_a_session_that_goes_back(calls: list[list[dict[str, Any]]], says: str) -> None:
    assert says in what(sessions.check(in_a_row(*calls)))


def test_a_session_promises_only_what_is_claimed() -> None:
    nothing = in_a_row(session_read("11"), session_read("10"))
    others = in_a_row(session_read("11", *BOTH), session_read("10", *BOTH, process=2))
    deleted = in_a_row(session_read("11", *BOTH), one(3, "weak-delete"), session_read(None, *BOTH))

    assert sessions.check(nothing).verdict is not Verdict.VIOLATED
    assert sessions.check(others).verdict is Verdict.VALID
    assert sessions.check(deleted).verdict is Verdict.VALID


def test_judge_runs_the_checks_that_have_work() -> None:
    judged = in_a_row(add(1), read_all(1), vote(1, "a", "a"), one(1, "put", value="x"), one(2, "read", told_value="x"))

    judgement = judge(judged)

    assert [part.check for part in judgement.parts] == ["linearizability", "set", "vote"]
    assert judgement.verdict is Verdict.VALID


def test_one_broken_promise_is_enough() -> None:
    judgement = judge(in_a_row(add(1), read_all(1), vote(1, "a", "z"), add(2)))

    assert judgement.verdict is Verdict.VIOLATED
    assert [finding.check for finding in judgement.findings] == ["vote"]
