"""Fenced writes through whole nodes: who is refused, what fences outlive, and how replicas come to agree on them."""

from __future__ import annotations

import asyncio
from collections import Counter
from copy import deepcopy

import pytest

from cluster.coordination.granted_fences import GrantedFences
from cluster.coordination.reading.listing import BEHIND_INTERNAL
from cluster.levels import Level
from cluster.locks.lock_state import LockState, encode, lock_key
from cluster.locks.outcomes import LockGranted
from cluster.membership.fitness import Bar
from cluster.protocol.messages import Accept, Prepare, Read
from cluster.repair.floors.loop import PASS_S, PURGE_AFTER_S
from cluster.repair.hash_trees import digest
from cluster.requests import (
    FENCES_MAX,
    BadFence,
    Condition,
    ConditionKind,
    Conflict,
    Fence,
    Found,
    Listed,
    ListRequest,
    ReadOutcome,
    ReadRequest,
    Unavailable,
    WriteOutcome,
    WriteRequest,
    Written,
)
from storage.ballot import NONE
from storage.engine import Rot
from storage.fences import digest_of
from storage.record import Record
from tests.coordination.lockers import Locker
from tests.coordination.three_nodes import Cluster, Fate, Node, form_cluster, until

INTERVAL_S = 1.0
LONG_AFTER_S = PURGE_AFTER_S + 4 * PASS_S
KEY = b"key"
MINE = Fence("lock", 7)
STALE = Fence("lock", 6)


async def form(*, anti_entropy: bool = False, highest: int = 9) -> Cluster:
    """Three nodes, and a lock that has granted the fences up to that one."""
    cluster = await form_cluster(anti_entropy_interval_s=INTERVAL_S) if anti_entropy else await form_cluster()
    await grant(cluster, "lock", highest)
    return cluster


async def grant(cluster: Cluster, lock: str, highest: int) -> None:
    state = LockState(highest, recent=tuple(range(1, highest + 1)))
    assert isinstance(await cluster.put(0, lock_key(lock), encode(state), needed=3), Written)


def held(cluster: Cluster, key: bytes = KEY) -> list[Record | None]:
    states = [node.engine.folder.states.get(key) for node in cluster.nodes]
    return [state.record if state is not None else None for state in states]


def fences(cluster: Cluster, key: bytes = KEY) -> list[dict[str, int] | None]:
    return [record.fences if record is not None else None for record in held(cluster, key)]


def assert_trees_are_right(cluster: Cluster) -> None:
    """What is on disk of the hash trees, and in memory, is the sum of the rows."""
    for node in cluster.nodes:
        sums = Counter[int]()
        for key, state in node.engine.folder.states.items():
            if (record := state.record) is not None:
                sums[node.trees.leaf_of(key)] += digest(key, record.ballot, digest_of(record.fences))
        expected = {leaf: total & (1 << 64) - 1 for leaf, total in sums.items()}
        assert {leaf: total for leaf, total in node.engine.folder.leaves.items() if total} == expected
        assert all(node.trees.sum_of(leaf) == total for leaf, total in expected.items())


def is_refused(outcome: WriteOutcome) -> bool:
    return isinstance(outcome, Conflict) and outcome.fence == MINE.number


# -- who is refused ------------------------------------------------------------------------------------------------


async def test_a_lower_fence_is_refused_through_every_node_and_says_what_was_seen() -> None:
    cluster = await form()
    written = await cluster.put(0, KEY, b"mine", fence=MINE, needed=3)
    assert isinstance(written, Written)
    for at in range(3):
        refused = await cluster.put(at, KEY, b"late", fence=STALE)
        assert isinstance(refused, Conflict)
        assert (refused.fence, refused.version) == (7, written.version)
    read = await cluster.get(1, KEY)
    assert isinstance(read, Found)
    assert read.record is not None
    assert read.record.value == b"mine"
    assert isinstance(await cluster.put(1, KEY, b"mine again", fence=MINE), Written)
    assert isinstance(await cluster.put(2, KEY, b"another's", fence=Fence("lock", 9)), Written)
    assert isinstance(await cluster.put(0, KEY, b"nobody's"), Written), "a fence is checked where one is sent"
    assert await settled_fences(cluster) == {"lock": 9}


async def settled_fences(cluster: Cluster) -> dict[str, int] | None:
    await asyncio.sleep(0.1)
    found = fences(cluster)
    assert found[0] == found[1] == found[2]
    return found[0]


