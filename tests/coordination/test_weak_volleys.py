"""Weak and eventual writes in volleys: those of one turn go together, and each is acknowledged, or not, for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from cluster.levels import Level
from cluster.membership.fitness import Bar
from cluster.membership.placement import partition_of
from cluster.protocol.messages import Accept, Forward, Prepare, Volley
from cluster.requests import Found, Unavailable, Unknown, WriteOutcome, WriteRequest, Written
from storage.ballot import NONE
from tests.coordination.overheard import Said, accepts, watch
from tests.coordination.three_nodes import MANY_KEYS, TURN_S, Cluster, Fate, form_cluster

KEYS = MANY_KEYS[:12]


async def known(keys: Iterable[bytes] = KEYS, count: int = 3) -> Cluster:
    """A cluster whose nodes have the keys in memory, weakly written."""
    cluster = await form_cluster(count)
    for key in keys:
        assert isinstance(await cluster.put(0, key, b"before", level=Level.WEAK), Written)
    await asyncio.sleep(TURN_S)
    return cluster


async def put_all(cluster: Cluster, at: int = 0, value: bytes = b"new", **choices: object) -> list[WriteOutcome]:
    """Puts to all of them in one turn of the loop."""
    choices.setdefault("level", Level.WEAK)
    return await asyncio.gather(*(cluster.put(at, key, value, **choices) for key in KEYS))  # type: ignore[arg-type]


def kinds(said: Said) -> set[type]:
    return {type(request) for _, request in said}


@pytest.mark.parametrize("level", [Level.WEAK, Level.EVENTUAL])
@pytest.mark.parametrize("needed", [1, 2, 3])
async def test_those_of_one_turn_share_a_message_to_each_replica(level: Level, needed: int) -> None:
    cluster = await known()
    said = watch(cluster)
    outcomes = await put_all(cluster, level=level, needed=needed)
    assert {outcome.acks for outcome in outcomes if isinstance(outcome, Written)} == {needed}
    assert len(outcomes) == len(KEYS)
    await asyncio.sleep(TURN_S)
    assert sorted(target for target, _ in said) == [1, 2]
    assert kinds(said) == {Volley}
    assert all(accept.yielding and accept.next_ballot == NONE for accept in accepts(said))
    assert all(cluster.values_on_disk(key) == [b"new"] * 3 for key in KEYS)


async def test_each_waits_for_as_many_replicas_as_it_asks_for() -> None:
    cluster = await known()
    cluster.network.treat(Fate.SILENT, target=1)
    cluster.network.treat(Fate.SILENT, target=2)
    works = [
        asyncio.create_task(cluster.put(0, key, b"new", level=Level.WEAK, needed=1 + place % 2, timeout_s=0.5))
        for place, key in enumerate(KEYS)
    ]
    await asyncio.sleep(TURN_S)
    assert [work.done() for work in works] == [True, False] * (len(KEYS) // 2)
    for place, work in enumerate(works):
        outcome = await work
        if place % 2:
            assert isinstance(outcome, Unknown)
            assert (outcome.got, outcome.replicas) == (1, ("n0",))
        else:
            assert isinstance(outcome, Written)
            assert outcome.replicas == ("n0",)


async def test_a_key_that_is_not_in_memory_has_a_conversation_of_its_own() -> None:
    """Replicas would leave it out of a volley: they load it first."""
    cluster = await form_cluster()
    said = watch(cluster)
    assert isinstance(await cluster.put(0, b"first", b"value", level=Level.WEAK), Written)
    assert kinds(said) == {Accept}


async def test_where_a_strong_proposer_may_be_at_work_a_weak_write_does_not_go_straight() -> None:
    cluster = await known()
    assert isinstance(await cluster.put(0, KEYS[0], b"strong"), Written)
    said = watch(cluster)
    assert isinstance(await cluster.put(0, KEYS[0], b"weak", level=Level.WEAK), Written)
    assert Volley not in {type(asked) for _, asked in said if not _is_strong(asked)}
    assert cluster.values_on_disk(KEYS[0]) == [b"weak"] * 3


def _is_strong(asked: object) -> bool:
    return isinstance(asked, Volley) and not any(accept.yielding for accept in asked.accepts)


async def test_once_merged_the_next_weak_writes_go_straight_again() -> None:
    """A promise that the merge left behind made each of them another merge, for ever."""
    cluster = await known()
    key = KEYS[0]
    await cluster.put(0, key, b"strong")
    assert isinstance(await cluster.put(1, key, b"merged", level=Level.WEAK), Written)
    await asyncio.sleep(TURN_S)
    said = watch(cluster)
    for number, at in enumerate((2, 0, 1)):
        assert isinstance(await cluster.put(at, key, b"%d" % number, level=Level.WEAK), Written)
        await asyncio.sleep(TURN_S)
    assert kinds(said) == {Volley}
    assert cluster.values_on_disk(key) == [b"2"] * 3


async def test_what_one_replica_leaves_out_is_brought_in_by_its_own_conversation() -> None:
    """Another node has just been promised the key there: all three are asked for, and all three get it."""
    cluster = await known()
    key = KEYS[0]
    await cluster.ask(2, Prepare(key, cluster.nodes[1].ballots.tick()))
    outcome = await cluster.put(0, key, b"new", level=Level.WEAK, needed=3)
    assert isinstance(outcome, Written)
    assert outcome.acks == 3
    assert cluster.values_on_disk(key) == [b"new"] * 3


async def test_a_volley_that_is_lost_is_asked_for_once_more() -> None:
    cluster = await known()
    cluster.network.treat(Fate.LOST, Volley)
    said = watch(cluster)
    outcomes = await put_all(cluster, needed=3)
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert kinds(said) == {Volley, Accept}
    first = {accept.key: accept.record for accept in accepts(said)}
    again = {asked.key: asked.record for _, asked in said if isinstance(asked, Accept)}
    assert again == first, "the very same write, so that it is applied once at most"


async def test_two_of_one_key_take_effect_in_their_order() -> None:
    cluster = await known()
    key = KEYS[0]
    first, second = await asyncio.gather(
        cluster.put(0, key, b"first", level=Level.WEAK), cluster.put(0, key, b"second", level=Level.WEAK)
    )
    assert isinstance(first, Written)
    assert isinstance(second, Written)
    assert first.version < second.version
    await asyncio.sleep(TURN_S)
    assert cluster.values_on_disk(key) == [b"second"] * 3


async def test_what_was_sent_is_never_called_not_applied() -> None:
    """Nobody answers, and this node's own disk stands still: it may be on all three all the same."""
    cluster = await known()
    cluster.network.treat(Fate.ANSWER_LOST, Volley, Accept, answer_after_s=9.0)
    cluster.nodes[0].disk.clear()
    outcomes = await put_all(cluster, timeout_s=0.5)
    cluster.nodes[0].disk.set()
    assert all(isinstance(outcome, Unknown) for outcome in outcomes)
    await asyncio.sleep(1)
    assert all(cluster.values_on_disk(key) == [b"new"] * 3 for key in KEYS)


