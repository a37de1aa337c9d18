"""The search, against a twin that tries every order, on histories that are legal, wrong, or anything."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.verify.checkers import registers
from kvstore.verify.checkers.linearizability import windows
from kvstore.verify.checkers.linearizability.translation import Translation
from kvstore.verify.checkers.registers import Budget
from kvstore.verify.explain.minimal import explain_register
from kvstore.verify.history import History, Kind
from kvstore.verify.verdict import Verdict
from tests.kvstore.verify.brute_force import has_order
from tests.kvstore.verify.histories import Register, begin, end, history, in_a_row, one

TEXTS = (Kind.READ, Kind.PUT, Kind.APPEND, Kind.APPEND)


def is_linearizable(judged: History) -> bool:
    answer = Translation(judged.operations).search().run(1_000_000)
    assert answer is not None
    return answer


@st.composite
def anything(draw: st.DrawFn) -> History:
    """Some calls with answers that need not be true, on two or three values, with and without versions."""
    dice = random.Random(draw(st.integers(0, 2**32)))
    versions = draw(st.booleans())
    kinds = draw(st.sampled_from((tuple(Register(dice)._kinds), TEXTS, (Kind.READ, Kind.WEAK_PUT, Kind.CAS, Kind.PUT))))
    versions = versions and kinds != TEXTS
    register = Register(dice, processes=draw(st.integers(1, 4)), values=2, kinds=kinds, unknown=0.3, versions=versions)
    events = register.run(draw(st.integers(1, 7)))
    for _ in range(draw(st.integers(0, 3))):
        mutate(events, dice)
    return history(*events)


def mutate(events: list[dict[str, Any]], dice: random.Random) -> None:
    """Makes one answer say something else, or two calls overlap less."""
    event = dice.choice(events)
    if event["type"] != "invoke" and "version" in event and dice.random() < 0.5:
        event["version"] = dice.choice((None, 1, 2, 3, 4))
        if event["version"] is None or event.get("value", 1) is None:
            event.pop("value", None)
    elif event["type"] != "invoke" and event.get("value") is not None:
        event["value"] = dice.choice(("0", "1", "01", "10"))
    elif event["type"] == "conflict":
        event["type"] = "ok"
        event.pop("value", None)
        event.pop("version", None)
    elif event["type"] == "ok" and "value" not in event and "version" not in event:
        event["type"] = dice.choice(("fail", "ok"))


@settings(max_examples=1500, deadline=None)
@given(anything())
def test_the_search_finds_an_order_exactly_where_there_is_one(judged: History) -> None:
    assert is_linearizable(judged) is has_order(judged.operations)


STRONG_KINDS = (Kind.READ, Kind.PUT, Kind.CAS, Kind.DELETE)


@st.composite
def much_at_once(draw: st.DrawFn) -> History:
    """Nearly all calls overlap; often one answer is not true."""
    dice = random.Random(draw(st.integers(0, 2**32)))
    versions, values = draw(st.booleans()), draw(st.sampled_from((2, 4, 1000)))
    unknown = draw(st.sampled_from((0.0, 0.2)))
    register = Register(dice, processes=6, values=values, kinds=STRONG_KINDS, unknown=unknown, versions=versions)
    events = register.run(8)
    answers = [event for event in events if event["type"] == "ok" and event.get("value") is not None]
    if answers and draw(st.booleans()):
        written = [event["value"] for event in events if event["type"] == "invoke" and "value" in event]
        dice.choice(answers)["value"] = dice.choice(written)
    elif draw(st.booleans()):
        mutate(events, dice)
    return history(*events)


@settings(max_examples=1000, deadline=None)
@given(much_at_once())
def test_the_search_finds_it_among_many_at_once(judged: History) -> None:
    assert is_linearizable(judged) is has_order(judged.operations)


@pytest.mark.parametrize("unknown", [0.0, 0.05])
@pytest.mark.parametrize(("values", "versions"), [(3, True), (1000, False), (1000, True)])
def test_thousands_of_calls_by_fifty_processes_on_one_key(values: int, versions: bool, unknown: float) -> None:
    """A second or so each; the steps, not the clock, say that the search hardly ever takes a wrong turn."""
    dice = random.Random(1)
    register = Register(
        dice, processes=50, values=values, kinds=STRONG_KINDS, unknown=unknown, versions=versions, key="k"
    )
    judged = history(*register.run(3000))

    assert registers.check(judged, budget=Budget(steps_per_key=50_000)).verdict is Verdict.VALID


@pytest.mark.parametrize("versions", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_old_answer_among_thousands_at_once_is_found(seed: int, versions: bool) -> None:
    register = Register(
        random.Random(seed), processes=50, values=20_000, kinds=STRONG_KINDS, unknown=0.02, versions=versions
    )
    events = register.run(3000)
    reads = [number for number, event in enumerate(events) if event["type"] == "ok" and event.get("value") is not None]
    old, late = events[reads[len(reads) // 8]], events[reads[-len(reads) // 8]]
    late.update({name: old[name] for name in ("value", "version") if name in old})

    judgement = registers.check(history(*events), budget=Budget(steps_per_key=50_000), explain=explain_register)

    assert judgement.verdict is Verdict.VIOLATED
    assert len(judgement.findings[0].operations) <= 4


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from((1, 3, 8)), st.integers(1, 150))
def test_what_a_register_really_did_has_an_order(seed: int, versions: bool, processes: int, operations: int) -> None:
    register = Register(random.Random(seed), processes=processes, values=5, versions=versions)

    assert registers.check(history(*register.run(operations))).verdict is not Verdict.VIOLATED


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_what_texts_really_became_has_an_order(seed: int) -> None:
    register = Register(random.Random(seed), processes=5, kinds=TEXTS, unknown=0.02)

    assert registers.check(history(*register.run(60))).verdict is not Verdict.VIOLATED


@settings(max_examples=500, deadline=None)
@given(anything())
def test_an_explanation_is_itself_a_violation_and_nothing_in_it_can_go(judged: History) -> None:
    search = Translation(judged.operations).search()
    if search.run(1_000_000):
        return

    finding = explain_register(judged.operations, None, search.stuck_at)

    assert finding.operations
    assert finding.is_minimal
    if not finding.details["any_beginning"]:
        assert not has_order(finding.operations)


def test_an_explanation_of_a_long_history_is_short() -> None:
    strong = (Kind.READ, Kind.PUT, Kind.CAS)
    events = Register(random.Random(1), processes=5, values=1000, kinds=strong, unknown=0.0).run(200)
    old = next(event["value"] for event in events if event["type"] == "ok" and event.get("value"))
    events += [*one("w", "put", value="new"), *one("r", "read", told_value=old)]
    judged = history(*events)

    (finding,) = registers.check(judged, explain=explain_register).findings

    assert len(finding.operations) <= 3


def test_a_stale_read_is_explained_by_three_operations() -> None:
    judged = in_a_row(
        one(1, "put", value="a"),
        one(3, "read", told_value="a"),
        one(2, "put", value="b"),
        one(3, "read", told_value="b"),
        one(3, "read", told_value="a"),
        one(1, "put", value="c"),
    )

    (finding,) = registers.check(judged, explain=explain_register).findings

    assert [(op.kind, op.argument, op.invoked) for op in finding.operations] == [
        ("put", "a", 0),
        ("put", "b", 4),
        ("read", None, 8),
    ]


def test_what_nobody_wrote_is_told_as_such() -> None:
    judged = in_a_row(one(1, "put", value="a"), one(2, "read", told_value="z"))

    (finding,) = registers.check(judged, explain=explain_register).findings

    assert len(finding.operations) == 1
    assert "nobody had written that" in finding.what


@pytest.mark.parametrize("outcome", ["ok", "unknown"])
def test_a_weak_write_may_take_effect_late_or_never_whatever_was_said(outcome: str) -> None:
    late = in_a_row(
        one(1, "weak-put", "k", outcome, value="w"),
        one(2, "put", value="s"),
        one(3, "read", told_value="s"),
        one(3, "read", told_value="w"),
    )
    never = in_a_row(one(1, "weak-put", "k", outcome, value="w"), one(3, "read", told_value=None))
    twice = in_a_row(
        one(1, "weak-put", "k", outcome, value="w"),
        one(3, "read", told_value="w"),
        one(2, "put", value="s"),
        one(3, "read", told_value="s"),
        one(3, "read", told_value="w"),
    )

    assert registers.check(late).verdict is Verdict.VALID
    assert registers.check(never).verdict is Verdict.VALID
    assert registers.check(twice).verdict is Verdict.VIOLATED


def test_what_is_proved_not_done_is_never_seen() -> None:
    judged = in_a_row(one(1, "put", "k", "fail", value="x"), one(2, "read", told_value="x"))

    assert registers.check(judged).verdict is Verdict.VIOLATED


def test_a_conflict_is_an_observation() -> None:
    seen = in_a_row(
        one(1, "put", value="a"),
        one(2, "cas", "k", "conflict", value="c", expected="b", told_value="a"),
    )
    absent = in_a_row(
        one(1, "put", value="a"),
        one(2, "cas", "k", "conflict", value="c", expected="b", told_version=None),
    )
    it_held = in_a_row(one(1, "put", value="a"), one(2, "cas", "k", "conflict", value="c", expected="a"))

    assert registers.check(seen).verdict is Verdict.VALID
    assert registers.check(absent).verdict is Verdict.VIOLATED
    assert registers.check(it_held).verdict is Verdict.VIOLATED


def test_versions_tell_writes_of_one_value_apart() -> None:
    calls = [
        one(1, "put", value="a", told_version=1),
        one(1, "put", value="a", told_version=2),
        one(2, "cas", value="b", expected_version=1, told_version=3),
    ]
    by_value = [one(1, "put", value="a"), one(1, "put", value="a"), one(2, "cas", value="b", expected="a")]

    assert registers.check(in_a_row(*calls)).verdict is Verdict.VIOLATED
    assert registers.check(in_a_row(*by_value)).verdict is Verdict.VALID


def test_values_of_different_types_differ() -> None:
    assert (
        registers.check(in_a_row(one(1, "put", value=1), one(2, "read", told_value=True))).verdict is Verdict.VIOLATED
    )
    assert registers.check(in_a_row(one(1, "put", value=1), one(2, "read", told_value="1"))).verdict is Verdict.VIOLATED
    same = in_a_row(one(1, "put", value={"a": 1, "b": 2}), one(2, "read", told_value={"b": 2, "a": 1}))
    assert registers.check(same).verdict is Verdict.VALID


def hard(key: str, writers: int = 22) -> list[dict[str, Any]]:
    """Texts put together by many at once, each with another length, which tells nothing; the last read fits none."""
    texts = ["0" * (n + 1) for n in range(writers)]
    events = [begin(f"{key}{n}", "append", key, value=text) for n, text in enumerate(texts)]
    events += [end(f"{key}{n}") for n in range(writers)]
    return [*events, *one(f"{key}r", "read", key, told_value="".join(texts)[:-1] + "x")]


def test_an_illegal_key_is_found_although_others_are_hard() -> None:
    judged = history(*hard("a"), *hard("b"), *one(1, "put", "z", value="a"), *one(2, "read", "z", told_value="b"))

    judgement = registers.check(judged, budget=Budget(steps_per_key=5_000))

    assert judgement.verdict is Verdict.VIOLATED
    assert [finding.key for finding in judgement.findings] == ["z"]
    assert judgement.undecided == ("a", "b")


def test_every_key_is_looked_at_and_the_first_few_are_explained() -> None:
    wrong = [f"k{number}" for number in range(registers.EXPLAINED_MAX + 3)]
    calls = [[*one(1, "put", key, value="a"), *one(2, "read", key, told_value="b")] for key in wrong]
    judged = in_a_row(*calls, one(1, "put", "right", value="a"), hard("a"))

    judgement = registers.check(judged, explain=explain_register)

    assert [finding.key for finding in judgement.findings] == wrong
    assert [bool(finding.operations) for finding in judgement.findings] == [True] * registers.EXPLAINED_MAX + [
        False
    ] * 3
    assert judgement.undecided == ("a",)


def test_what_is_left_when_the_verdict_is_sure_gets_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the hard keys could take the whole budget."""
    monkeypatch.setattr(registers, "ALL_WHEN_SURE", 10_000)
    events = [event for number in range(10) for event in hard(f"h{number}")]
    judged = history(*events, *one(1, "put", "z", value="a"), *one(2, "read", "z", told_value="b"))

    rounds = registers._Rounds(registers.per_key(judged), None, Budget(), lambda done, of: None)
    rounds.run()

    assert [key for key, _ in rounds.stuck] == ["z"]
    assert len(rounds.undecided) == 10
    assert sum(search.steps for search in rounds._searches.values()) <= (
        10 * registers.FIRST_ROUND + registers.ALL_WHEN_SURE
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from((2, 3, 1000)), st.integers(20, 120))
def test_no_stretch_of_what_really_happened_is_wrong(seed: int, versions: bool, values: int, operations: int) -> None:
    register = Register(random.Random(seed), processes=6, values=values, versions=versions, unknown=0.3)
    judged = history(*register.run(operations))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "SIZES", (2, 3, 8))
        assert registers.wrong_stretch(judged.operations) is None


