"""Plain writes of one key that go together: one proposal, and for each an outcome that could have been its own."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import pytest

from cluster.ballot_clock import ballot_below
from cluster.coordination.writing.together import APART_S_MAX, LEFT_S_MIN, ROOM, outcome_of_earlier, run_behind
from cluster.levels import Level
from cluster.protocol.changes import Change, Compute, Put, Settle
from cluster.protocol.messages import Request, Volley
from cluster.requests import (
    Condition,
    ConditionKind,
    Conflict,
    Fence,
    Found,
    Overloaded,
    Unavailable,
    Unknown,
    WriteOutcome,
    Written,
)
from storage.ballot import slot_of
from tests.coordination.overheard import accepts, watch
from tests.coordination.three_nodes import MANY_KEYS, TURN_S, Cluster, Fate, Rule, form_cluster


async def hot(at: int = 0) -> tuple[Cluster, bytes]:
    """Three nodes, and a key led by the first that others wait for: its next prepared ballot has room."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await asyncio.gather(*(cluster.put(at, key, b"before %d" % number, needed=3) for number in range(3)))
    return cluster, key


def begin(cluster: Cluster, key: bytes, count: int, **choices: object) -> list[asyncio.Task[WriteOutcome]]:
    """Strong puts of one turn of the loop, through the key's primary."""
    return [
        asyncio.create_task(cluster.put(0, key, b"%d" % number, **choices))  # type: ignore[arg-type]
        for number in range(count)
    ]


def versions(outcomes: list[WriteOutcome]) -> list[int]:
    assert all(isinstance(outcome, Written) for outcome in outcomes), outcomes
    return [outcome.version for outcome in outcomes if isinstance(outcome, Written)]


async def value(cluster: Cluster, key: bytes) -> bytes | None:
    found = await cluster.get(1, key)
    assert isinstance(found, Found)
    return None if found.record is None else found.record.value


async def test_those_that_wait_are_one_proposal_and_the_last_one_stays() -> None:
    """Two hundred rounds and commits would be what everybody waits for."""
    cluster, key = await hot()
    said = watch(cluster)
    outcomes = await asyncio.gather(*begin(cluster, key, 50))
    assert await value(cluster, key) == b"49"
    assert len(accepts(said)) <= 3 * 4, "each goes to three replicas"
    assert len(versions(outcomes)) == 50


async def test_each_has_a_version_of_its_own_in_the_order_they_came() -> None:
    """Also over several runs, and beside the writes of other keys: no ballot is given out twice."""
    cluster, key = await hot()
    others = [other for other in MANY_KEYS if cluster.topology.replicas_of(other)[0] == 0 and other != key][:3]
    seen: set[int] = set()
    last = 0
    for _ in range(4):
        writes = begin(cluster, key, 100)
        beside = [asyncio.create_task(cluster.put(0, other, b"x")) for other in others for _ in range(20)]
        found = versions(await asyncio.gather(*writes))
        assert found == sorted(found)
        assert found[0] > last
        last = found[-1]
        of_others = versions(await asyncio.gather(*beside))
        assert not seen & {*found, *of_others}
        seen |= {*found, *of_others}
        assert {slot_of(version) for version in found} == {slot_of(last)}
    assert len(seen) == 4 * (100 + 60)


async def test_who_was_overwritten_is_told_so_when_he_writes_over_his_own_version() -> None:
    """Else an update would be lost: he believes that nobody has written since."""
    cluster, key = await hot()
    found = versions(await asyncio.gather(*begin(cluster, key, 20)))
    for version in found[:-1]:
        mine = Condition(ConditionKind.IF_VERSION, version)
        outcome = await cluster.put(0, key, b"mine", condition=mine)
        assert isinstance(outcome, Conflict)
        assert outcome.version == found[-1]
    assert isinstance(
        await cluster.put(0, key, b"mine", condition=Condition(ConditionKind.IF_VERSION, found[-1])), Written
    )


async def test_what_asks_for_more_goes_by_itself_at_its_place() -> None:
    """Conditions see the write before them, fences and larger quorums are kept, deletions delete."""
    cluster, key = await hot()
    absent, there = Condition(ConditionKind.IF_ABSENT), Condition(ConditionKind.IF_EXISTS)
    a, b, c, d, e, f, g = await asyncio.gather(
        cluster.put(0, key, b"a"),
        cluster.put(0, key, None),
        cluster.put(0, key, b"c", condition=absent),
        cluster.put(0, key, b"d", condition=absent),
        cluster.put(0, key, b"e", needed=3),
        cluster.put(0, key, b"f"),
        cluster.put(0, key, b"g", condition=there),
    )
    assert isinstance(d, Conflict)
    written = [a, b, c, e, f, g]
    assert versions(written) == sorted(versions(written))
    assert isinstance(e, Written)
    assert e.acks == 3
    assert await value(cluster, key) == b"g"


async def test_a_ballot_that_was_promised_while_nobody_waited_has_no_room() -> None:
    """Those that came meanwhile begin with one that goes alone; else their versions were those of older writes."""
    cluster, key = await hot()
    cluster.network.treat(Fate.DELIVERED, answer_after_s=3 * TURN_S)
    for _ in range(3):
        first = begin(cluster, key, 1)
        await asyncio.sleep(TURN_S)  # it is on its way
        behind = begin(cluster, key, 20)
        found = versions(await asyncio.gather(*first, *behind))
        assert found == sorted(set(found))
        assert await value(cluster, key) == b"19"