async def test_an_eventual_write_that_no_replica_has_acknowledged_is_kept_as_a_hint() -> None:
    cluster = await known()
    cluster.network.treat(Fate.SILENT)
    cluster.nodes[0].disk.clear()
    work = asyncio.create_task(cluster.put(0, KEYS[0], b"new", level=Level.EVENTUAL, timeout_s=4))
    await asyncio.sleep(1.5)
    assert not work.done()
    cluster.nodes[0].disk.set()
    outcome = await work
    assert isinstance(outcome, Written)
    assert outcome.hinted


async def test_with_a_home_replica_away_it_leaves_a_hint_as_before() -> None:
    cluster = await known()
    cluster.network.cut_off(2)
    said = watch(cluster)
    outcomes = await put_all(cluster, level=Level.EVENTUAL)
    assert all(isinstance(outcome, Written) and outcome.hinted for outcome in outcomes)
    assert Volley not in kinds(said)


async def test_a_lost_quorum_is_told_before_anything_is_sent() -> None:
    cluster = await known()
    cluster.network.cut_off(1)
    cluster.network.cut_off(2)
    said = watch(cluster)
    outcomes = await put_all(cluster, needed=2)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert not kinds(said) & {Volley, Accept, Forward}


async def test_it_counts_as_under_way_until_somebody_has_it() -> None:
    """No floor may be raised above a write that may still come."""
    cluster = await known()
    cluster.network.treat(Fate.SILENT)
    cluster.nodes[0].disk.clear()
    key = KEYS[0]
    partition = partition_of(key, cluster.topology.partitions)
    writer = cluster.nodes[0].weak_writer
    assert writer.oldest(partition) is None
    work = asyncio.create_task(cluster.put(0, key, b"new", level=Level.WEAK, timeout_s=2))
    await asyncio.sleep(TURN_S)
    assert writer.oldest(partition) is not None
    cluster.nodes[0].disk.set()
    assert isinstance(await work, Written)
    assert writer.oldest(partition) is None