async def test_the_fence_is_told_before_the_condition() -> None:
    cluster = await form()
    await cluster.put(0, KEY, b"mine", fence=MINE)
    create = Condition(ConditionKind.IF_ABSENT)
    assert is_refused(await cluster.put(1, KEY, b"late", fence=STALE, condition=create))
    failed = await cluster.put(1, KEY, b"late", fence=MINE, condition=create)
    assert isinstance(failed, Conflict)
    assert failed.fence is None
    assert failed.version is not None


WROTE_OVER: dict[str, tuple[bytes | None, Level]] = {
    "a strong write": (b"other", Level.STRONG),
    "a strong deletion": (None, Level.STRONG),
    "a weak write": (b"other", Level.WEAK),
    "a weak deletion": (None, Level.WEAK),
    "an eventual write": (b"other", Level.EVENTUAL),
}


@pytest.mark.parametrize("what", WROTE_OVER)
@pytest.mark.parametrize("away", [None, 0, 1, 2])
async def test_whatever_is_written_over_it_the_fence_stays(what: str, away: int | None) -> None:
    """Even if the replica that was away when the fenced write came is the one that has the newest record."""
    value, level = WROTE_OVER[what]
    cluster = await form()
    if away is not None:
        cluster.network.cut_off(away)
    at = next(slot for slot in range(3) if slot != away)
    assert isinstance(await cluster.put(at, KEY, b"mine", fence=MINE), Written)
    if away is not None:
        cluster.network.rejoin(away)
    for writer in (away or 0, at):
        outcome = await cluster.put(writer, KEY, value, level=level)
        assert isinstance(outcome, Written)
        for slot in range(3):
            assert is_refused(await cluster.put(slot, KEY, b"late", fence=STALE)), (writer, slot)


async def test_a_fence_outlives_a_restart_of_all() -> None:
    cluster = await form()
    await cluster.put(0, KEY, b"mine", fence=MINE)
    await cluster.put(0, KEY, None)
    await cluster.restart_all()
    assert is_refused(await cluster.put(2, KEY, b"late", fence=STALE))


async def test_a_fence_outlives_an_expired_value() -> None:
    cluster = await form()
    await cluster.put(0, KEY, b"mine", fence=MINE, ttl_ms=500)
    await asyncio.sleep(1)
    assert is_refused(await cluster.put(2, KEY, b"late", fence=STALE))
    read = await cluster.get(1, KEY)
    assert isinstance(read, Found)
    assert read.record is not None
    assert (read.record.value, read.record.fences) == (None, {"lock": 7})


async def test_a_fenced_deletion_is_not_purged_and_keeps_no_floor_busy() -> None:
    cluster = await form(anti_entropy=True)
    await cluster.put(0, KEY, b"mine", fence=MINE, needed=3)
    await cluster.put(0, KEY, None, needed=3)
    neighbour = next(
        b"n%d" % number
        for number in range(1000)
        if cluster.nodes[0].trees.partition_of(b"n%d" % number) == cluster.nodes[0].trees.partition_of(KEY)
    )
    await cluster.put(0, neighbour, b"x", needed=3)
    await cluster.put(0, neighbour, None, needed=3)
    await asyncio.sleep(LONG_AFTER_S)
    assert held(cluster, neighbour) == [None] * 3
    assert all(record is not None and record.fences == {"lock": 7} for record in held(cluster))
    assert is_refused(await cluster.put(2, KEY, b"late", fence=STALE))
    await until(lambda: not any(node.floors.held_back_by for node in cluster.nodes))
    partition = cluster.nodes[0].trees.partition_of(KEY)
    floors = [node.marks.floors[partition] for node in cluster.nodes]
    for _ in range(3):  # nothing there to purge: the floor stays where it is, but for the rare look at the others
        await cluster.nodes[0].floors.pass_over()
        places = cluster.nodes[0].trees.places_of(partition)
        assert await cluster.nodes[0].engine.purgeable(*places, floors[0], 0) == []
    assert_trees_are_right(cluster)


async def test_a_key_takes_so_many_locks_and_no_more() -> None:
    cluster = await form()
    for number in range(FENCES_MAX + 1):
        await grant(cluster, f"lock{number}", 5)
    for number in range(FENCES_MAX):
        assert isinstance(await cluster.put(number % 3, KEY, b"x", fence=Fence(f"lock{number}", 5)), Written)
    one_more = await cluster.put(0, KEY, b"too much", fence=Fence(f"lock{FENCES_MAX}", 5))
    assert isinstance(one_more, Conflict)
    assert (one_more.is_full, one_more.fence) == (True, None)
    assert isinstance(await cluster.put(0, KEY, b"known", fence=Fence("lock3", 5)), Written)
    assert cluster.values_on_disk(KEY)[0] == b"known"


