"""Glances: where the replicas agree, reads share a message; wherever they may not, each read asks for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

import pytest

from cluster.coordination.reading import glances
from cluster.levels import Level
from cluster.membership.fitness import Bar
from cluster.protocol.messages import (
    UNSEEN,
    Accept,
    Glance,
    Glimpsed,
    Heartbeat,
    Read,
    Reply,
    Request,
    Volley,
)
from cluster.requests import FencedReadOutcome, Found, ReadOutcome, ReadRequest, TimedOut, Written
from storage.ballot import NONE
from storage.record import Record
from tests.coordination.three_nodes import MANY_KEYS, TURN_S, Cluster, Fate, Rule, form_cluster, until

Said = list[tuple[int, int, Request]]
Answer = TypeVar("Answer")
KEYS = MANY_KEYS[:20]


async def agreeing(keys: Iterable[bytes] = KEYS, *, without: int | None = 2) -> Cluster:
    """Three nodes that hold the same of these keys; one of them is gone since, so that all readers ask the same one."""
    cluster = await form_cluster()
    for outcome in await asyncio.gather(*(cluster.put(0, key, b"value of " + key, needed=3) for key in keys)):
        assert isinstance(outcome, Written)
    if without is not None:
        cluster.network.cut_off(without)
    return cluster


def watch(cluster: Cluster) -> Said:
    """What nodes ask of one another from now on: (source, target, request)."""
    said: Said = []
    rule_for = cluster.network.rule_for

    def noting(source: int, target: int, request: Request) -> Rule:
        if not isinstance(request, Heartbeat):
            said.append((source, target, request))
        return rule_for(source, target, request)

    cluster.network.rule_for = noting  # type: ignore[method-assign]
    return said


def kinds(said: Said) -> list[type]:
    return [type(request) for _, _, request in said]


async def get_all(
    cluster: Cluster, keys: Iterable[bytes], at: int = 0, timeout_s: float = 5.0
) -> list[FencedReadOutcome]:
    """Reads all of them in one turn of the loop."""
    return await asyncio.gather(*(cluster.get(at, key, timeout_s=timeout_s) for key in keys))


def values(outcomes: Iterable[object]) -> list[bytes | None]:
    """All of them are found; these are the values, None for absent."""
    found = list(outcomes)
    assert all(isinstance(outcome, Found) for outcome in found), found
    return [outcome.record.value if outcome.record else None for outcome in found if isinstance(outcome, Found)]


async def timed(work: Awaitable[Answer]) -> tuple[float, Answer]:
    """How long it took, and what came of it."""
    began_s = asyncio.get_running_loop().time()
    outcome = await work
    return asyncio.get_running_loop().time() - began_s, outcome


# -- where they agree --------------------------------------------------------------------------------------------


async def test_reads_of_one_turn_are_one_message() -> None:
    cluster = await agreeing()
    said = watch(cluster)
    outcomes = await get_all(cluster, KEYS)
    assert said == [(0, 1, Glance(KEYS))]
    assert values(outcomes) == [b"value of " + key for key in KEYS]
    receipts = {(outcome.acks, outcome.replicas) for outcome in outcomes if isinstance(outcome, Found)}
    assert receipts == {(2, ("n0", "n1"))}
    assert len(cluster.nodes[0].context.sweeper) == 0


async def test_two_others_share_the_reading() -> None:
    cluster = await agreeing(without=None)
    said = watch(cluster)
    outcomes = await get_all(cluster, KEYS)
    assert sorted((source, target) for source, target, _ in said) == [(0, 1), (0, 2)]
    assert sorted(len(request.keys) for _, _, request in said if isinstance(request, Glance)) == [10, 10]
    assert values(outcomes) == [b"value of " + key for key in KEYS]


async def test_that_a_key_is_absent_is_agreed_on_as_well() -> None:
    cluster = await agreeing()
    missing = [b"missing-%d" % number for number in range(3)]
    assert values(await get_all(cluster, missing)) == [None] * 3
    said = watch(cluster)
    assert values(await get_all(cluster, missing)) == [None] * 3
    assert kinds(said) == [Glance]


async def test_a_glance_is_cut_where_its_keys_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glances, "KEYS_MAX", 8)
    cluster = await agreeing()
    said = watch(cluster)
    assert values(await get_all(cluster, KEYS)) == [b"value of " + key for key in KEYS]
    assert [len(request.keys) for _, _, request in said if isinstance(request, Glance)] == [8, 8, 4]


async def test_what_a_replica_says_of_a_glance() -> None:
    """Ballots of what is on its disk; nothing of what would take waiting, or while anything stands against it."""
    cluster = await agreeing([b"there", b"cold"])
    node = cluster.nodes[1]
    node.replica._cache.remove(b"cold")
    await cluster.ask(1, Read(b"absent", value=True))
    node.disk.clear()
    ballot = node.ballots.tick()
    answered: list[Reply] = []
    accept = Accept(b"uncommitted", Record(ballot, ballot, False, b"value"), NONE)
    await cluster.ask(1, Read(b"uncommitted", value=True))
    node.on_request(accept, 0, lambda _, reply: answered.append(reply), 0)
    glance = Glance([b"there", b"cold", b"absent", b"uncommitted"])
    there = node.replica.peek(b"there")
    assert there is not None
    assert await cluster.ask(1, glance) == Glimpsed([there.ballot, UNSEEN, NONE, UNSEEN])  # type: ignore[arg-type]
    assert answered == []
    node.disk.set()
    await until(lambda: answered)
    assert await cluster.ask(1, glance) == Glimpsed([there.ballot, UNSEEN, NONE, ballot])  # type: ignore[arg-type]
    node.fitness.bar(Bar.RECOVERING, "it lost its memory")
    assert await cluster.ask(1, glance) == Glimpsed([UNSEEN] * 4)  # type: ignore[arg-type]


# -- where they differ, or can't be known to agree ---------------------------------------------------------------


@pytest.mark.parametrize("behind", [0, 1])
async def test_the_newer_of_two_records_is_found(behind: int) -> None:
    """Whether it is this node that has missed a write or the other; the reads beside it are not held up."""
    cluster = await agreeing(without=None)
    key = cluster.key_led_by(2)
    await cluster.put(2, key, b"old", needed=3)
    cluster.network.treat(Fate.LOST, Accept, target=behind)
    assert isinstance(await cluster.put(2, key, b"new"), Written)
    cluster.network.heal()
    cluster.network.cut_off(2)
    said = watch(cluster)
    others = [one for one in KEYS if one != key]
    found = values(await get_all(cluster, [*others, key]))
    assert found == [*(b"value of " + one for one in others), b"new"]
    assert kinds(said)[0] is Glance
    assert {request.key for _, _, request in said if isinstance(request, Read)} == {key}
    assert cluster.values_on_disk(key) == [b"new"] * 3, "before it was told, it was on a majority"


async def test_what_one_replica_alone_holds_is_settled_before_it_is_told() -> None:
    cluster = await agreeing()
    await cluster.leave_unsettled(0, KEYS[0], b"unsettled")
    assert values(await get_all(cluster, KEYS[:3])) == [b"unsettled", *(b"value of " + key for key in KEYS[1:3])]
    assert cluster.values_on_disk(KEYS[0])[:2] == [b"unsettled"] * 2


async def test_a_record_is_not_taken_for_none() -> None:
    """The other has never heard of the key; and the other way round."""
    cluster = await agreeing()
    here, there = b"only here", b"only there"
    assert values(await get_all(cluster, [here, there])) == [None, None]
    await cluster.leave_unsettled(0, here, b"value")
    await cluster.leave_unsettled(1, there, b"value")
    said = watch(cluster)
    assert values(await get_all(cluster, [here, there])) == [b"value", b"value"]
    assert kinds(said)[0] is Glance
    assert all(cluster.values_on_disk(key)[:2] == [b"value", b"value"] for key in (here, there))


async def test_what_the_other_has_not_in_memory_is_asked_for_alone() -> None:
    cluster = await agreeing()
    cluster.nodes[1].replica._cache.remove(KEYS[3])
    said = watch(cluster)
    assert values(await get_all(cluster, KEYS)) == [b"value of " + key for key in KEYS]
    assert [(type(request), getattr(request, "key", None)) for _, _, request in said] == [
        (Glance, None),
        (Read, KEYS[3]),
    ]


async def test_what_the_other_has_not_on_disk_is_waited_for() -> None:
    """With the third gone it would be lost with the power, and whoever was told of it deceived."""
    cluster = await agreeing(without=None)
    key = cluster.key_led_by(0)
    cluster.nodes[1].disk.clear()
    assert isinstance(await cluster.put(0, key, b"new"), Written)
    cluster.network.cut_off(2)
    assert isinstance(await cluster.get(0, key, timeout_s=1), TimedOut)
    cluster.nodes[1].disk.set()
    assert values([await cluster.get(0, key)]) == [b"new"]


async def test_what_this_node_has_not_on_disk_is_not_compared() -> None:
    cluster = await agreeing(without=None)
    key = cluster.key_led_by(1)
    cluster.nodes[0].disk.clear()
    assert isinstance(await cluster.put(1, key, b"new"), Written)
    said = watch(cluster)
    (outcome,) = await get_all(cluster, [key])
    assert values([outcome]) == [b"new"]
    assert isinstance(outcome, Found)
    assert "n0" not in outcome.replicas
    assert Glance not in kinds(said)
    cluster.nodes[0].disk.set()


async def test_what_this_node_has_not_in_memory_is_not_compared() -> None:
    cluster = await agreeing()
    cluster.nodes[0].replica._cache.remove(KEYS[3])
    said = watch(cluster)
    assert values(await get_all(cluster, KEYS)) == [b"value of " + key for key in KEYS]
    assert [request.keys for _, _, request in said if isinstance(request, Glance)] == [[*KEYS[:3], *KEYS[4:]]]


@pytest.mark.parametrize("bar", [Bar.READ_ONLY, Bar.UNVERIFIED])
async def test_a_node_that_is_not_fit_does_not_go_by_what_it_holds(bar: Bar) -> None:
    cluster = await agreeing(without=None)
    cluster.nodes[0].fitness.bar(bar, "something stands against it")
    said = watch(cluster)
    assert values(await get_all(cluster, KEYS)) == [b"value of " + key for key in KEYS]
    assert Glance not in kinds(said)


async def test_nobody_goes_by_what_an_unfit_node_holds() -> None:
    """That it is has not been heard yet."""
    cluster = await agreeing(without=None)
    cluster.nodes[1].fitness.bar(Bar.UNVERIFIED, "it has just started")
    outcomes = await get_all(cluster, KEYS)
    assert values(outcomes) == [b"value of " + key for key in KEYS]
    assert {outcome.replicas for outcome in outcomes if isinstance(outcome, Found)} == {("n0", "n2")}


async def test_an_expired_value_is_not_shown() -> None:
    """Both hold the same: what became of it the key's primary must say."""
    cluster = await agreeing()
    cluster.network.heal()
    key = cluster.key_led_by(0)
    assert isinstance(await cluster.put(0, key, b"value", ttl_ms=2_000, needed=3), Written)
    said = watch(cluster)
    assert values(await get_all(cluster, [key])) == [b"value"]
    assert kinds(said) == [Glance]
    await asyncio.sleep(3)
    said.clear()
    assert values(await get_all(cluster, [key])) == [None]
    assert Glance not in kinds(said)
    assert sum(value is None for value in cluster.values_on_disk(key)) >= 2


