"""The replica: what it answers while records are loaded, and what it keeps in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from random import Random

import pytest

from cluster.ballot_clock import AHEAD_MS_MAX, BALLOT_MS_SHIFT
from cluster.protocol.messages import Accept, Accepted, Held, Prepare, Promised, Read, Reply, Unfit
from cluster.repair.hash_trees import digest
from cluster.replica.record_cache import ENTRY_OVERHEAD_BYTES, STRAYS_MAX, RecordCache
from storage.ballot import BALLOT_MAX, NONE
from storage.engine import Damaged
from storage.record import Record, ReplicaState
from tests.coordination.three_nodes import Cluster, form_cluster

KEY = b"key"


def _record(cluster: Cluster, slot: int, value: bytes, *, weak: bool = False) -> Record:
    ballot = cluster.nodes[slot].ballots.tick()
    return Record(ballot, ballot, weak, value)


async def test_one_failing_callback_leaves_no_other_key_unanswered() -> None:
    """Keys are loaded many at a time; when answering the first of them failed, the others were mute for ever."""
    cluster = await form_cluster()
    replica, answered = cluster.nodes[0].replica, list[int]()
    replica.handle(Read(b"a", value=True), _fail, 0)
    for token, key in enumerate((b"a", b"b", b"b"), start=1):
        replica.handle(Read(key, value=True), lambda token, _: answered.append(token), token)
    await asyncio.sleep(1)
    replica.handle(Read(b"b", value=True), lambda token, _: answered.append(token), 4)
    assert answered == [1, 2, 3, 4]


def _fail(*_: object) -> None:
    raise RuntimeError("this callback fails")


async def test_requests_of_a_key_are_answered_in_the_order_they_came() -> None:
    """Also those that waited for the key to be loaded."""
    cluster = await form_cluster()
    said: list[int] = []
    for number in range(20):
        cluster.nodes[0].replica.handle(Read(KEY, value=True), lambda token, _: said.append(token), number)
    await asyncio.sleep(1)
    assert said == list(range(20))


async def test_a_reply_waits_for_the_commit_of_what_it_shows() -> None:
    """A value in memory that is not on disk was never there if the power goes: a read waits for it too."""
    cluster = await form_cluster()
    node = cluster.nodes[0]
    await cluster.ask(0, Read(KEY, value=True))
    node.disk.clear()
    record = _record(cluster, 0, b"value")
    replies: list[Reply] = []
    for request in (Accept(KEY, record, NONE), Read(KEY, value=True)):
        node.replica.handle(request, lambda _, reply: replies.append(reply), 0)
    await asyncio.sleep(1)
    assert replies == []
    assert node.replica.peek_committed(KEY) is None
    node.disk.set()
    await asyncio.sleep(1)
    assert replies == [Accepted(False), Held(record, False)]


async def test_a_weak_record_that_is_pushed_out_is_kept_aside_before_the_answer() -> None:
    """What pushed it out may itself fail, and the weak write was acknowledged."""
    cluster = await form_cluster()
    weak, strong = _record(cluster, 0, b"weak", weak=True), _record(cluster, 0, b"strong")
    await cluster.ask(0, Accept(KEY, weak, NONE))
    assert await cluster.ask(0, Accept(KEY, strong, NONE)) == Accepted(False)
    assert cluster.nodes[0].engine.folder.kept_aside == {(KEY, weak.origin): weak}


async def test_what_is_restored_replaces_what_left_memory_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """With little memory a key went while others were read from disk, and was taken for one never heard of: a weak
    write that only this replica had acknowledged was gone, and its leaf's sum wrong."""
    cluster = await form_cluster()
    node = cluster.nodes[0]
    monkeypatch.setattr(node.replica, "_cache", RecordCache(1))
    weak, settled = _record(cluster, 0, b"weak", weak=True), _record(cluster, 1, b"settled")
    await cluster.ask(0, Accept(KEY, weak, NONE))
    assert node.replica.peek(KEY) is not None
    load = node.engine.load

    async def load_while_others_read(keys: Sequence[bytes]) -> dict[bytes, ReplicaState | Damaged]:
        if b"other" not in keys:
            await cluster.ask(0, Read(b"other", value=True))
            assert node.replica.peek(KEY) is None
        return await load(keys)

    monkeypatch.setattr(node.engine, "load", load_while_others_read)
    await node.commits.wait(await node.replica.restore({KEY: settled, b"missing": None}, settled.ballot))
    assert node.engine.folder.kept_aside == {(KEY, weak.origin): weak}
    leaf = node.trees.leaf_of(KEY)
    assert node.trees.sum_of(leaf) == node.engine.folder.leaves[leaf] == digest(KEY, settled.ballot)


