"""What is kept aside comes back, and gets in nobody's way while it does."""

from __future__ import annotations

import asyncio

from cluster.coordination.drive import Context
from cluster.coordination.writing.merge_back import AT_ONCE, ATTEMPT_S, INTERVAL_S
from cluster.coordination.writing.primary import OnOutcome
from cluster.protocol.changes import Change
from cluster.protocol.messages import Accept, Outcome, Prepare, Read
from cluster.repair.hints import size_of
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


async def test_a_merge_whose_hand_over_fails_is_tried_again() -> None:
    """Its key was counted as under way for ever, and so was never merged."""
    cluster = await form_cluster()
    node = cluster.nodes[1]
    hand_over, node.context.hand_over = node.context.hand_over, _broken
    await keep_aside(cluster, 1, b"key", b"kept")
    await asyncio.sleep(2 * INTERVAL_S)
    assert len(node.merge_back) == 1
    node.context.hand_over = hand_over
    await asyncio.sleep(2 * INTERVAL_S)
    assert len(node.merge_back) == 0
    assert set(cluster.values_on_disk(b"key")) == {b"kept"}


async def test_merges_follow_one_another_without_a_pause() -> None:
    """There were sixteen each half second: what one replica missed in a minute took an hour."""
    cluster = await form_cluster()
    keys = MANY_KEYS[: 20 * AT_ONCE]
    at_once = AtOnce(cluster.nodes[1].context)
    await asyncio.gather(*(keep_aside(cluster, 1, key, b"kept") for key in keys))
    await asyncio.sleep(3 * INTERVAL_S)
    assert len(cluster.nodes[1].merge_back) == 0
    assert all(set(cluster.values_on_disk(key)) == {b"kept"} for key in keys)
    assert at_once.most == AT_ONCE


async def test_without_a_majority_merges_are_not_tried_all_the_time() -> None:
    cluster = await form_cluster()
    cluster.network.cut_off(0)
    cluster.network.cut_off(2)
    at_once = AtOnce(cluster.nodes[1].context)
    for key in MANY_KEYS[: 20 * AT_ONCE]:
        await keep_aside(cluster, 1, key, b"kept")
    at_once.begun = 0
    await asyncio.sleep(4 * INTERVAL_S)
    assert AT_ONCE < at_once.begun <= 5 * AT_ONCE
    assert len(cluster.nodes[1].merge_back) == 20 * AT_ONCE


async def test_a_merge_brings_along_the_replica_that_refused_although_a_majority_has_the_write() -> None:
    """The round then proposed nothing, and the promise that was in the way stood for ever."""
    cluster = await form_cluster()
    ballot = cluster.nodes[1].ballots.tick()
    record = Record(ballot, ballot, True, b"value")
    for slot in (0, 1):
        await cluster.ask(slot, Accept(b"key", record, 0))
    await cluster.ask(2, Prepare(b"key", cluster.nodes[2].ballots.tick()))
    kept = asyncio.Event()
    cluster.nodes[1].replica.keep_aside(b"key", record, kept.set)
    await kept.wait()
    await asyncio.sleep(2 * INTERVAL_S)
    assert cluster.values_on_disk(b"key") == [b"value"] * 3
    assert cluster.nodes[1].engine.folder.kept_aside == {}


async def test_the_oldest_that_is_kept_aside_is_known_by_partition() -> None:
    cluster = await form_cluster()
    node = cluster.nodes[1]
    added: list[tuple[int, int]] = []
    node.merge_back.on_added = lambda *what: added.append(what)
    partition = node.trees.partition_of(b"key")
    node.context.hand_over = _broken
    older = await keep_aside(cluster, 1, b"key", b"1")
    newer = await keep_aside(cluster, 1, b"key", b"2")
    assert node.merge_back.oldest(partition) == older.origin
    assert node.merge_back.oldest(partition + 1) is None
    assert added == [(partition, older.origin), (partition, newer.origin)]
    assert (len(node.merge_back), node.merge_back.size_bytes) == (2, 2 * size_of(b"key", older))
    node.context.hand_over = node.handover.submit
    await asyncio.sleep(2 * INTERVAL_S)
    assert node.merge_back.oldest(partition) is None
    assert (len(node.merge_back), node.merge_back.size_bytes) == (0, 0)


class AtOnce:
    """Counts the merges that a node hands over."""

    def __init__(self, context: Context) -> None:
        self.begun = self.under_way = self.most = 0
        self._hand_over, context.hand_over = context.hand_over, self.hand_over

    def hand_over(self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
        self.begun += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)

        def ended(outcome: Outcome) -> None:
            self.under_way -= 1
            on_outcome(outcome)

        self._hand_over(key, change, needed, deadline_s, ended)


def _broken(key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
    raise RuntimeError("broken for a test")
