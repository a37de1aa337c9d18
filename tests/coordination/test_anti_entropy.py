"""Replicas that differ, for whatever reason, become equal by themselves, and replicas that don't are left in peace."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from random import Random

import pytest

from cluster.levels import Level
from cluster.membership.fitness import Bar
from cluster.protocol.changes import RENEW, Merge
from cluster.protocol.messages import Accept, Forward, Prepare, Read, Reply, Request, Unfit, Volley
from cluster.protocol.repair_messages import (
    CompareEntries,
    CompareLeaves,
    CompareRoots,
    EntriesCompared,
    LeavesCompared,
    PartitionRepaired,
    RepairPartition,
    RootsCompared,
)
from cluster.repair.anti_entropy import answering, finding, loop, mending
from cluster.repair.hash_trees import LEAVES, HashTrees, pack
from cluster.requests import Written
from storage.ballot import NONE, unix_ms_of
from storage.engine import Row, RowPage
from storage.keyspace import hash_of
from storage.memory import MemoryFolder
from storage.record import Record, ReplicaState
from tests.coordination.three_nodes import MANY_KEYS, Cluster, Fate, Node, Rule, form_cluster, until

INTERVAL_S = 1.0
ROUNDS_S = 3 * INTERVAL_S
COMPARING = (CompareRoots, CompareLeaves, CompareEntries)


async def form(count: int = 3, *, partitions: int = 8) -> Cluster:
    return await form_cluster(count, partitions=partitions, anti_entropy_interval_s=INTERVAL_S)


def new_record(cluster: Cluster, value: bytes | None = b"new", *, weak: bool = False) -> Record:
    """A record that is newer than all there is."""
    highest = max(node.ballots.highest for node in cluster.nodes)
    ballot = cluster.nodes[0].ballots.tick(highest)
    return Record(ballot, ballot, weak, value)


async def plant(cluster: Cluster, key: bytes, record: Record, slots: Iterable[int]) -> None:
    """Only these replicas have heard of the record."""
    for slot in slots:
        await cluster.ask(slot, Accept(key, record, NONE))


def held(cluster: Cluster, key: bytes) -> list[Record | None]:
    """What the replicas of the key have on disk."""
    states = [cluster.nodes[slot].engine.folder.states.get(key) for slot in cluster.topology.replicas_of(key)]
    return [state.record if state is not None else None for state in states]


def all_hold(cluster: Cluster, records: dict[bytes, Record]) -> bool:
    """Whether all replicas hold these writes; under whatever ballots, but the same ones."""
    for key, record in records.items():
        found = held(cluster, key)
        if any(one is None or one.origin != record.origin or one.value != record.value for one in found):
            return False
        if len({one.ballot for one in found if one is not None}) > 1:
            return False
    return True


def are_equal(cluster: Cluster) -> bool:
    return all(len(set(held(cluster, key))) == 1 for node in cluster.nodes for key in node.engine.folder.states)


def watch(cluster: Cluster) -> list[tuple[int, int, Request]]:
    """All that nodes say to one another from now on: (source, target, request)."""
    said: list[tuple[int, int, Request]] = []
    rule_for = cluster.network.rule_for

    def noting(source: int, target: int, request: Request) -> Rule:
        said.append((source, target, request))
        return rule_for(source, target, request)

    cluster.network.rule_for = noting  # type: ignore[method-assign]
    return said


def kinds(said: Iterable[tuple[int, int, Request]], *wanted: type) -> Counter[str]:
    return Counter(type(request).__name__ for _, _, request in said if not wanted or isinstance(request, wanted))


def totals(cluster: Cluster, name: str) -> int:
    return sum(getattr(node.anti_entropy.ledger.totals, name) for node in cluster.nodes)


async def answer_of(node: Node, request: Request) -> Reply:
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    node.on_request(request, 0, lambda _, reply: answered.set_result(reply), 0)
    return await answered


# -- what is exchanged -------------------------------------------------------------------------------------------


async def test_equal_replicas_exchange_only_roots_and_one_of_two_asks() -> None:
    cluster = await form()
    for number in range(30):
        assert isinstance(await cluster.put(number % 3, b"key-%d" % number, b"value"), Written)
    said = watch(cluster)
    await asyncio.sleep(10 * INTERVAL_S)
    compared = [(source, target, type(request)) for source, target, request in said if isinstance(request, COMPARING)]
    assert {kind for _, _, kind in compared} == {CompareRoots}
    assert {(source, target) for source, target, _ in compared} == {(0, 1), (0, 2), (1, 2)}
    assert 7 * 3 <= len(compared) <= 14 * 3
    assert totals(cluster, "keys_differed") == 0


async def test_what_a_comparison_of_many_keys_moves() -> None:
    """Equal: a few bytes a partition. Different: 2 KiB for each partition that is, and a leaf for each key that is."""
    keys = [b"user/%07d" % number for number in range(100_000)]
    base, trees = MemoryFolder(), HashTrees(64, {})
    for number, key in enumerate(keys, start=1):
        base.states[key] = ReplicaState(number, Record(number, number, False, b"value"))
        leaf, total = trees.replace(key, NONE, number)
        base.leaves[leaf] = total
    folders = {slot: MemoryFolder(states=dict(base.states), leaves=dict(base.leaves)) for slot in range(2)}
    cluster = await form_cluster(2, partitions=64, anti_entropy_interval_s=INTERVAL_S, folders=folders)
    for node in cluster.nodes:
        index(node, keys)
    totals = cluster.nodes[0].anti_entropy.ledger.totals
    await until(lambda: cluster.nodes[0].anti_entropy.ledger.last_round_s)
    assert (totals.messages, totals.keys_differed) == (1, 0)
    assert 64 * 8 < totals.comparing_bytes < 2_000

    totals.comparing_bytes = 0
    records = {key: new_record(cluster, bytes(1_000)) for key in Random(5).sample(keys, 100)}
    for number, (key, record) in enumerate(records.items()):
        await plant(cluster, key, record, [number % 2])
    await until(partial(all_hold, cluster, records), 20)
    assert (totals.keys_differed, totals.keys_sent, totals.keys_fetched) == (100, 50, 50)
    assert 30 * 8 * LEAVES < totals.comparing_bytes < 300_000
    assert 100 * 1_000 < totals.record_bytes < 100 * 1_300


def index(node: Node, keys: Iterable[bytes]) -> None:
    """Rows by place, for keys that don't come and go: what an engine on disk has and the one in memory has not."""
    places = sorted((hash_of(key), key) for key in keys)

    async def rows(first: int, behind: int, after: tuple[int, bytes] | None, limit: int) -> RowPage:
        start = bisect_left(places, (first, b"")) if after is None else bisect_right(places, after)
        found = places[start : bisect_left(places, (behind, b""))]
        states = [(key, node.engine.folder.states[key]) for _, key in found[:limit]]
        page = [
            Row(key, state.promised, state.ballot, state.origin, state.record is not None and not state.record.value, 0)
            for key, state in states
        ]
        return RowPage(page, len(found) <= limit)

    node.engine.rows = rows  # type: ignore[method-assign]


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("newer", [(0,), (1,), (2,), (0, 2)])
async def test_what_some_hold_all_hold_soon(count: int, newer: tuple[int, ...]) -> None:
    """Whoever compares, records go both ways, each once to each replica that lacks it."""
    cluster = await form()
    records = {}
    for key in MANY_KEYS[:count]:
        await cluster.put(0, key, b"old", needed=3)
        records[key] = new_record(cluster)
        await plant(cluster, key, records[key], newer)
    await until(partial(all_hold, cluster, records), 20)
    assert all(one == record for key, record in records.items() for one in held(cluster, key)), "under its own ballot"
    moved = totals(cluster, "keys_sent") + totals(cluster, "keys_fetched")
    assert totals(cluster, "keys_cleared") == 0
    assert count * (3 - len(newer)) <= moved <= count * 2