@pytest.mark.parametrize("is_held_by_others", [False, True])
async def test_a_row_that_was_only_lost_is_not_thrown_away_with_what_is_restored(is_held_by_others: bool) -> None:
    """An index entry had rotted, the row behind it was sound: a weak write that only this replica had acknowledged."""
    cluster = await form_cluster()
    node = cluster.nodes[0]
    weak, newer = _record(cluster, 0, b"weak", weak=True), _record(cluster, 1, b"newer")
    settled = newer if is_held_by_others else None
    await cluster.ask(0, Accept(KEY, weak, NONE))
    node.replica.exclude(KEY, "its index entry has rotted")
    await node.commits.wait(await node.replica.restore({KEY: settled}, newer.ballot))
    assert node.engine.folder.states[KEY] == ReplicaState(newer.ballot, newer if is_held_by_others else weak)
    assert node.engine.folder.kept_aside == ({(KEY, weak.origin): weak} if is_held_by_others else {})
    assert KEY not in node.replica.damaged


async def test_what_was_read_before_a_key_was_restored_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long load was under way when the node began to recover; it put back what was there before, over the promise."""
    cluster = await form_cluster()
    node = cluster.nodes[0]
    settled, load, may_go_on = _record(cluster, 1, b"settled"), node.engine.load, asyncio.Event()

    async def load_for_long(keys: Sequence[bytes]) -> dict[bytes, ReplicaState | Damaged]:
        found = await load(keys)
        await may_go_on.wait()
        return found

    replies: list[Reply] = []
    with monkeypatch.context() as patch:
        patch.setattr(node.engine, "load", load_for_long)
        node.replica.handle(Read(KEY, value=True), lambda _, reply: replies.append(reply), 0)
        await asyncio.sleep(1)
    await node.commits.wait(await node.replica.restore({KEY: settled}, settled.ballot))
    may_go_on.set()
    await asyncio.sleep(1)
    assert replies == [Held(settled, False)]
    assert node.replica.peek(KEY) == ReplicaState(settled.ballot, settled)


@pytest.mark.parametrize("ahead", [BALLOT_MAX, AHEAD_MS_MAX << BALLOT_MS_SHIFT], ids=["the last ballot", "a year"])
async def test_a_ballot_from_far_ahead_changes_nothing(ahead: int) -> None:
    """One such ballot, promised and absorbed, used up the numbers: the node could write no more and died.

    Whoever sent it has a broken clock, or is no friend.
    """
    cluster = await form_cluster()
    ballot = min(BALLOT_MAX, cluster.nodes[0].ballots.tick() + ahead)
    record = Record(ballot, ballot, False, b"poison")
    small = _record(cluster, 0, b"small")
    for request in (Prepare(KEY, ballot), Accept(KEY, record, NONE), Accept(KEY, small, ballot)):
        assert isinstance(await cluster.ask(0, request), Unfit)
    own = cluster.nodes[0].ballots.tick()
    assert own < ballot
    assert await cluster.ask(0, Prepare(KEY, own)) == Promised(None)


async def test_a_damaged_record_takes_part_in_nothing() -> None:
    """Its promise may be gone with it; the key's other replicas go on."""
    cluster = await form_cluster()
    cluster.nodes[0].engine.damage(KEY, "the checksum does not match")
    for request in (Read(KEY, value=True), Prepare(KEY, cluster.nodes[1].ballots.tick())):
        assert isinstance(await cluster.ask(0, request), Unfit)
    assert type(await cluster.put(1, KEY, b"value")).__name__ == "Written"
    assert cluster.nodes[0].replica.peek(KEY) is None