# -- a fence that was never granted --------------------------------------------------------------------------------


async def test_a_fence_that_the_lock_never_granted_is_refused_before_anything_is_sent() -> None:
    cluster = await form(highest=9)
    for at in range(3):
        assert await cluster.put(at, KEY, b"typo", fence=Fence("lock", 10)) == BadFence(9)
        assert await cluster.put(at, KEY, b"typo", fence=Fence("no such lock", 1)) == BadFence(0)
    assert held(cluster) == [None] * 3
    assert isinstance(await cluster.put(1, KEY, b"mine", fence=Fence("lock", 9)), Written)


async def test_what_was_granted_once_needs_no_second_look() -> None:
    cluster = await form()
    assert isinstance(await cluster.put(0, KEY, b"mine", fence=MINE), Written)
    looks: list[int] = []
    cluster.network.treat(Fate.DELIVERED, Read, then=lambda: looks.append(1))
    for key in (KEY, b"other key"):
        assert isinstance(await cluster.put(0, key, b"x", fence=MINE), Written)
    assert not looks
    await grant(cluster, "lock", 12)
    assert isinstance(await cluster.put(0, KEY, b"x", fence=Fence("lock", 12)), Written)
    assert looks


async def test_a_lock_that_can_not_be_asked_leaves_the_write_not_applied() -> None:
    cluster = await form()
    cluster.network.treat(Fate.SILENT, Read)
    outcome = await cluster.put(0, KEY, b"mine", fence=MINE, timeout_s=1.0)
    assert isinstance(outcome, Unavailable)
    assert "register" in outcome.reason
    cluster.network.heal()
    for slot in (1, 2):
        cluster.network.cut_off(slot)
    assert isinstance(await cluster.put(0, KEY, b"mine", fence=MINE, timeout_s=1.0), Unavailable)
    await asyncio.sleep(2)
    assert held(cluster) == [None] * 3


async def test_so_many_fences_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.coordination.granted_fences.REMEMBERED_MAX", 2)
    asked: list[bytes] = []

    async def read(request: ReadRequest) -> ReadOutcome:
        asked.append(request.key)
        record = Record(1, 1, False, encode(LockState(5, recent=(5,))))
        return Found(record, 2, ("n0", "n1"))

    granted = GrantedFences(read, lambda: 2)
    for lock in ("a", "b", "a", "c", "a", "b"):
        assert await granted.refusal(Fence(lock, 5), 1.0) is None
    assert asked == [lock_key(lock) for lock in ("a", "b", "c", "b")]


async def test_a_number_between_two_grants_is_no_fence() -> None:
    cluster = await form_cluster()
    state = LockState(9, recent=(3, 7, 9))
    await cluster.put(0, lock_key("lock"), encode(state), needed=3)
    for number in (1, 4, 8, 10):
        assert await cluster.put(0, KEY, b"typo", fence=Fence("lock", number)) == BadFence(9)
    for number in (3, 7, 9):
        assert isinstance(await cluster.put(0, KEY, b"x", fence=Fence("lock", number)), Written)


# -- replicas come to agree on fences ------------------------------------------------------------------------------


async def plant(cluster: Cluster, record: Record, slots: list[int]) -> None:
    for slot in slots:
        await cluster.ask(slot, Accept(KEY, record, NONE))


async def unequal(cluster: Cluster, *, weak: bool = True, value: bytes | None = b"new") -> None:
    """One ballot everywhere; n0 bears one lock's fence, n1 another's, n2 both of lower numbers."""
    tick = cluster.nodes[0].ballots.tick
    for slot, known in enumerate(({"lock": 7}, {"other": 3}, {"lock": 5, "other": 1})):
        await plant(cluster, Record(ballot := tick(), ballot, False, b"old", fences=known), [slot])
    await plant(cluster, Record(ballot := tick(), ballot, weak, value), [0, 1, 2])
    assert fences(cluster) == [{"lock": 7}, {"other": 3}, {"lock": 5, "other": 1}]
    assert len({record.ballot for record in held(cluster) if record is not None}) == 1
    assert_trees_are_right(cluster)


