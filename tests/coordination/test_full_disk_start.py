"""A node that starts with no room for a single commit: it can't vote, but it reads, and is read."""

from __future__ import annotations

import asyncio

import pytest

from cluster.levels import Level
from cluster.membership.fitness import Bar
from cluster.protocol.messages import Held, Prepare, Read, Unfit
from cluster.repair.amnesia.verification import UNVERIFIED_FROM
from cluster.requests import Found, Listed, NoRoom, Unavailable, Written
from storage.memory import MemoryFolder
from tests.coordination.three_nodes import Cluster, Node, form_cluster, until

KEY = b"key"
A_WHILE_S = 3.0


async def started_without_room() -> tuple[Cluster, Node, MemoryFolder]:
    """n2 has started on its own folder, and nothing that it writes finds room."""
    cluster = await form_cluster()
    assert isinstance(await cluster.put(0, KEY, b"value", needed=3), Written)
    folder = await cluster.end(2)
    folder.bytes_free = -1
    node = await cluster.begin(2, folder)
    await asyncio.sleep(A_WHILE_S)
    assert node.commits.is_full
    return cluster, node, folder


@pytest.mark.parametrize("level", list(Level))
async def test_it_is_read_through(level: Level) -> None:
    cluster, _, _ = await started_without_room()
    read = await cluster.get(2, KEY, level=level)
    assert isinstance(read, Found)
    assert read.record is not None
    assert read.record.value == b"value"
    listed = await cluster.page(2, KEY, level=level)
    assert isinstance(listed, Listed)
    assert [entry.key for entry in listed.entries] == [KEY]
    assert isinstance(await cluster.put(2, KEY, b"more"), NoRoom)


async def test_it_is_half_of_a_reading_majority_and_no_half_of_a_writing_one() -> None:
    cluster, node, folder = await started_without_room()
    assert node.fitness.bars == Bar.READ_ONLY
    cluster.network.cut_off(0)
    for at in (1, 2):
        read = await cluster.get(at, KEY)
        assert isinstance(read, Found)
        assert read.replicas == ("n1", "n2")
    assert isinstance(await cluster.ask(2, Prepare(KEY, cluster.nodes[1].ballots.tick())), Unfit)
    assert isinstance(await cluster.put(1, KEY, b"more"), Unavailable)
    cluster.network.rejoin(0)
    sequence = folder.commit_sequence
    folder.bytes_free = 1 << 40
    await until(lambda: not node.fitness.bars)
    assert folder.commit_sequence > sequence
    assert folder.facts[UNVERIFIED_FROM] == b""
    await asyncio.sleep(A_WHILE_S)
    assert isinstance(await cluster.put(2, KEY, b"more", needed=3), Written)
    await cluster.end(2)
    again = await cluster.begin(2, folder)
    await until(lambda: not again.fitness.bars)
    assert not again.recollection.recovery.progress.partitions_done, "nothing was lost"


async def test_it_answers_nothing_before_its_memory_is_known_to_be_whole() -> None:
    cluster = await form_cluster()
    assert isinstance(await cluster.put(0, KEY, b"value", needed=3), Written)
    folder = await cluster.end(2)
    folder.bytes_free = -1
    for slot in (0, 1):
        cluster.network.cut_off(slot)
    node = await cluster.begin(2, folder)
    await asyncio.sleep(A_WHILE_S)
    assert node.fitness.bars & Bar.UNVERIFIED
    assert isinstance(await cluster.ask(2, Read(KEY, value=True)), Unfit)
    cluster.network.rejoin(0)
    await until(lambda: not node.fitness.bars & Bar.UNVERIFIED)
    assert isinstance(await cluster.ask(2, Read(KEY, value=True)), Held)