# -- what is lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [Fate.UNSENT, Fate.LOST, Fate.ANSWER_LOST, Fate.SILENT])
@pytest.mark.parametrize("is_glance_only", [True, False])
async def test_who_does_not_answer_is_done_without(fate: Fate, is_glance_only: bool) -> None:
    cluster = await agreeing(without=None)
    cluster.network.treat(fate, *([Glance] if is_glance_only else [Read]), target=1)
    elapsed_s, outcomes = await timed(get_all(cluster, KEYS))
    assert values(outcomes) == [b"value of " + key for key in KEYS]
    assert elapsed_s < 0.5
    assert len(cluster.nodes[0].context.sweeper) == 0


async def test_a_late_answer_is_not_heard() -> None:
    """The reads have gone their own ways, and each is answered once."""
    cluster = await agreeing(without=None)
    cluster.network.treat(Fate.DELIVERED, Read, target=1, answer_after_s=1)
    answered: list[ReadOutcome] = []
    for key in KEYS:
        cluster.nodes[0].begin_read(ReadRequest(key, Level.STRONG, 2, 5.0), answered.append)
    await asyncio.sleep(3)
    assert sorted(map(str, values(answered))) == sorted(str(b"value of " + key) for key in KEYS)


async def test_a_short_timeout_is_kept() -> None:
    """The other is paused, and this read has less time than patience."""
    cluster = await agreeing()
    cluster.network.treat(Fate.SILENT, Read, target=1)
    elapsed_s, outcomes = await timed(get_all(cluster, KEYS[:3], timeout_s=0.05))
    assert all(isinstance(outcome, TimedOut) for outcome in outcomes)
    assert 0.05 <= elapsed_s < 0.05 + 0.05


