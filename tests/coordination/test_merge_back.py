"""What is kept aside comes back, and gets in nobody's way while it does."""

from __future__ import annotations

import asyncio

from cluster.coordination.merge_back import AT_ONCE, ATTEMPT_S, INTERVAL_S
from cluster.protocol.messages import Accept, Prepare, Read
from cluster.requests import Found, TimedOut, Written
from storage.record import Record
from tests.coordination.three_nodes import MANY_KEYS, Cluster, Fate, form_cluster

LONGER_THAN_AN_ATTEMPT_S = ATTEMPT_S + 4


async def keep_aside(cluster: Cluster, slot: int, key: bytes, value: bytes) -> Record:
    """A weak write lies aside at that node, as if it had been refused there."""
    node = cluster.nodes[slot]
    ballot = node.ballots.tick()
    record = Record(ballot, ballot, True, value)
    kept = asyncio.Event()
    node.replica.keep_aside(key, record, kept.set)
    await kept.wait()
    return record


async def test_what_is_kept_aside_comes_back_under_its_own_origin_and_is_forgotten() -> None:
    """The promise given to a weak write that was refused."""
    cluster = await form_cluster()
    record = await keep_aside(cluster, 1, b"key", b"kept")
    await asyncio.sleep(2 * INTERVAL_S)
    read = await cluster.get(0, b"key")
    assert isinstance(read, Found)
    assert read.record is not None
    assert (read.record.value, read.record.origin) == (b"kept", record.origin)
    await asyncio.sleep(INTERVAL_S)
    assert cluster.nodes[1].engine.folder.kept_aside == {}
    assert len(cluster.nodes[1].merge_back) == 0


async def test_a_merge_that_gives_up_in_the_queue_breaks_neither_its_key_nor_the_deadlines() -> None:
    """A merge waited behind a longer write and its future was cancelled; being told its outcome then failed.

    The failure ended the sweep of deadlines: from then on nothing on that node timed out, and the key was stuck.
    """
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    cluster.network.treat(Fate.SILENT, Prepare, Accept, Read, source=0)
    writing = asyncio.create_task(cluster.put(0, key, b"slow", timeout_s=LONGER_THAN_AN_ATTEMPT_S))
    await asyncio.sleep(0.01)
    await keep_aside(cluster, 0, key, b"kept")
    assert not isinstance(await writing, Written)
    cluster.network.heal()
    assert isinstance(await cluster.put(0, key, b"after", timeout_s=2), Written)
    cluster.network.treat(Fate.SILENT)
    assert isinstance(await cluster.get(0, b"other", timeout_s=1), TimedOut)


async def test_a_silent_primary_holds_back_its_own_keys_only() -> None:
    """Merges went in groups, and a group ended with its slowest: 5 seconds for each 16 keys of a paused primary.

    Keys whose replicas were all well waited behind them.
    """
    cluster = await form_cluster(4)
    paused = 3
    held_back = [key for key in MANY_KEYS if cluster.topology.replicas_of(key)[0] == paused][: 2 * AT_ONCE]
    well = [key for key in MANY_KEYS if paused not in cluster.topology.replicas_of(key)][:5]
    cluster.network.treat(Fate.SILENT, target=paused)
    for key in held_back + well:
        await keep_aside(cluster, 0, key, b"kept")
    await asyncio.sleep(2 * ATTEMPT_S + 4 * INTERVAL_S)
    for key in well:
        read = await cluster.get(0, key)
        assert isinstance(read, Found)
        assert read.record is not None
        assert read.record.value == b"kept"


async def test_the_end_of_a_merge_that_nobody_knows_of_is_tried_again() -> None:
    """Merging twice does nothing the second time, so an unknown outcome is no reason to forget."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    cluster.network.treat(Fate.SILENT)
    await keep_aside(cluster, 1, key, b"kept")
    await asyncio.sleep(ATTEMPT_S + INTERVAL_S)
    assert len(cluster.nodes[1].merge_back) == 1
    cluster.network.heal()
    await asyncio.sleep(2 * ATTEMPT_S)
    assert len(cluster.nodes[1].merge_back) == 0
    assert set(cluster.values_on_disk(key)) == {b"kept"}