# -- the cache -----------------------------------------------------------------------------------------------------


def _cached(cache: RecordCache, key: bytes, ticket: int, size: int = 0) -> None:
    cache.put(key, ReplicaState(1, Record(1, 1, False, bytes(size))), ticket)


def test_the_cache_never_drops_what_is_not_committed() -> None:
    """Loaded again from disk, the key would have forgotten a promise or a record that it may show any moment."""
    cache = RecordCache(3 * ENTRY_OVERHEAD_BYTES)
    for ticket in range(1, 11):
        _cached(cache, b"%d" % ticket, ticket)
        cache.shrink(committed=0)
    assert len(cache) == 10
    cache.shrink(committed=4)
    assert [cache.get(b"%d" % ticket) is not None for ticket in range(1, 11)] == [False] * 4 + [True] * 6
    cache.shrink(committed=10)
    assert cache.size_bytes <= 3 * ENTRY_OVERHEAD_BYTES


def test_the_cache_drops_what_was_not_used_first() -> None:
    """Reading counts as use, once: the hand that passes over it takes it the next time."""
    cache = RecordCache(3 * (ENTRY_OVERHEAD_BYTES + 1))
    for key in (b"a", b"b", b"c"):
        _cached(cache, key, 0)
    cache.get(b"a")
    _cached(cache, b"d", 0)
    cache.shrink(committed=0)
    assert {key for key, _ in cache.entries()} == {b"a", b"c", b"d"}
    for key in (b"e", b"f", b"g"):
        _cached(cache, key, 0)
        cache.shrink(committed=0)
    assert {key for key, _ in cache.entries()} == {b"e", b"f", b"g"}


def test_the_cache_forgets_a_key_that_was_removed_and_takes_it_again() -> None:
    """The hand's round still has it; whoever comes back is not dropped for that, nor counted twice."""
    cache = RecordCache(3 * (ENTRY_OVERHEAD_BYTES + 1))
    for key in (b"a", b"b"):
        _cached(cache, key, 0)
    cache.remove(b"a")
    for key in (b"a", b"c", b"d"):
        _cached(cache, key, 0)
        cache.shrink(committed=0)
        assert cache.size_bytes == (ENTRY_OVERHEAD_BYTES + 1) * len(cache) <= 3 * (ENTRY_OVERHEAD_BYTES + 1)
    assert len(cache) == 3


def test_a_key_that_is_written_all_the_time_keeps_no_other_in_memory() -> None:
    """Its commit is under way whenever the hand comes by."""
    cache = RecordCache(20 * (ENTRY_OVERHEAD_BYTES + 8))
    for ticket in range(1, 200):
        _cached(cache, b"hot", ticket)
        for number in range(10):
            _cached(cache, b"%d/%d" % (ticket, number), ticket - 1)
        cache.shrink(committed=ticket - 1)
        assert len(cache) <= 24
        assert cache.get(b"hot") is not None


def test_keys_that_come_and_go_leave_nothing_behind() -> None:
    """Every tombstone that is purged comes into memory and leaves it, on nodes that have room for all their keys."""
    cache = RecordCache(1 << 30)
    _cached(cache, b"stays", 0)
    for number in range(20_000):
        _cached(cache, b"%d" % number, 0)
        cache.remove(b"%d" % number)
    assert len(cache._round) < 2 * STRAYS_MAX
    assert [key for key, _ in cache.entries()] == [b"stays"]
    assert cache.size_bytes == ENTRY_OVERHEAD_BYTES + 5