async def test_a_deletion_that_one_replica_knows_of_reaches_the_others() -> None:
    cluster = await form()
    await cluster.put(0, b"key", b"old", needed=3)
    tombstone = new_record(cluster, None)
    await plant(cluster, b"key", tombstone, [1])
    await until(partial(all_hold, cluster, {b"key": tombstone}), 20)


async def test_a_key_that_differs_on_all_three() -> None:
    cluster = await form()
    newest: dict[bytes, Record] = {}
    for number, key in enumerate(MANY_KEYS[:30]):
        for slot in (number, number + 1, number + 2):
            newest[key] = new_record(cluster, b"at-%d" % slot, weak=number % 2 == 0)
            await plant(cluster, key, newest[key], [slot % 3])
    await until(partial(all_hold, cluster, newest), 30)


async def test_a_weak_record_takes_no_round_where_only_an_old_prepared_ballot_stands() -> None:
    """After each strong write a promise is outstanding for as long as nobody writes.

    A repair that always stepped back before it cost two rounds for each weak write that a replica had missed.
    """
    cluster = await form()
    records = {}
    for key in MANY_KEYS[:20]:
        await cluster.put(0, key, b"strong", needed=3)
        records[key] = new_record(cluster, weak=True)
        await plant(cluster, key, records[key], [0, 1])
    said = watch(cluster)
    await until(partial(all_hold, cluster, records), 20)
    assert all(one == record for key, record in records.items() for one in held(cluster, key))
    assert kinds(said, Prepare, Forward) == {}
    assert any(isinstance(request, Accept) and request.yielding for _, _, request in said), "it asks politely first"