@pytest.mark.parametrize("is_hasty_first", [True, False])
async def test_each_read_of_a_glance_has_its_own_deadline(is_hasty_first: bool) -> None:
    cluster = await agreeing()
    cluster.network.treat(Fate.DELIVERED, Read, target=1, answer_after_s=0.07)
    times_s = [0.05, 5.0] if is_hasty_first else [5.0, 0.05]
    reads = [asyncio.create_task(timed(cluster.get(0, KEYS[0], timeout_s=time_s))) for time_s in times_s]
    told = dict(zip(times_s, await asyncio.gather(*reads), strict=True))
    assert isinstance(told[0.05][1], TimedOut)
    assert told[0.05][0] < 0.1
    assert values([told[5.0][1]]) == [b"value of " + KEYS[0]]


async def test_an_answer_that_is_too_short_answers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = await agreeing()
    state = cluster.nodes[1].replica.peek(KEYS[0])
    assert state is not None
    short = Glimpsed([state.ballot])
    monkeypatch.setattr(cluster.nodes[1].replica, "handle_glance", lambda _, respond, token: respond(token, short))
    elapsed_s, outcomes = await timed(get_all(cluster, KEYS))
    assert values(outcomes) == [b"value of " + key for key in KEYS]
    assert elapsed_s < 0.1


