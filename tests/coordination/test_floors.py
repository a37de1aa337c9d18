"""Deleting for good on three nodes and virtual time: what goes, what holds it back, and that nothing comes back."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable

import pytest

from cluster.levels import Level
from cluster.protocol.messages import Accept, Accepted, Forward, Forwarded, Prepare, Refused, Settled, Unfit
from cluster.protocol.changes import Merge
from cluster.protocol.repair_messages import Confirm, Gate, Gated, Purge, Purged
from cluster.repair.floors.criterion import DEADLINE_S, shortest_purge_after_s
from cluster.repair.floors.loop import PASS_S, PURGE_AFTER_S
from cluster.requests import Found, Unknown, Written
from kvstore.http.incoming.parameters import TIMEOUT_S_MAX
from storage.ballot import NONE, ballot_of, unix_ms_of
from storage.record import Record
from tests.coordination.three_nodes import Cluster, Fate, form_cluster, until

LONG_AFTER_S = PURGE_AFTER_S + 4 * PASS_S
"""Until what is deleted now is purged, if nothing holds it back."""


async def delete(cluster: Cluster, at: int, key: bytes, *, level: Level = Level.STRONG) -> int:
    """Deletes the key on all replicas; the deletion's version."""
    outcome = await cluster.put(at, key, None, level=level, needed=3)
    assert isinstance(outcome, Written)
    return outcome.version


async def put(cluster: Cluster, at: int, key: bytes, value: bytes, *, level: Level = Level.STRONG) -> int:
    outcome = await cluster.put(at, key, value, level=level, needed=3)
    assert isinstance(outcome, Written)
    return outcome.version


def held(cluster: Cluster, key: bytes) -> list[bool]:
    """Whether each node has a row of the key on disk."""
    return [key in node.engine.folder.states for node in cluster.nodes]


def partition_of(cluster: Cluster, key: bytes) -> int:
    return cluster.nodes[0].trees.partition_of(key)


def floors(cluster: Cluster, key: bytes) -> list[int]:
    return [node.marks.floors.get(partition_of(cluster, key), NONE) for node in cluster.nodes]


def roots(cluster: Cluster, key: bytes) -> set[int]:
    return {node.trees.root(partition_of(cluster, key)) for node in cluster.nodes}


async def is_absent(cluster: Cluster, key: bytes) -> bool:
    for slot in range(3):
        for level in Level:
            read = await cluster.get(slot, key, level=level)
            if not isinstance(read, Found) or (read.record is not None and read.record.value is not None):
                return False
    return True


def old_floor(cluster: Cluster, node: int = 0) -> int:
    """What that node would raise a floor to now."""
    return ballot_of(cluster.nodes[node].ballots.now_ms() - int(PURGE_AFTER_S * 1000), 0, node)


async def purged_key(cluster: Cluster, key: bytes = b"key") -> tuple[Record, int]:
    """A key that held a value, was deleted, and is purged; its old record, and the version of the deletion."""
    await put(cluster, 0, key, b"old")
    state = cluster.nodes[0].engine.folder.states[key]
    assert state.record is not None
    deletion = await delete(cluster, 1, key)
    await asyncio.sleep(LONG_AFTER_S)
    assert held(cluster, key) == [False] * 3
    return state.record, deletion


# -- what goes ----------------------------------------------------------------------------------------------------


async def test_a_deleted_key_leaves_nothing_behind_and_its_neighbours_everything() -> None:
    cluster = await form_cluster()
    neighbour = next(
        key
        for key in (b"n%d" % number for number in range(1000))
        if partition_of(cluster, key) == partition_of(cluster, b"key")
    )
    await put(cluster, 0, neighbour, b"stays")
    await purged_key(cluster)

    assert min(floors(cluster, b"key")) > NONE
    assert len(roots(cluster, b"key")) == 1
    assert cluster.values_on_disk(neighbour) == [b"stays"] * 3
    assert [node.floor_member.purged for node in cluster.nodes] == [1, 1, 1]
    assert await is_absent(cluster, b"key")
    leaves = [node.engine.folder.leaves.get(node.trees.leaf_of(b"key"), 0) for node in cluster.nodes]
    assert len(set(leaves)) == 1
    assert await put(cluster, 2, b"key", b"new") > max(floors(cluster, b"key"))
    assert cluster.values_on_disk(b"key") == [b"new"] * 3


async def test_a_deletion_stays_for_as_long_as_something_as_old_may_be_under_way() -> None:
    cluster = await form_cluster()
    await put(cluster, 0, b"key", b"old")
    deletion = await delete(cluster, 0, b"key")
    await asyncio.sleep(PURGE_AFTER_S - 1)
    assert held(cluster, b"key") == [True] * 3
    await asyncio.sleep(1 + 4 * PASS_S)
    assert held(cluster, b"key") == [False] * 3
    assert min(floors(cluster, b"key")) > deletion


async def test_a_promise_alone_goes_too_wherever_it_is() -> None:
    """Its node need not lead the partition: the one that does asks the others now and then."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await cluster.ask(2, Prepare(key, cluster.nodes[2].ballots.tick()))
    await until(lambda: held(cluster, key)[2])
    await asyncio.sleep(PURGE_AFTER_S + 32 * PASS_S * 1.3)
    assert held(cluster, key) == [False] * 3
    assert floors(cluster, key)[2] > NONE