async def test_a_weak_record_gives_way_to_a_strong_proposer_that_is_at_work() -> None:
    """A promise that was not there at the first look is somebody's who is about to write."""
    cluster = await form()
    await cluster.put(0, b"key", b"strong", needed=3)
    record = new_record(cluster, weak=True)
    await plant(cluster, b"key", record, [0, 1])
    said = watch(cluster)
    cluster.network.treat(Fate.DELIVERED, CompareEntries, target=2, then=lambda: promise_soon(cluster, 2, record))
    await until(lambda: kinds(said, Accept), 20)
    first = next(request for _, target, request in said if isinstance(request, Accept) and target == 2)
    assert first.yielding
    assert held(cluster, b"key")[cluster.topology.replicas_of(b"key").index(2)] != record
    await until(partial(all_hold, cluster, {b"key": record}), 20)
    assert totals(cluster, "keys_cleared") == 1


def promise_soon(cluster: Cluster, slot: int, below: Record) -> None:
    """Between the two looks that replica promises another ballot, which the record is above all the same."""
    node = cluster.nodes[slot]
    state = node.replica.peek(b"key")
    assert state is not None
    prepare = Prepare(b"key", state.promised + 1)
    assert prepare.ballot < below.ballot
    asyncio.get_running_loop().call_later(
        mending.SECOND_LOOK_S / 2, node.on_request, prepare, 0, lambda _, reply: None, 0
    )


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("stuck", [0, 1, 2])
async def test_a_promise_whose_proposer_died_is_cleared(weak: bool, stuck: int) -> None:
    """Both for the replica that compares and for one that it compares itself with."""
    cluster = await form()
    await cluster.put(0, b"key", b"old", needed=3)
    record = new_record(cluster, weak=weak)
    await plant(cluster, b"key", record, {0, 1, 2} - {stuck})
    highest = new_record(cluster).ballot
    await cluster.ask(stuck, Prepare(b"key", highest))
    await until(partial(all_hold, cluster, {b"key": record}), 20)
    assert totals(cluster, "keys_cleared") >= 1
    assert all(one is not None and one.ballot > highest for one in held(cluster, b"key")), "by a round, not past it"


async def test_a_weak_record_behind_a_promise_is_merged_before_the_key_is_settled() -> None:
    """Settling alone might settle on the older record of the two others, and push the weak one out."""
    cluster = await form()
    key = cluster.key_led_by(1)
    await cluster.put(1, key, b"old", needed=3)
    record = new_record(cluster, weak=True)
    await plant(cluster, key, record, [0])
    for slot in (1, 2):
        await cluster.ask(slot, Prepare(key, new_record(cluster).ballot))
    said = watch(cluster)
    await until(partial(all_hold, cluster, {key: record}), 20)
    changes = [request.change for source, _, request in said if isinstance(request, Forward) and source == 0]
    assert changes[:2] == [Merge(record), RENEW]


async def test_five_nodes_of_which_three_hold_each_key() -> None:
    cluster = await form(5)
    records: dict[bytes, Record] = {}
    for number, key in enumerate(MANY_KEYS[:120]):
        records[key] = new_record(cluster, weak=number % 3 == 0)
        await plant(cluster, key, records[key], [cluster.topology.replicas_of(key)[number % 3]])
    await until(partial(all_hold, cluster, records), 30)
    for slot, node in enumerate(cluster.nodes):
        assert all(slot in cluster.topology.replicas_of(key) for key in node.engine.folder.states)


async def test_more_differences_than_fit_a_reply_or_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "ROWS_MAX", 3)
    monkeypatch.setattr(finding, "KEYS_PER_BATCH", 20)
    cluster = await form(partitions=1)
    records = {}
    for key in MANY_KEYS:
        records[key] = new_record(cluster)
        await plant(cluster, key, records[key], [2])
    said = watch(cluster)
    await until(partial(all_hold, cluster, records), 300)
    rounds = [source for source, target, request in said if isinstance(request, CompareRoots) and source != target]
    assert len(rounds) > len(MANY_KEYS) / 100, "in batches"


async def test_one_batch_follows_another_without_waiting_for_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "KEYS_PER_BATCH", 10)
    cluster = await form_cluster(anti_entropy_interval_s=30.0)
    records = {}
    for key in MANY_KEYS[:100]:
        records[key] = new_record(cluster)
        await plant(cluster, key, records[key], [0, 2])
    await until(partial(all_hold, cluster, records), 1.25 * 30 + 20)


async def test_what_a_batch_left_out_counts_as_differing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "KEYS_PER_BATCH", 1)
    cluster = await form()
    for key in MANY_KEYS[:100]:
        await plant(cluster, key, new_record(cluster), [2])
    said = watch(cluster)
    await until(lambda: len([one for one in said if one[:2] == (0, 2) and isinstance(one[2], CompareRoots)]) == 2, 20)
    told = [request.differed for source, _, request in said if isinstance(request, CompareRoots) and source == 0]
    assert max(len(differed or []) for differed in told) >= 6
    await until(lambda: are_equal(cluster), 300)


# -- trouble on the way --------------------------------------------------------------------------------------------