def silence_behind(cluster: Cluster, first: bytes) -> None:
    """Only what bears this value goes through; all others are sent, and neither arrive nor are answered."""
    rule_for = cluster.network.rule_for

    def silent(source: int, target: int, request: Request) -> Rule:
        is_first = isinstance(request, Volley) and request.accepts[0].record.value == first
        return rule_for(source, target, request) if is_first else Rule(Fate.SILENT, (), None, None, 0.0)

    cluster.network.rule_for = silent  # type: ignore[method-assign]


async def test_when_nobody_knows_of_the_last_nobody_knows_of_any() -> None:
    """Each is told so by its own deadline, and under which version it may be applied."""
    cluster, key = await hot()
    silence_behind(cluster, b"0")
    first, *behind = begin(cluster, key, 1) + [
        asyncio.create_task(cluster.put(0, key, b"%d" % number, timeout_s=timeout_s))
        for number, timeout_s in enumerate((2.0, 1.8, 2.5, 1.5), 1)
    ]
    outcomes = await asyncio.gather(*behind)
    assert isinstance(await first, Written)
    assert all(isinstance(outcome, Unknown) for outcome in outcomes), outcomes
    told = [outcome.version for outcome in outcomes if isinstance(outcome, Unknown) and outcome.version is not None]
    assert told == sorted(set(told))
    assert len(told) == 4
    assert b"4" in cluster.values_on_disk(key), "on the primary's own"


async def test_two_lost_replicas_on_the_way_change_nothing() -> None:
    """The first message is lost; the conversation that follows has the same origin, and all hear of its end."""
    cluster, key = await hot()
    writes = begin(cluster, key, 1)
    await asyncio.sleep(0)
    for target in (1, 2):
        cluster.network.treat(Fate.LOST, target=target)
    writes += begin(cluster, key, 20)
    await asyncio.sleep(0.3)
    cluster.network.heal()
    outcomes = await asyncio.gather(*writes)
    found = versions(outcomes)
    assert found == sorted(set(found))
    assert await value(cluster, key) == b"19"


async def test_a_weak_write_beside_them_is_ordered_by_its_version() -> None:
    """What is newer of the two stays, wherever it was written."""
    cluster, key = await hot()
    writes = begin(cluster, key, 30)
    weak = await cluster.put(1, key, b"weak", level=Level.WEAK)
    found = versions(await asyncio.gather(*writes))
    assert isinstance(weak, Written)
    await asyncio.sleep(1)
    assert await value(cluster, key) == (b"weak" if weak.version > found[-1] else b"29")


# -- which of them ----------------------------------------------------------------------------------------------------


@dataclass
class Write:
    """One in a line."""

    change: Change | Compute
    needed: int = 2
    deadline_s: float = 5.0
    is_over: bool = False


PLAIN = Put(b"value", "")


def run(*line: Write, first: Write | None = None, now_s: float = 0.0) -> tuple[int, int]:
    along, places = run_behind(first or Write(PLAIN), deque(line), 2, now_s)
    return len(along), places


@pytest.mark.parametrize(
    "other",
    [
        Write(Put(b"value", "", Condition(ConditionKind.IF_ABSENT))),
        Write(Put(b"value", "", fence=Fence("lock", 7))),
        Write(PLAIN, needed=3),
        Write(Settle()),
        Write(Compute(lambda value, _: value, 0, "")),
        Write(PLAIN, deadline_s=5.1 + APART_S_MAX),
        Write(PLAIN, deadline_s=LEFT_S_MIN / 2),
    ],
)
def test_a_run_ends_at_what_must_go_by_itself(other: Write) -> None:
    """And does not begin with it."""
    assert run(Write(PLAIN), other, Write(PLAIN)) == (1, 1)
    assert run(Write(PLAIN), first=other) == (0, 0)


def test_who_is_over_is_passed_over_and_the_room_is_the_limit() -> None:
    """Those behind the last of the run stay where they are, over or not."""
    over = Write(PLAIN, is_over=True)
    assert run(over, Write(PLAIN), over, Write(PLAIN), over) == (2, 4)
    assert run(over, over) == (0, 0)
    assert run(*[Write(PLAIN)] * (ROOM + 5)) == (ROOM, ROOM)
    assert run() == (0, 0)


def test_the_outcome_of_an_earlier_one() -> None:
    """Only its version is another."""
    written = Written(ballot_below(1 << 40, 0), 2, ("a", "b"))
    assert outcome_of_earlier(written, 3) == Written(ballot_below(1 << 40, 3), 2, ("a", "b"))
    assert outcome_of_earlier(Unknown(2, 1, ("a",), 1 << 40), 1) == Unknown(2, 1, ("a",), ballot_below(1 << 40, 1))
    for same in (Unknown(2, 0, (), None), Unavailable(2, 1, ("a",)), Overloaded(1.0)):
        assert outcome_of_earlier(same, 2) == same