def test_the_cache_counts_the_bytes_of_what_it_holds_and_no_others() -> None:
    """Over replacement and dropping; a bound that drifts is none."""
    cache = RecordCache(10_000)
    for size in (5_000, 100, 8_000):
        _cached(cache, b"key", 0, size)
        assert cache.size_bytes == ENTRY_OVERHEAD_BYTES + 3 + size
    _cached(cache, b"other", 0, 9_000)
    cache.shrink(committed=0)
    (left,) = cache.entries()
    assert cache.size_bytes == ENTRY_OVERHEAD_BYTES + len(left[0]) + {b"key": 8_000, b"other": 9_000}[left[0]]
    _cached(cache, b"huge", 0, 50_000)
    cache.shrink(committed=0)
    assert (len(cache), cache.size_bytes) == (0, 0)


# -- purging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
async def test_purging_in_the_midst_of_everything_forgets_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows to purge are chosen from disk, and keys are written, loaded and leave memory before they go."""
    random = Random(seed)
    cluster = await form_cluster(1, replicas=1, partitions=2)
    node = cluster.nodes[0]
    folder, replica = node.engine.folder, node.replica
    monkeypatch.setattr(replica, "_cache", RecordCache(random.choice([1, 4 * ENTRY_OVERHEAD_BYTES, 1 << 20])))
    for name in ("load", "purgeable"):
        monkeypatch.setattr(node.engine, name, _slowed(getattr(node.engine, name), random))
    promised, newest = Counter[bytes](), dict[bytes, Record]()
    purged = 0

    async def write() -> None:
        for _ in range(50):
            key, ballot = random.choice([b"k%d" % number for number in range(12)]), node.ballots.tick()
            await asyncio.sleep(random.choice([0, 0, 0.005, 0.05]))
            before = promised[key]
            if node.disk.is_set():
                node.disk.clear()
                asyncio.get_running_loop().call_later(random.choice([0.002, 0.02]), node.disk.set)
            if random.random() < 0.2:
                reply = await cluster.ask(0, Prepare(key, ballot))
            else:
                record = Record(ballot, ballot, False, None if random.random() < 0.6 else b"value")
                reply = await cluster.ask(0, Accept(key, record, NONE))
                if isinstance(reply, Accepted):
                    newest[key] = max(record, newest.get(key, record), key=lambda one: one.ballot)
            if isinstance(reply, Promised | Accepted):
                assert ballot >= before, "a promise was forgotten"
                promised[key] = max(promised[key], ballot)

    async def purge(partition: int) -> None:
        nonlocal purged
        for _ in range(15):
            await asyncio.sleep(random.choice([0.01, 0.05]))
            purged += (await replica.purge(partition, node.ballots.tick(), 0))[0]

    await asyncio.gather(*(write() for _ in range(8)), purge(0), purge(1))
    await node.commits.wait(node.commits.ticket)
    assert purged
    values = {key: record for key, record in newest.items() if record.value is not None}
    records = {key: state.record for key, state in folder.states.items() if state.record is not None}
    assert {key: record for key, record in records.items() if record.value is not None} == values
    sums = Counter[int]()
    for key, record in records.items():
        sums[node.trees.leaf_of(key)] += digest(key, record.ballot)
    for leaf in (*node.trees.leaves_of(0), *node.trees.leaves_of(1)):
        assert node.trees.sum_of(leaf) == folder.leaves.get(leaf, 0) == sums[leaf] & (1 << 64) - 1


def _slowed(call: Callable[..., Awaitable[object]], random: Random) -> Callable[..., Coroutine[object, object, object]]:
    """Reading takes a while, before and after what is read is what is there."""

    async def slow(*arguments: object) -> object:
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.01]))
        found = await call(*arguments)
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.01]))
        return found

    return slow