async def test_messages_are_lost() -> None:
    cluster = await form()
    chance = Random(7)
    records = {}
    for number, key in enumerate(MANY_KEYS[:60]):
        await cluster.put(0, key, b"old", needed=3)
        records[key] = new_record(cluster, weak=number % 2 == 0)
        await plant(cluster, key, records[key], [number % 3])
    fates = [Fate.UNSENT, Fate.LOST, Fate.ANSWER_LOST]
    rule_for = cluster.network.rule_for

    def losing(source: int, target: int, request: Request) -> Rule:
        if chance.random() < 0.2 and isinstance(request, (*COMPARING, Read, Accept, Volley)):
            return Rule(chance.choice(fates), (), None, None, 0.0)
        return rule_for(source, target, request)

    cluster.network.rule_for = losing  # type: ignore[method-assign]
    await until(partial(all_hold, cluster, records), 120)


@pytest.mark.parametrize("kind", [CompareLeaves, CompareEntries, Read, Accept])
@pytest.mark.parametrize("known", [True, False])
async def test_a_peer_that_dies_in_the_middle_holds_up_nobody(kind: type, known: bool) -> None:
    cluster = await form()
    records = {}
    for key in MANY_KEYS[:400]:
        records[key] = new_record(cluster)
        await plant(cluster, key, records[key], [0])

    def die() -> None:
        if known:
            cluster.network.cut_off(2)
        else:
            cluster.network.treat(Fate.SILENT, target=2)
            cluster.network.treat(Fate.UNSENT, source=2)

    cluster.network.treat(Fate.DELIVERED, kind, target=2, then=die)
    said = watch(cluster)
    await until(
        lambda: all(
            held(cluster, key)[place] == record for key, record in records.items() for place in places(cluster, key)
        ),
        20,
    )
    await asyncio.sleep(60)
    assert not all_hold(cluster, records)
    to_the_dead = [
        request
        for _, target, request in said
        if target == 2 and isinstance(request, (*COMPARING, Read, Accept, Volley))
    ]
    assert len(to_the_dead) < 300, "most of them are not even tried"
    cluster.network.heal()
    await until(partial(all_hold, cluster, records), 60)


async def test_a_peer_that_becomes_unfit_in_the_middle_is_asked_no_more() -> None:
    cluster = await form()
    for key in MANY_KEYS[:400]:
        await plant(cluster, key, new_record(cluster), [2])
    for node in cluster.nodes[:2]:
        told = partial(node.roster.told, 2, Bar.RECOVERING)
        cluster.network.treat(Fate.DELIVERED, Read, source=node.slot, target=2, then=told)
    said = watch(cluster)
    await until(lambda: kinds(said, Read), 20)
    await asyncio.sleep(0.1)
    assert 1 <= kinds(said, Read)["Read"] <= 2 * mending.KEYS_AT_ONCE


async def test_an_answer_that_never_comes_ends_nothing() -> None:
    """The other process was paused for a moment, and the message is gone: nobody says so."""
    cluster = await form()
    for other in (1, 2):
        cluster.network.treat(Fate.SILENT, *COMPARING, source=other)
    record = new_record(cluster)
    await plant(cluster, b"key", record, [0, 2])
    cluster.network.treat(Fate.SILENT, CompareEntries, target=1)
    await asyncio.sleep(ROUNDS_S)
    cluster.network.rules.pop()
    await until(partial(all_hold, cluster, {b"key": record}), 30)


def places(cluster: Cluster, key: bytes) -> list[int]:
    """Where the nodes 0 and 1 stand among the replicas of a key."""
    return [cluster.topology.replicas_of(key).index(slot) for slot in (0, 1)]


@pytest.mark.parametrize("newer", [0, 1])
async def test_one_direction_of_a_link_is_enough(newer: int) -> None:
    """It is 0 that compares itself with 1; when it can't, 1 does it."""
    cluster = await form()
    cluster.network.treat(Fate.UNSENT, source=0, target=1)
    cluster.network.treat(Fate.UNSENT, source=2)
    cluster.network.treat(Fate.UNSENT, target=2)
    record = new_record(cluster)
    await plant(cluster, b"key", record, [newer])
    own, peer = (cluster.topology.replicas_of(b"key").index(slot) for slot in (0, 1))
    await until(lambda: held(cluster, b"key")[own] == held(cluster, b"key")[peer] == record, 60)


@pytest.mark.parametrize("barred", [0, 2])
async def test_a_replica_that_recovers_is_left_alone_and_leaves_others_alone(barred: int) -> None:
    cluster = await form()
    await cluster.put(1, b"key", b"old", needed=3)
    record = new_record(cluster)
    fitness = cluster.nodes[barred].fitness
    fitness.recovering.update(range(8))
    fitness.bar(Bar.RECOVERING, "recovering")
    await plant(cluster, b"key", record, [1])
    partitions = [(cluster.nodes[1].trees.partition_of(b"key"), 0)]
    assert isinstance(await answer_of(cluster.nodes[barred], CompareRoots(1, partitions, [])), Unfit)
    assert isinstance(await answer_of(cluster.nodes[barred], RepairPartition(*partitions[0])), Unfit)
    said = watch(cluster)
    await asyncio.sleep(10 * INTERVAL_S)
    assert [request for _, target, request in said if target == barred and isinstance(request, Accept)] == []
    assert [request for source, _, request in said if source == barred and isinstance(request, COMPARING)] == []
    fitness.recovering.clear()
    fitness.clear(Bar.RECOVERING)
    await until(partial(all_hold, cluster, {b"key": record}), 20)