@pytest.mark.parametrize("versions", [False, True])
def test_a_stale_read_after_much_that_may_have_happened_is_found(versions: bool) -> None:
    """Hundreds of weak and unknown writes of four values: the search alone would try all ways to use them."""
    events = Register(random.Random(5), processes=5, values=4, versions=versions, unknown=0.05).run(1500)
    told = [{"told_version": 10**6 + number} if versions else {} for number in range(2)]
    events += [*one("w", "put", value="new", **told[0]), *one("r", "read", told_value="new", **told[0])]
    events += [*one("w", "put", value="newer", **told[1]), *one("r", "read", told_value="new", **told[0])]

    judgement = registers.check(history(*events), explain=explain_register)

    assert judgement.verdict is Verdict.VIOLATED
    assert [op.kind for op in judgement.findings[0].operations] == ["put", "put", "read"]


def test_a_search_that_takes_too_long_is_undecided() -> None:
    judgement = registers.check(history(*hard("a")), budget=Budget(steps_per_key=5_000))

    assert judgement.verdict is Verdict.UNDECIDED
    assert judgement.undecided == ("a",)


def test_nothing_is_undecided() -> None:
    judgement = registers.check(History(()))

    assert judgement.verdict is Verdict.UNDECIDED
    assert "no operations" in judgement.notes[0]