async def test_a_reader_that_fails_does_not_hold_up_the_others() -> None:
    cluster = await agreeing()

    def fail(outcome: ReadOutcome) -> None:
        raise RuntimeError("this callback fails")

    cluster.nodes[0].begin_read(ReadRequest(KEYS[0], Level.STRONG, 2, 5.0), fail)
    elapsed_s, outcomes = await timed(get_all(cluster, KEYS))
    assert values(outcomes) == [b"value of " + key for key in KEYS]
    assert elapsed_s < 0.1


async def test_a_glance_that_is_over_holds_on_to_nothing() -> None:
    """Its answer may be awaited for as long as the connection lives."""
    cluster = await agreeing(without=None)
    cluster.network.treat(Fate.SILENT, Glance, target=1)
    sweeper, watched = cluster.nodes[0].context.sweeper, []
    add = sweeper.add
    sweeper.add = lambda item: (watched.append(item), add(item))  # type: ignore[method-assign,assign,func-returns-value]
    values(await get_all(cluster, KEYS))
    held = [(item.keys, item.readings) for item in watched if hasattr(item, "readings")]  # type: ignore[attr-defined]
    assert held == [([], []), ([], [])]


# -- who glances -------------------------------------------------------------------------------------------------


async def test_a_node_without_a_replica_asks_for_values() -> None:
    cluster = await form_cluster(5, replicas=3)
    key = cluster.key_without(0)
    at = cluster.topology.replicas_of(key)[0]
    assert isinstance(await cluster.put(0, key, b"value", needed=3), Written)
    await cluster.ask(0, Read(key, value=True))  # what it has in memory of somebody else's key counts for nothing
    said = watch(cluster)
    assert values(await get_all(cluster, [key, key])) == [b"value"] * 2
    assert set(kinds(said)) == {Read}
    said.clear()
    assert values(await get_all(cluster, [key, key], at=at)) == [b"value"] * 2
    assert set(kinds(said)) == {Glance}


@pytest.mark.parametrize(
    ("replicas", "level", "needed"), [(3, Level.STRONG, 3), (5, Level.STRONG, 3), (3, Level.WEAK, 2)]
)
async def test_only_where_two_strong_answers_are_enough(replicas: int, level: Level, needed: int) -> None:
    cluster = await form_cluster(5, replicas=replicas)
    key = next(key for key in MANY_KEYS if 0 in cluster.topology.replicas_of(key))
    assert isinstance(await cluster.put(0, key, b"value", needed=replicas), Written)
    said = watch(cluster)
    outcome = await cluster.get(0, key, level=level, needed=needed)
    assert values([outcome]) == [b"value"]
    assert isinstance(outcome, Found)
    assert outcome.acks == needed
    assert set(kinds(said)) == {Read}


async def test_a_read_after_a_read_never_goes_back() -> None:
    """Writes are under way all the time, and replicas miss some; each reader in turn, at every node."""
    cluster = await agreeing(without=None)
    key, seen = KEYS[0], NONE
    fates = [Fate.LOST, Fate.DELIVERED, Fate.ANSWER_LOST, Fate.UNSENT, Fate.SILENT]
    glanced = 0
    for number in range(60):
        cluster.network.heal()
        said = watch(cluster)
        cluster.network.treat(fates[number % 5], Accept, Volley, target=number % 3)
        write = asyncio.create_task(cluster.put(number % 2, key, b"%d" % number, timeout_s=0.3))
        for step in range(4):
            outcome = await cluster.get((number + step) % 3, key)
            assert isinstance(outcome, Found)
            assert outcome.record is not None
            assert outcome.record.origin >= seen
            seen = outcome.record.origin
        glanced += kinds(said).count(Glance)
        written = await write
        if isinstance(written, Written):
            seen = max(seen, written.version)
        await asyncio.sleep(TURN_S)
    assert glanced > 60, "or this tests something else"