async def test_a_replica_without_room_is_not_pressed_and_gives_what_it_has() -> None:
    cluster = await form()
    newer_there, newer_here = new_record(cluster), new_record(cluster)
    await plant(cluster, b"there", newer_there, [2])
    await plant(cluster, b"here", newer_here, [0])
    cluster.nodes[2].engine.folder.bytes_free = 1 << 10
    await until(lambda: cluster.nodes[2].fitness.bars & Bar.READ_ONLY)
    await until(lambda: cluster.nodes[0].roster.bars.get(2))
    said = watch(cluster)
    await until(lambda: held(cluster, b"there").count(newer_there) == 3, 20)
    await asyncio.sleep(20 * INTERVAL_S)
    assert [request for _, target, request in said if target == 2 and isinstance(request, Accept)] == []
    asked = kinds((one for one in said if one[:2] == (0, 2)), CompareRoots)["CompareRoots"]
    assert asked >= 3
    assert all(node.anti_entropy.ledger.standing().differing == 1 for node in cluster.nodes[::2])
    cluster.nodes[2].engine.folder.bytes_free = 1 << 40
    await until(partial(all_hold, cluster, {b"here": newer_here}), 60)


# -- what is under way is left alone -------------------------------------------------------------------------------


async def test_a_busy_cluster_does_no_useless_repair() -> None:
    """Every message takes a while to arrive, so replicas differ nearly always, and never for long."""
    cluster = await form()
    chance = Random(3)
    for node in cluster.nodes:
        slow_down(node, chance)
    said = watch(cluster)
    ended = asyncio.get_running_loop().time() + 20

    async def write(number: int) -> None:
        while asyncio.get_running_loop().time() < ended:
            level = Level.STRONG if number % 3 else Level.WEAK
            await cluster.put(number % 3, b"key-%d" % number, b"%d" % chance.randrange(1000), level=level)

    await asyncio.gather(*(write(number) for number in range(30)))
    assert kinds(said, CompareEntries)["CompareEntries"] > 50, "they were seen to differ"
    assert totals(cluster, "keys_differed") == 0
    await asyncio.sleep(ROUNDS_S)
    assert are_equal(cluster)


def slow_down(node: Node, chance: Random) -> None:
    """What others send to this node takes up to 0.2 s."""
    handle: Callable[..., None] = node.on_request

    def later(request: Request, *rest: object) -> None:
        if isinstance(request, Accept | Volley | Prepare):
            asyncio.get_running_loop().call_later(0.2 * chance.random(), handle, request, *rest)
        else:
            handle(request, *rest)

    node.on_request = later  # type: ignore[method-assign]


@pytest.mark.parametrize("late", [0, 2])
async def test_what_arrives_between_the_two_looks_needs_no_help(late: int) -> None:
    cluster = await form()
    record = new_record(cluster)
    await plant(cluster, b"key", record, {0, 1, 2} - {late})
    said = watch(cluster)
    cluster.network.treat(Fate.DELIVERED, CompareEntries, then=lambda: arrive_soon(cluster, late, record))
    await until(lambda: kinds(said, CompareEntries), 20)
    await asyncio.sleep(ROUNDS_S)
    assert held(cluster, b"key") == [record] * 3
    assert (totals(cluster, "keys_differed"), kinds(said, Accept)) == (0, {})


def arrive_soon(cluster: Cluster, slot: int, record: Record) -> None:
    accept = Accept(b"key", record, NONE)
    asyncio.get_running_loop().call_later(
        mending.SECOND_LOOK_S / 2, cluster.nodes[slot].on_request, accept, 0, lambda _, reply: None, 0
    )


async def test_clients_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """While many requests are under way on a node, its repairs are spread over time."""
    monkeypatch.setattr(mending, "BUSY", 0)
    monkeypatch.setattr(mending, "BUSY_PAUSE_S", 3.0)
    monkeypatch.setattr(mending, "KEYS_AT_ONCE", 10)
    cluster = await form()
    records = {}
    for key in MANY_KEYS[:50]:
        records[key] = new_record(cluster)
        await plant(cluster, key, records[key], [0, 2])
    began_s = asyncio.get_running_loop().time()
    await until(partial(all_hold, cluster, records), 60)
    assert asyncio.get_running_loop().time() - began_s > 4 * 3.0