def roots(cluster: Cluster) -> set[int]:
    partition = cluster.nodes[0].trees.partition_of(KEY)
    return {node.trees.root(partition) for node in cluster.nodes}


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("value", [b"new", None])
async def test_anti_entropy_joins_fences_of_one_ballot(weak: bool, value: bytes | None) -> None:
    cluster = await form_cluster(anti_entropy_interval_s=INTERVAL_S)
    await unequal(cluster, weak=weak, value=value)
    assert len(roots(cluster)) == 3
    ballot = held(cluster)[0].ballot  # type: ignore[union-attr]
    await until(lambda: len(roots(cluster)) == 1, 30)
    assert fences(cluster) == [{"lock": 7, "other": 3}] * 3
    assert {(record.ballot, record.weak, record.value) for record in held(cluster) if record} == {(ballot, weak, value)}
    assert_trees_are_right(cluster)
    moved = [node.anti_entropy.ledger.totals.keys_differed for node in cluster.nodes]
    await asyncio.sleep(5 * INTERVAL_S)
    assert [node.anti_entropy.ledger.totals.keys_differed for node in cluster.nodes] == moved


async def test_anti_entropy_joins_fences_past_a_promise() -> None:
    """They come under a ballot that is there already, and no promise stands in their way."""
    cluster = await form_cluster(anti_entropy_interval_s=INTERVAL_S)
    await unequal(cluster)
    for slot in range(3):
        await cluster.ask(slot, Prepare(KEY, cluster.nodes[slot].ballots.tick()))
    await until(lambda: len(roots(cluster)) == 1, 30)
    assert fences(cluster) == [{"lock": 7, "other": 3}] * 3


async def test_a_newer_record_is_given_the_fences_of_the_older_one_and_gives_its_own() -> None:
    cluster = await form_cluster(anti_entropy_interval_s=INTERVAL_S)
    tick = cluster.nodes[0].ballots.tick
    await plant(cluster, Record(ballot := tick(), ballot, False, b"old", fences={"lock": 7}), [0, 1])
    await plant(cluster, Record(ballot := tick(), ballot, False, b"new", fences={"other": 3}), [2])
    await until(lambda: len(roots(cluster)) == 1, 30)
    assert cluster.values_on_disk(KEY) == [b"new"] * 3
    assert fences(cluster) == [{"lock": 7, "other": 3}] * 3


async def test_a_fenced_tombstone_that_somebody_lacks_is_sent_though_a_floor_covers_it() -> None:
    cluster = await form_cluster(anti_entropy_interval_s=INTERVAL_S)
    ballot = cluster.nodes[0].ballots.tick()
    await plant(cluster, Record(ballot, ballot, False, None, fences={"lock": 7}), [0, 1])
    floor = cluster.nodes[0].ballots.tick()
    for node in cluster.nodes:
        node.replica.raise_floor(node.trees.partition_of(KEY), floor)
    await until(lambda: fences(cluster) == [{"lock": 7}] * 3, 60)
    await until(lambda: len(roots(cluster)) == 1, 30)


# -- recovery ------------------------------------------------------------------------------------------------------


async def recovered(node: Node) -> None:
    await until(lambda: not node.fitness.bars & (Bar.UNVERIFIED | Bar.RECOVERING))


async def missed_by(cluster: Cluster, slot: int) -> None:
    """A fenced write that this replica missed, and then a weak one that all of them have."""
    cluster.network.cut_off(slot)
    at = (slot + 1) % 3
    assert isinstance(await cluster.put(at, KEY, b"mine", fence=MINE), Written)
    cluster.network.rejoin(slot)
    highest = max(node.ballots.highest for node in cluster.nodes)
    ballot = cluster.nodes[at].ballots.tick(highest)
    await plant(cluster, Record(ballot, ballot, True, b"weak"), [0, 1, 2])
    assert [known is None for known in fences(cluster)] == [number == slot for number in range(3)]
    assert isinstance(await cluster.put(at, b"another key", b"heard by all", needed=3), Written)


@pytest.mark.parametrize("missed", [0, 1, 2])
@pytest.mark.parametrize("forgets", [0, 1, 2])
@pytest.mark.parametrize("is_older", [False, True])
async def test_recovery_loses_no_fence(missed: int, forgets: int, is_older: bool) -> None:
    """The two that have not forgotten hold one ballot, and only one of them may bear the fence."""
    cluster = await form()
    folder = None
    if is_older:
        folder = deepcopy(cluster.nodes[forgets].engine.folder)
        folder.in_use = False
    await missed_by(cluster, missed)
    await cluster.end(forgets)
    node = await cluster.begin(forgets, folder)
    await until(lambda: node.fitness.bars & Bar.RECOVERING)
    await recovered(node)
    if missed != forgets:
        other = 3 - missed - forgets
        await cluster.end(other)  # the last one that was told of it first-hand
    assert is_refused(await cluster.put(forgets, KEY, b"late", fence=STALE))
    assert fences(cluster)[forgets] == {"lock": 7}