async def test_strong_and_weak_writes_of_one_turn_do_not_share_a_count() -> None:
    """A strong one is chosen by a majority, however few a weak one asks for."""
    cluster = await known()
    strong = MANY_KEYS[20:24]
    for key in strong:
        await cluster.put(0, key, b"before")
    cluster.network.treat(Fate.SILENT, target=1)
    cluster.network.treat(Fate.SILENT, target=2)
    led_here = [key for key in strong if cluster.topology.replicas_of(key)[0] == 0] or [cluster.key_led_by(0)]
    works = [asyncio.create_task(cluster.put(0, key, b"new", timeout_s=0.5)) for key in led_here]
    weak = await put_all(cluster)
    assert all(isinstance(outcome, Written) for outcome in weak)
    assert not [work for work in works if work.done()]
    assert not [outcome for outcome in await asyncio.gather(*works) if isinstance(outcome, Written)]


async def test_it_is_read_back_at_once_where_it_was_written() -> None:
    cluster = await known()
    await put_all(cluster, at=1)
    for key in KEYS:
        found = await cluster.get(1, key, level=Level.WEAK)
        assert isinstance(found, Found)
        assert found.record is not None
        assert found.record.value == b"new"


@pytest.mark.parametrize("fate", [Fate.UNSENT, Fate.LOST])
@pytest.mark.parametrize("needed", [1, 2])
async def test_a_home_replica_that_was_lost_under_way_is_left_a_hint(fate: Fate, needed: int) -> None:
    """It still counted as alive when the volley went out, and nobody will send it again."""
    cluster = await known()
    cluster.network.treat(fate, Accept, target=2)
    outcomes = await put_all(cluster, needed=needed)
    assert all(isinstance(outcome, Written) and outcome.hinted for outcome in outcomes)
    cluster.network.heal()
    await asyncio.sleep(30)
    assert all(cluster.values_on_disk(key) == [b"new"] * 3 for key in KEYS)


@pytest.mark.parametrize("fate", [Fate.UNSENT, Fate.LOST])
async def test_where_one_was_lost_and_another_is_silent_it_asks_again(fate: Fate) -> None:
    """One could not be reached for a moment, and another is paused: it hung until its deadline, with two well."""
    cluster = await known()
    cluster.network.treat(Fate.SILENT, Accept, target=2)
    cluster.network.treat(fate, Accept, target=1)
    rule = cluster.network.rules[-1]
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    loop.call_later(0.01, lambda: cluster.network.rules.remove(rule))
    outcome = await cluster.put(0, KEYS[0], b"new", level=Level.WEAK, needed=2, timeout_s=2)
    assert isinstance(outcome, Written)
    assert loop.time() - began_s < 0.5


@pytest.mark.parametrize("is_own_left", [True, False])
async def test_where_too_few_are_left_at_the_end_of_the_turn_nothing_is_sent(is_own_left: bool) -> None:
    """And what was not sent is surely not applied; nor does a hint stand for the copies that were asked for."""
    cluster = await known()
    node, told = cluster.nodes[0], list[WriteOutcome]()
    node.begin_write(WriteRequest(KEYS[0], b"new", "", Level.WEAK, 2, 0.5), told.append)
    cluster.network.cut_off(1)
    cluster.network.cut_off(2)
    if not is_own_left:
        node.fitness.bar(Bar.UNVERIFIED, "for the test")
    await asyncio.sleep(TURN_S)
    assert told == [Unavailable(2, int(is_own_left), ("n0",) if is_own_left else ())]
    await asyncio.sleep(1)
    assert cluster.values_on_disk(KEYS[0]) == [b"before"] * 3
    assert node.weak_writer.oldest(partition_of(KEYS[0], cluster.topology.partitions)) is None