async def test_large_values_move_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "WAVE_BYTES", 64 * 100)
    cluster = await form()
    records = {}
    for key in MANY_KEYS[:200]:
        records[key] = new_record(cluster, bytes(3_000))
        await plant(cluster, key, records[key], [1, 2])
    under_way = most = 0
    handle: Callable[..., None] = cluster.nodes[0].on_request

    def counting(request: Request, age_ms: int, respond: Callable[[int, Reply], None], token: int) -> None:
        nonlocal under_way, most

        def respond_counted(token: int, reply: Reply) -> None:
            nonlocal under_way
            under_way -= 1
            respond(token, reply)

        is_accept = isinstance(request, Accept)
        under_way += is_accept
        most = max(most, under_way)
        handle(request, age_ms, respond_counted if is_accept else respond, token)

    cluster.nodes[0].on_request = counting  # type: ignore[method-assign]
    await until(partial(all_hold, cluster, records), 60)
    assert 1 <= most <= 2 * 2, "two at a time from each of the two others"


# -- deleted for good ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [0, 1, 2])
async def test_what_a_floor_covers_is_not_sent_and_the_lower_floor_rises(behind: int) -> None:
    """The replica behind missed the purge: its tombstone must not come back to the others, as it did for ever."""
    cluster = await form()
    await cluster.put(0, b"key", b"old", needed=3)
    tombstone = new_record(cluster, None)
    await plant(cluster, b"key", tombstone, [0, 1, 2])
    partition = cluster.nodes[0].trees.partition_of(b"key")
    await asyncio.sleep(0.1)
    said = watch(cluster)
    cluster.nodes[behind].replica.gates.seal(partition, tombstone.ballot)  # it had confirmed, as all had
    for slot in {0, 1, 2} - {behind}:
        gone, ticket = await cluster.nodes[slot].replica.purge(
            partition, tombstone.ballot, unix_ms_of(tombstone.ballot)
        )
        await cluster.nodes[slot].commits.wait(ticket)
        assert gone == 1
    await until(lambda: held(cluster, b"key") == [None, None, None], 20)
    assert all(node.marks.floors.get(partition) == tombstone.ballot for node in cluster.nodes)
    await asyncio.sleep(ROUNDS_S)
    assert held(cluster, b"key") == [None, None, None]
    assert kinds(said, Accept, Prepare, Forward) == {}
    assert len({node.trees.root(partition) for node in cluster.nodes}) == 1


@pytest.mark.parametrize("behind", [0, 1, 2])
async def test_a_tombstone_that_can_t_go_yet_does_not_rise_from_the_dead(behind: int) -> None:
    """The others refuse it for their floor; a round to clear that would have given it a new ballot everywhere."""
    cluster = await form()
    tombstone = new_record(cluster, None)
    await plant(cluster, b"key", tombstone, [0, 1, 2])
    await cluster.ask(behind, Prepare(b"key", new_record(cluster).ballot))
    partition = cluster.nodes[0].trees.partition_of(b"key")
    for slot in {0, 1, 2} - {behind}:
        await cluster.nodes[slot].replica.purge(partition, tombstone.ballot, unix_ms_of(tombstone.ballot))
    said = watch(cluster)
    await asyncio.sleep(3 * ROUNDS_S)
    assert held(cluster, b"key").count(None) == 2
    assert kinds(said, CompareEntries), "it was seen"
    assert kinds(said, Accept, Prepare, Forward) == {}
    assert all(node.marks.floors.get(partition) == tombstone.ballot for node in cluster.nodes)
    assert cluster.nodes[behind].anti_entropy.ledger.standing() == (8, 0, 0), "there is nothing to be done about it"


# -- by hand -------------------------------------------------------------------------------------------------------


async def test_a_partition_is_repaired_when_asked() -> None:
    cluster = await form_cluster()
    keys = [key for key in MANY_KEYS if cluster.nodes[0].trees.partition_of(key) == 3][:12]
    asked = cluster.topology.replica_slots[3][0]
    other, third = (slot for slot in range(3) if slot != asked)
    records = {key: new_record(cluster) for key in keys}
    for number, key in enumerate(keys):
        await plant(cluster, key, records[key], [asked] if number < 4 else [other] if number < 9 else [other, third])
    report = await cluster.nodes[2].repair(3, 60)
    assert isinstance(report, PartitionRepaired)
    assert all_hold(cluster, records)
    assert (report.differed, report.fetched, report.left, report.unreachable) == (12, 8, 0, [])
    assert report.sent == 4 * 2 + 5
    assert report.bytes_moved > 12 * 50
    again = await cluster.nodes[1].repair(3, 60)
    assert isinstance(again, PartitionRepaired)
    assert (again.differed, again.fetched, again.sent, again.left) == (0, 0, 0, 0)
    assert again.bytes_moved < 100