async def test_an_older_folder_keeps_the_fences_that_only_it_was_told_of() -> None:
    cluster = await form(anti_entropy=True)
    await cluster.put(0, KEY, b"old", needed=3)
    record = held(cluster)[0]
    assert record is not None
    await plant(cluster, record.bearing({"lock": 7}), [2])
    folder = deepcopy(cluster.nodes[2].engine.folder)
    folder.in_use = False
    await cluster.put(0, b"another key", b"x", needed=3)
    await cluster.end(2)
    await recovered(await cluster.begin(2, folder))
    await until(lambda: fences(cluster) == [{"lock": 7}] * 3, 30)
    assert_trees_are_right(cluster)


@pytest.mark.parametrize("damaged", [0, 1, 2])
async def test_a_damaged_record_comes_back_with_all_fences(damaged: int) -> None:
    cluster = await form_cluster()
    await unequal(cluster)
    node = cluster.nodes[damaged]
    row = node.engine.folder.number_of(KEY)
    node.engine.damage(KEY, "its checksum is wrong")
    await node.recollection.quarantine.found([Rot(row, KEY, "its checksum is wrong")])
    await until(lambda: KEY not in node.replica.damaged and KEY in node.engine.folder.states)
    of_the_others = ({"lock": 5, "other": 3}, {"lock": 7, "other": 1}, {"lock": 7, "other": 3})
    assert fences(cluster)[damaged] == of_the_others[damaged]
    await asyncio.sleep(1)  # its leaf is summed up anew
    assert_trees_are_right(cluster)


# -- leaves --------------------------------------------------------------------------------------------------------


async def test_leaves_that_are_summed_up_anew_have_the_fences_in_them() -> None:
    cluster = await form_cluster()
    await unequal(cluster)
    node = cluster.nodes[0]
    leaf = node.trees.leaf_of(KEY)
    node.trees.set_sum(leaf, 4711)
    await node.replica.rebuild_leaf(leaf)
    assert_trees_are_right(cluster)
    sums = {leaf: total for leaf, total in node.engine.folder.leaves.items() if total}
    assert await node.trees.rebuild(node.engine) == sums


# -- what applications don't see -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", list(Level))
async def test_listings_begin_behind_what_is_the_stores_own(level: Level) -> None:
    cluster = await form()
    await grant(cluster, "\U0010ffff", 3)
    assert lock_key("\U0010ffff") < BEHIND_INTERNAL < b"\x01"
    for key in (b"\x01", KEY, b"\xf4\x8f"):
        await cluster.put(0, key, b"x", needed=3)
    for at in range(3):
        page = await cluster.page(at, b"", level=level)
        assert isinstance(page, Listed)
        assert [entry.key for entry in page.entries] == [b"\x01", KEY, b"\xf4\x8f"]
        own = await cluster.page(at, b"\0lock/", level=level)
        assert isinstance(own, Listed)
        assert [entry.key for entry in own.entries] == [lock_key("lock"), lock_key("\U0010ffff")]


async def test_the_stores_own_keys_are_listed_in_pages() -> None:
    cluster = await form_cluster()
    names = [f"name{number:03}" for number in range(25)]
    for name in names:
        await grant(cluster, name, 1)
    found: list[bytes] = []
    after: bytes | None = None
    while True:
        request = ListRequest(b"\0lock/", after, 10, True, Level.STRONG, 2, 5.0)
        page = await cluster.nodes[1].page(request)
        assert isinstance(page, Listed)
        found += [entry.key for entry in page.entries]
        after = page.next_after
        if after is None:
            break
    assert found == [lock_key(name) for name in names]


async def test_a_number_that_is_too_low_for_the_key_is_fenced_whoever_made_it_up() -> None:
    cluster = await form_cluster()
    granted = await Locker(cluster, "holder").acquire(0, "lock")
    assert isinstance(granted, LockGranted)
    majority = cluster.topology.majority

    def write(number: int) -> WriteRequest:
        return WriteRequest(b"key", b"v", "", Level.STRONG, majority, 5.0, fence=Fence("lock", number))

    assert isinstance(await cluster.nodes[1].write(write(granted.fence - 1)), BadFence)  # the key has seen none yet
    written = await cluster.nodes[1].write(write(granted.fence))
    assert isinstance(written, Written)
    for slot in range(3):
        refused = await cluster.nodes[slot].write(write(granted.fence - 1))
        assert isinstance(refused, Conflict)
        assert (refused.fence, refused.version) == (granted.fence, written.version)
    assert isinstance(await cluster.nodes[1].write(write(granted.fence + 1)), BadFence)
