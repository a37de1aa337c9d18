"""The hash trees: kept up with each write, the same on disk, and summed up anew from the rows when those are lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.levels import Level
from cluster.repair import hash_trees
from cluster.repair.hash_trees import LEAVES, HashTrees, pack, unpack
from storage import Batch, MemoryEngine, Record, ReplicaState, hash_of
from storage.ballot import NONE
from storage.keyspace import HASH_BITS
from tests.coordination.three_nodes import Cluster, form_cluster

PARTITIONS = 4

keys = st.binary(min_size=1, max_size=8)
ballots = st.integers(1, 1 << 60)


def sums(trees: HashTrees) -> list[tuple[int, list[int]]]:
    return [(trees.root(partition), trees.leaf_sums(partition)) for partition in range(PARTITIONS)]


@given(history=st.lists(st.tuples(keys, ballots | st.just(NONE)), max_size=40))
def test_the_sums_depend_on_what_is_held_and_not_on_how_it_came(history: list[tuple[bytes, int]]) -> None:
    trees, held, on_disk = HashTrees(PARTITIONS, {}), dict[bytes, int](), dict[int, int]()
    for key, ballot in history:
        leaf, total = trees.replace(key, held.get(key, NONE), ballot)
        first, behind = trees.places(leaf)
        assert first <= hash_of(key) < behind
        assert leaf // LEAVES == trees.partition_of(key)
        held[key], on_disk[leaf] = ballot, total
    directly = HashTrees(PARTITIONS, {})
    for key in sorted(held):
        directly.replace(key, NONE, held[key])
    assert sums(trees) == sums(directly) == sums(HashTrees(PARTITIONS, on_disk))


def test_other_ballots_and_other_keys_have_other_sums() -> None:
    seen = set()
    for held in ({b"a": 1}, {b"a": 2}, {b"b": 1}, {b"a": 1, b"b": 1}, {b"a": 1, b"b": 2}, {}):
        trees = HashTrees(1, {})
        for key, ballot in held.items():
            trees.replace(key, NONE, ballot)
        seen.add(trees.root(0))
    assert len(seen) == 6


def test_two_keys_of_a_leaf_that_swap_their_ballots_don_t_hide_each_other() -> None:
    """A sum forgets the order; what is summed must not."""
    trees = HashTrees(1, {})
    first = b"0"
    second = next(key for number in range(1, 10_000) if trees.leaf_of(key := b"%d" % number) == trees.leaf_of(first))
    one, other = HashTrees(1, {}), HashTrees(1, {})
    for tree, ballots in ((one, (3, 4)), (other, (4, 3))):
        tree.replace(first, NONE, ballots[0])
        tree.replace(second, NONE, ballots[1])
    assert one.root(0) != other.root(0)


@pytest.mark.parametrize("partitions", [1, 7, 64])
def test_leaves_and_partitions_cut_the_key_space_without_a_gap(partitions: int) -> None:
    trees, behind = HashTrees(partitions, {}), 0
    for partition in range(partitions):
        assert trees.places_of(partition)[0] == behind
        for leaf in trees.leaves_of(partition):
            assert trees.places(leaf)[0] == behind
            behind = trees.places(leaf)[1]
        assert trees.places_of(partition)[1] == behind
    assert behind == 1 << HASH_BITS


def test_a_leaf_that_is_put_right_puts_its_partition_right() -> None:
    trees, right = HashTrees(PARTITIONS, {}), HashTrees(PARTITIONS, {})
    for number in range(1, 200):
        for tree in (trees, right):
            tree.replace(b"%d" % number, NONE, number)
    leaf = trees.leaf_of(b"7")
    trees.set_sum(leaf, 12345)
    assert sums(trees) != sums(right)
    total = right.sum_of(leaf)
    assert trees.set_sum(leaf, total + (1 << 64)) == (leaf, total)
    assert sums(trees) == sums(right)


def test_numbers_packed_are_numbers_unpacked() -> None:
    numbers = [0, 1, (1 << 64) - 1, 1 << 63]
    assert unpack(pack(numbers)) == numbers
    assert len(pack(numbers)) == 8 * len(numbers)
    with pytest.raises(ValueError, match="8 bytes"):
        unpack(b"1234567")


async def test_rebuilding_goes_through_all_rows_and_forgets_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = MemoryEngine()
    await engine.open()
    states = {b"%d" % number: ReplicaState(9, Record(number + 1, 1, False, None)) for number in range(100)}
    await engine.write(Batch(states | {b"only a promise": ReplicaState(5)}))
    right, wrong = HashTrees(PARTITIONS, {}), HashTrees(PARTITIONS, {3: 7})
    for key, state in states.items():
        right.replace(key, NONE, state.ballot)
    monkeypatch.setattr(hash_trees, "ROWS_PER_PAGE", 7)
    rebuilt = await wrong.rebuild(engine)
    assert sums(wrong) == sums(right) == sums(HashTrees(PARTITIONS, rebuilt))
    assert 0 not in rebuilt.values()


def assert_sound(cluster: Cluster) -> None:
    """On each node the sums in memory and on disk are those of the rows on disk."""
    for node in cluster.nodes:
        folder = node.engine.folder
        rows = HashTrees(cluster.topology.partitions, {})
        for key, state in folder.states.items():
            rows.replace(key, NONE, state.ballot)
        disk = HashTrees(cluster.topology.partitions, folder.leaves)
        for partition in range(cluster.topology.partitions):
            assert node.trees.leaf_sums(partition) == rows.leaf_sums(partition) == disk.leaf_sums(partition)
            assert node.trees.root(partition) == rows.root(partition) == disk.root(partition)


async def test_every_write_at_every_level_keeps_the_sums_up() -> None:
    cluster = await form_cluster()
    for number in range(60):
        level = (Level.STRONG, Level.WEAK, Level.EVENTUAL)[number % 3]
        await cluster.put(number % 3, b"%d" % (number % 17), b"v%d" % number, level=level)
    await cluster.leave_unsettled(2, b"5", b"unsettled")
    await asyncio.sleep(30)
    assert_sound(cluster)
    assert any(node.trees.root(partition) for node in cluster.nodes for partition in range(8))


async def test_a_node_whose_trees_are_lost_sums_them_up_before_it_serves() -> None:
    cluster = await form_cluster()
    for number in range(40):
        await cluster.put(0, b"%d" % number, b"v")
    await asyncio.sleep(5)
    folder = await cluster.end(1)
    folder.leaves, folder.leaves_are_lost = {3: 3}, True
    await cluster.begin(1, folder)
    assert not folder.leaves_are_lost, "on disk before it is asked anything"
    await cluster.put(1, b"5", b"again")
    await asyncio.sleep(30)
    assert_sound(cluster)