async def test_a_repair_says_whom_it_could_not_ask_and_what_is_left() -> None:
    cluster = await form_cluster()
    record = new_record(cluster)
    partition = cluster.nodes[0].trees.partition_of(b"key")
    await plant(cluster, b"key", record, [cluster.topology.replica_slots[partition][0]])
    away = cluster.topology.replica_slots[partition][2]
    cluster.network.cut_off(away)
    report = await cluster.nodes[cluster.topology.replica_slots[partition][1]].repair(partition, 60)
    assert isinstance(report, PartitionRepaired)
    assert (report.sent, report.left, report.unreachable) == (1, 0, [away])
    cluster.network.heal()
    cluster.network.treat(Fate.UNSENT, Accept, target=away)
    report = await cluster.nodes[0].repair(partition, 60)
    assert isinstance(report, PartitionRepaired)
    assert (report.differed, report.sent, report.left, report.unreachable) == (1, 0, 1, [])


async def test_a_repair_ends_with_its_budget() -> None:
    cluster = await form_cluster()
    partition = cluster.nodes[0].trees.partition_of(b"key")
    asked = cluster.topology.replica_slots[partition][0]
    await plant(cluster, b"key", new_record(cluster), [asked])
    began_s = asyncio.get_running_loop().time()
    report = await answer_of(cluster.nodes[asked], RepairPartition(partition, 500))
    assert asyncio.get_running_loop().time() - began_s < 0.6
    assert isinstance(report, PartitionRepaired)
    assert (report.differed, report.sent, report.left) == (1, 0, 1)
    assert isinstance(await answer_of(cluster.nodes[asked], RepairPartition(partition, 60_000)), PartitionRepaired)
    assert are_equal(cluster), "nothing of the first is in the way"


async def test_a_repair_says_why_there_is_none() -> None:
    cluster = await form_cluster(4)
    without = next(number for number, slots in enumerate(cluster.topology.replica_slots) if 3 not in slots)
    refused = await answer_of(cluster.nodes[3], RepairPartition(without, 1000))
    assert isinstance(refused, Unfit)
    assert "holds no replica" in refused.reason
    first = cluster.topology.replica_slots[without][0]
    cluster.network.treat(Fate.LOST, RepairPartition, target=first)
    assert "was lost" in str(await cluster.nodes[3].repair(without, 5))
    cluster.network.treat(Fate.SILENT, RepairPartition, target=first)
    assert "in time" in str(await cluster.nodes[3].repair(without, 5))
    for slot in cluster.topology.replica_slots[without]:
        cluster.network.cut_off(slot)
    assert "no replica" in str(await cluster.nodes[3].repair(without, 5))


async def test_a_repair_by_hand_and_the_loop_don_t_do_the_same_twice() -> None:
    cluster = await form()
    keys = [key for key in MANY_KEYS if cluster.nodes[0].trees.partition_of(key) == 3][:20]
    await asyncio.sleep(2 * INTERVAL_S)
    records = {key: new_record(cluster) for key in keys}
    for key in keys:
        await plant(cluster, key, records[key], [0, 1])
    said = watch(cluster)
    await answer_of(cluster.nodes[0], RepairPartition(3, 60_000))
    sent = Counter(request.key for source, _, request in said if isinstance(request, Accept) and source == 0)
    assert sent == Counter(keys)


async def test_with_one_peer_there_is_one_comparison_at_a_time() -> None:
    """The one by hand waits for an answer here, and the loop for the one by hand."""
    cluster = await form()
    await plant(cluster, b"key", new_record(cluster), [0, 1])
    partition = cluster.nodes[0].trees.partition_of(b"key")
    cluster.network.treat(Fate.SILENT, CompareLeaves)
    repair = asyncio.create_task(answer_of(cluster.nodes[0], RepairPartition(partition, 8_000)))
    await asyncio.sleep(0.1)
    said = watch(cluster)
    await asyncio.sleep(5 * INTERVAL_S)
    assert kinds((one for one in said if one[:2] == (0, 2)), CompareRoots) == {}
    assert kinds((one for one in said if one[:2] == (1, 2)), CompareRoots) != {}, "others are not held up"
    cluster.network.heal()
    assert isinstance(await repair, PartitionRepaired)
    await until(lambda: are_equal(cluster), 20)


# -- the answering side --------------------------------------------------------------------------------------------


async def test_no_reply_shows_what_is_not_on_disk() -> None:
    cluster = await form_cluster()
    node = cluster.nodes[1]
    leaf, partition = node.trees.leaf_of(b"key"), node.trees.partition_of(b"key")
    empty = pack([0] * LEAVES)
    node.disk.clear()
    asyncio.get_running_loop().create_task(cluster.ask(1, Accept(b"key", new_record(cluster), NONE))).add_done_callback(
        lambda _: None
    )
    await asyncio.sleep(0.1)
    asked = [CompareRoots(0, [(partition, 0)], []), CompareLeaves(partition, empty), CompareEntries(leaf, 1, b"")]
    replies = [asyncio.ensure_future(answer_of(node, request)) for request in asked]
    await asyncio.sleep(1)
    assert not any(reply.done() for reply in replies)
    node.disk.set()
    roots, leaves, entries = await asyncio.gather(*replies)
    assert isinstance(roots, RootsCompared)
    assert isinstance(leaves, LeavesCompared)
    assert isinstance(entries, EntriesCompared)
    assert (roots.differing, leaves.leaves, [row.key for row in entries.rows]) == ([partition], [leaf], [b"key"])


async def test_a_reply_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "ROWS_MAX", 3)
    cluster = await form_cluster(partitions=1)
    by_leaf: dict[int, list[bytes]] = {}
    for key in MANY_KEYS:
        by_leaf.setdefault(cluster.nodes[0].trees.leaf_of(key), []).append(key)
    leaf, keys = max(by_leaf.items(), key=lambda one: len(one[1]))
    assert len(keys) > 3
    for key in keys:
        await plant(cluster, key, new_record(cluster), [0])
    answer = await answer_of(cluster.nodes[0], CompareEntries(leaf, 1, pack([7])))
    assert isinstance(answer, EntriesCompared)
    assert (len(answer.rows), answer.missing) == (3, pack([7]))


@pytest.mark.parametrize(
    "request_",
    [
        CompareRoots(0, [(8, 1)], []),
        CompareRoots(0, [(-1, 1)], []),
        CompareLeaves(8, pack([0] * LEAVES)),
        CompareLeaves(0, pack([0] * (LEAVES - 1))),
        CompareLeaves(0, b"1234567"),
        CompareEntries(0, 0, b""),
        CompareEntries(0, 1, b"1234567"),
        CompareEntries(0, 17, b""),
        CompareEntries(LEAVES - 1, 2, b""),
        CompareEntries(-1, 1, b""),
        CompareEntries(8 * LEAVES, 1, b""),
        RepairPartition(8, 1000),
        RepairPartition(-1, 1000),
    ],
    ids=str,
)
async def test_what_no_replica_would_ask_is_refused(request_: Request) -> None:
    cluster = await form_cluster()
    assert isinstance(await answer_of(cluster.nodes[0], request_), Unfit)


async def test_a_leaf_whose_sum_is_wrong_is_summed_up_anew() -> None:
    """It would be compared for ever and nothing be found in it, and it would hide what does differ."""
    cluster = await form()
    await cluster.put(0, b"key", b"value", needed=3)
    leaf = cluster.nodes[0].trees.leaf_of(b"key")
    right = cluster.nodes[0].trees.sum_of(leaf)
    for slot in (0, 2):
        cluster.nodes[slot].trees.set_sum(leaf, 12345 + slot)
    await until(lambda: all(node.trees.sum_of(leaf) == right for node in cluster.nodes), 20)
    await asyncio.sleep(0.1)
    assert all(node.engine.folder.leaves[leaf] == right for node in cluster.nodes)


# -- what is told --------------------------------------------------------------------------------------------------


async def test_the_ledger_says_how_partitions_stand() -> None:
    cluster = await form()
    first, last = cluster.nodes[0].anti_entropy.ledger, cluster.nodes[2].anti_entropy.ledger
    cluster.network.treat(Fate.UNSENT, *COMPARING)
    assert (first.standing(), first.last_round_s) == ((0, 0, 8), None)
    cluster.network.heal()
    await asyncio.sleep(ROUNDS_S)
    now_s = asyncio.get_running_loop().time()
    for ledger in (first, last):  # the one only asks, the other is only asked
        assert ledger.standing() == (8, 0, 0)
        assert ledger.last_round_s is not None
        assert 0 <= now_s - ledger.last_round_s < 2 * INTERVAL_S
    cluster.network.treat(Fate.UNSENT, Accept, target=2)
    await plant(cluster, b"key", new_record(cluster), [0])
    await asyncio.sleep(ROUNDS_S + 3 * mending.SECOND_LOOK_S)
    for ledger in (first, last):
        assert ledger.standing() == (7, 1, 0)
    cluster.network.cut_off(2)
    await asyncio.sleep(2 * ROUNDS_S)
    assert first.last_round_s is not None
    assert asyncio.get_running_loop().time() - first.last_round_s > ROUNDS_S, "it did not reach all peers since"
    cluster.network.heal()
    await until(lambda: first.standing() == last.standing() == (8, 0, 0), 60)
    assert first.totals.keys_sent >= 1
    assert first.totals.messages > 10
    assert first.totals.comparing_bytes > 1_000
    assert first.totals.record_bytes > 100


async def test_a_peer_with_which_nothing_can_be_done_is_asked_less_and_less() -> None:
    cluster = await form()
    cluster.network.treat(Fate.UNSENT, Accept, target=2)
    cluster.network.treat(Fate.UNSENT, *COMPARING, source=2)
    await plant(cluster, b"key", new_record(cluster), [0, 1])
    await asyncio.sleep(ROUNDS_S)
    said = watch(cluster)
    await asyncio.sleep(100 * INTERVAL_S)
    assert 3 <= kinds((one for one in said if one[:2] == (0, 2)), CompareRoots)["CompareRoots"] <= 20
    cluster.network.heal()
    await until(lambda: are_equal(cluster), (loop.IDLE_TURNS_MAX + 3) * INTERVAL_S * 1.5)
