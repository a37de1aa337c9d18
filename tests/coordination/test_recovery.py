"""A replica that lost its memory, all of it or a record, learns it anew from rounds that leave it out."""

from __future__ import annotations

import asyncio
from collections import Counter
from copy import deepcopy

import pytest

from cluster.levels import Level
from cluster.membership.fitness import Bar
from cluster.protocol.messages import Accept, Accepted, Heartbeat, Held, Prepare, Promised, Read, Refused, Scan, Unfit
from cluster.protocol.repair_messages import Inventory, PromiseRaised, RaisePromise
from cluster.repair.amnesia import recovery as recovering
from cluster.repair.amnesia.findings import Copy, compare
from cluster.repair.amnesia.recollection import LOOK_S
from cluster.repair.amnesia.recovery import Recovery
from cluster.repair.amnesia.verification import RECOVERY
from cluster.repair.hash_trees import digest
from cluster.requests import Found, Listed, Written
from storage.ballot import NONE, ballot_of, unix_ms_of
from storage.engine import FolderDamaged, Rot, ScrubPage
from storage.memory import MemoryEngine, MemoryFolder
from storage.record import Record
from tests.coordination.three_nodes import MANY_KEYS, Cluster, Fate, Node, form_cluster, until
from tests.coordination.virtual_time import WALL_START_MS

BARS = Bar.UNVERIFIED | Bar.RECOVERING
KEYS = [b"key-%d" % number for number in range(60)]
A_WHILE_S = 3.0
SCRUBBED_S = 70.0
"""A period of the scrub, and the recovery of what it found."""


async def recovered(node: Node) -> None:
    await until(lambda: not node.fitness.bars & BARS)


async def wiped(cluster: Cluster, slot: int) -> Node:
    """The node starts on an empty folder."""
    await cluster.end(slot)
    return await cluster.begin(slot)


def copied(node: Node) -> MemoryFolder:
    """The folder as it is on disk now, for another start."""
    copy = deepcopy(node.engine.folder)
    copy.in_use = False
    return copy


def records(node: Node) -> dict[bytes, Record]:
    return {key: state.record for key, state in node.engine.folder.states.items() if state.record is not None}


def assert_trees_are_right(node: Node) -> None:
    """What is on disk of the hash tree is the sum of the rows, and what is in memory is that."""
    sums = Counter[int]()
    for key, record in records(node).items():
        sums[node.trees.leaf_of(key)] += digest(key, record.ballot)
    expected = {leaf: total & (1 << 64) - 1 for leaf, total in sums.items()}
    assert {leaf: total for leaf, total in node.engine.folder.leaves.items() if total} == expected
    assert all(node.trees.sum_of(leaf) == total for leaf, total in expected.items())


def assert_equal(cluster: Cluster) -> None:
    first, *others = cluster.nodes
    for node in others:
        assert records(node) == records(first), node.slot
        assert_trees_are_right(node)


async def filled(count: int = 3, *, replicas: int = 3) -> Cluster:
    """A cluster with values and a deletion, the same on all nodes."""
    cluster = await form_cluster(count, replicas=replicas)
    for number, key in enumerate(KEYS):
        level = Level.STRONG if number % 2 else Level.WEAK
        written = await cluster.put(number % count, key, b"first %d" % number, level=level, needed=min(count, replicas))
        assert isinstance(written, Written)
    deletion = Record(ballot := cluster.nodes[0].ballots.tick(), ballot, False, None)
    for slot in cluster.topology.replicas_of(KEYS[0]):
        await cluster.ask(slot, Accept(KEYS[0], deletion, NONE))
    return cluster


# -- what is made of what is listed ------------------------------------------------------------------------------


def test_findings() -> None:
    agreed, newer, differ, half, old, true = b"agreed", b"newer", b"differ", b"half", b"old", b"true"
    witnesses = [
        copies({agreed: 5, newer: 5, differ: 5, half: 5, b"same": 5}),
        copies({agreed: 5, newer: 5, differ: 6, b"same": 5}),
    ]
    found = compare(witnesses, copies({newer: 7, b"same": 5, old: 3, true: 4}), floor=3)
    assert found.to_fetch == {agreed: 5}
    assert found.to_settle == [differ, half]
    assert found.covered == [old]
    assert found.kept == [true]


def copies(ballots: dict[bytes, int]) -> dict[bytes, Copy]:
    return {key: Copy(ballot) for key, ballot in ballots.items()}


def test_findings_of_fences() -> None:
    """Replicas that hold one write under other fences don't agree, and one that lacks some has something to fetch."""
    differ, lacks, more, same, newer = b"differ", b"lacks", b"more", b"same", b"newer"
    witnesses = [
        {differ: Copy(5, 111), lacks: Copy(5, 111), more: Copy(5, 111), same: Copy(5, 111), newer: Copy(5, 111)},
        {differ: Copy(5), lacks: Copy(5, 111), more: Copy(5, 111), same: Copy(5, 111), newer: Copy(5, 111)},
    ]
    own = {lacks: Copy(5), more: Copy(5, 222), same: Copy(5, 111), newer: Copy(7, 222)}
    found = compare(witnesses, own, floor=NONE)
    assert found.to_settle == [differ]
    assert found.to_fetch == {lacks: 5, more: 5}
    assert (found.covered, found.kept) == ([], [])


# -- a folder that is gone, or old -------------------------------------------------------------------------------


async def test_an_empty_folder_is_filled_before_it_votes() -> None:
    cluster = await filled()
    cluster.network.treat(Fate.SILENT, Inventory)
    node = await wiped(cluster, 2)
    await asyncio.sleep(A_WHILE_S)
    assert node.fitness.bars == Bar.RECOVERING
    assert "remembers this member with another folder" in node.fitness.reasons[0]
    for slot in (0, 1, 2):
        for key in (KEYS[1], KEYS[2]):
            read = await cluster.get(slot, key)
            assert isinstance(read, Found)
            assert "n2" not in read.replicas
            assert isinstance(await cluster.put(slot, b"more", b"during"), Written)
    ballot = node.ballots.tick()
    for request in (Prepare(KEYS[1], ballot), Accept(KEYS[1], Record(ballot, ballot, False, b"x"), NONE)):
        assert isinstance(await cluster.ask(2, request), Unfit)
    cluster.network.heal()
    await recovered(node)
    assert_equal(cluster)
    assert (await cluster.get(2, KEYS[3], level=Level.EVENTUAL)).record.value == b"first 3"  # type: ignore[union-attr]
    assert isinstance(await cluster.put(2, KEYS[1], b"with all three", needed=3), Written)
    assert node.engine.folder.facts[RECOVERY] == b""


async def test_an_older_folder_gets_what_it_missed_and_keeps_what_only_it_has() -> None:
    cluster = await filled()
    only_there = Record(ballot := cluster.nodes[2].ballots.tick(), ballot, True, b"weak, acknowledged by one")
    assert isinstance(await cluster.ask(2, Accept(b"sole", only_there, NONE)), Accepted)
    old = copied(cluster.nodes[2])
    for key in KEYS[1:20]:
        await cluster.put(0, key, b"second", needed=3)
    await cluster.end(2)
    node = await cluster.begin(2, old)
    await until(lambda: node.fitness.bars & Bar.RECOVERING)
    await recovered(node)
    for key in KEYS:
        assert records(node)[key] == records(cluster.nodes[0])[key]
    assert records(node)[b"sole"] == only_there
    assert_trees_are_right(node)


async def test_a_weak_record_that_recovery_pushes_out_is_kept_aside_and_comes_back() -> None:
    """The older folder holds the only copy of an acknowledged weak write, and a newer ballot bears an older value."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await cluster.put(0, key, b"old", needed=3)
    weak = Record(ballot := cluster.nodes[2].ballots.tick(), ballot, True, b"weak")
    assert isinstance(await cluster.ask(2, Accept(key, weak, NONE)), Accepted)
    old = copied(cluster.nodes[2])
    await cluster.end(2)
    settled = records(cluster.nodes[0])[key].under(cluster.nodes[0].ballots.tick(ballot), weak=False)
    for slot in (0, 1):
        assert isinstance(await cluster.ask(slot, Accept(key, settled, NONE)), Accepted)
    cluster.nodes[0].recollection.peers.told(2, cluster.nodes[2].recollection.boot, old.commit_sequence + 1)
    node = await cluster.begin(2, old)
    await until(lambda: node.fitness.bars & Bar.RECOVERING)
    await recovered(node)
    await until(lambda: records(cluster.nodes[0])[key].origin == weak.origin)


async def test_a_log_that_was_cut_short_is_a_lost_memory_though_nobody_remembers_more() -> None:
    cluster = await filled()
    folder = await cluster.end(2)
    lost = [key for key in KEYS if key in folder.states][5:15]
    for key in lost:
        del folder.states[key]
    folder.was_cut_short = "the log ends in damage"
    node = await cluster.begin(2, folder)
    assert node.fitness.bars == Bar.RECOVERING
    assert "the log ends in damage" in node.fitness.reasons[0]
    await recovered(node)
    assert all(records(node)[key] == records(cluster.nodes[0])[key] for key in lost)
    assert folder.was_cut_short is None


async def test_an_interrupted_recovery_begins_anew() -> None:
    """Its folder knows, though by then it is no older than others remember."""
    cluster = await filled()
    folder = await cluster.end(2)
    folder.was_cut_short = "the log ends in damage"
    cluster.network.treat(Fate.SILENT, Inventory, target=0)
    node = await cluster.begin(2, folder)
    await asyncio.sleep(A_WHILE_S)
    folder.was_cut_short = None
    await cluster.end(2)
    node = await cluster.begin(2, folder)
    assert node.fitness.bars == Bar.RECOVERING
    cluster.network.heal()
    await recovered(node)
    await cluster.end(2)
    node = await cluster.begin(2, folder)
    assert node.fitness.bars == Bar.UNVERIFIED
    await recovered(node)


async def test_the_folder_that_was_lost_and_comes_back_has_missed_what_was_voted_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that was not mounted at one start: the empty folder voted for the partitions that it had recovered, and
    the old one, which is all that was remembered of the member, was whole by that. An acknowledged write was lost."""
    cluster = await filled()
    trees = cluster.nodes[0].trees
    key = next(key for key in MANY_KEYS if trees.partition_of(key) == 0)
    recover = Recovery._recover

    async def recover_the_first(self: Recovery, partition: int) -> None:
        if partition:
            raise recovering._NotNow("for the test")
        await recover(self, partition)

    unmounted = await cluster.end(2)
    with monkeypatch.context() as patch:
        patch.setattr(Recovery, "_recover", recover_the_first)
        node = await cluster.begin(2)
        await until(lambda: node.fitness.recovering and 0 not in node.fitness.recovering)
        cluster.network.cut_off(1)
        ballot = cluster.nodes[0].ballots.tick(node.marks.promises[0])
        written = Record(ballot, ballot, False, b"value")
        for slot in (0, 2):
            assert isinstance(await cluster.ask(slot, Accept(key, written, NONE)), Accepted)
        await cluster.end(2)
    cluster.network.cut_off(0)
    cluster.network.rejoin(1)
    node = await cluster.begin(2, unmounted)
    await asyncio.sleep(A_WHILE_S)
    assert node.fitness.bars == Bar.RECOVERING
    cluster.network.heal()
    await recovered(node)
    found = await cluster.get(2, key)
    assert isinstance(found, Found)
    assert found.record is not None
    assert (found.record.origin, found.record.value) == (written.origin, b"value")


async def test_an_old_folder_does_not_send_a_member_that_has_long_recovered_into_recovery_again() -> None:
    """n2 comes back on a copy that remembers n1's lost folder. n1 is whole, and n2 needs it to recover."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    assert isinstance(await cluster.put(0, key, b"before", needed=3), Written)
    await asyncio.sleep(2 * LOOK_S)
    folder = await cluster.end(2)
    copy = deepcopy(folder)
    await cluster.begin(2, folder)
    await until(lambda: not cluster.nodes[2].fitness.bars)
    await cluster.end(1)
    await cluster.begin(1)
    await until(lambda: not cluster.nodes[1].fitness.bars and not cluster.nodes[2].fitness.bars)
    await cluster.begin(1, await cluster.end(1))
    await until(lambda: not cluster.nodes[1].fitness.bars)
    assert isinstance(await cluster.put(0, key, b"after", needed=3), Written)
    await cluster.end(2)
    copy.in_use = False
    await cluster.begin(2, copy)
    await until(lambda: bool(cluster.nodes[2].fitness.bars & Bar.RECOVERING))
    for _ in range(200):
        assert not cluster.nodes[1].fitness.bars
        await asyncio.sleep(0.05)
    assert not cluster.nodes[2].fitness.bars
    assert cluster.values_on_disk(key) == [b"after"] * 3


async def test_it_waits_for_those_who_are_away_and_says_for_whom() -> None:
    cluster = await filled()
    cluster.network.cut_off(1)
    node = await wiped(cluster, 2)
    await asyncio.sleep(A_WHILE_S)
    assert node.fitness.bars == Bar.RECOVERING
    assert "it waits: for word of n1" in node.fitness.reasons[0]
    cluster.network.treat(Fate.SILENT, RaisePromise, target=1)
    cluster.network.rejoin(1)
    await asyncio.sleep(60)
    assert "promises of 2 replicas" in node.fitness.reasons[0]
    assert "n1" in node.fitness.reasons[0]
    cluster.network.heal()
    await recovered(node)
    assert_equal(cluster)


async def test_two_that_lost_their_memory_do_not_recover_from_each_other() -> None:
    """Nor does it help that neither they nor the third have anything to disagree on: it may have missed it all."""
    cluster = await form_cluster()
    for slot in (1, 2):
        await cluster.end(slot)
    nodes = [await cluster.begin(slot) for slot in (1, 2)]
    await asyncio.sleep(30)
    assert [node.fitness.bars for node in nodes] == [Bar.RECOVERING] * 2


@pytest.mark.parametrize(("count", "replicas"), [(2, 2), (4, 4), (5, 3), (5, 5)])
async def test_other_sizes(count: int, replicas: int) -> None:
    cluster = await filled(count, replicas=replicas)
    await recovered(await wiped(cluster, 1))
    for key in KEYS:
        held = {records(cluster.nodes[slot]).get(key) for slot in cluster.topology.replicas_of(key)}
        assert len(held) == 1, key
    assert_trees_are_right(cluster.nodes[1])


async def test_of_five_two_may_be_away() -> None:
    """Three promise: a majority of five that leaves this one out."""
    cluster = await filled(5, replicas=5)
    cluster.network.cut_off(0)
    node = await wiped(cluster, 4)
    await recovered(node)
    cluster.network.cut_off(3)
    assert isinstance(await cluster.put(1, KEYS[1], b"three of five"), Written)


async def test_a_sole_replica_goes_on_with_what_it_has() -> None:
    """Nobody can tell it more."""
    cluster = await form_cluster(1)
    await cluster.put(0, b"key", b"value", needed=1)
    folder = await cluster.end(0)
    folder.was_cut_short = "the log ends in damage"
    node = await cluster.begin(0, folder)
    await recovered(node)
    assert isinstance(await cluster.get(0, b"key"), Found)


async def test_a_stretch_ends_where_the_shortest_page_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of few rows, and witnesses that hold different keys."""
    monkeypatch.setattr(recovering, "PAGE_ROWS", 2)
    monkeypatch.setattr(recovering, "FETCHES_AT_ONCE", 3)
    cluster = await filled()
    for number in range(40):
        await cluster.leave_unsettled(number % 2, b"half-%d" % number, b"on one")
    node = await wiped(cluster, 2)
    await recovered(node)
    assert_equal(cluster)
    assert len(records(node)) == len(KEYS) + 40


# -- what may not be believed ------------------------------------------------------------------------------------


class CopiesFromBoth(Recovery):
    """What looks like enough: the newest of what each of the others holds."""

    async def _recover(self, partition: int) -> None:
        for slot in self._rounds.others(partition):
            page = await self._rounds.ask(slot, Inventory(partition, None, 1000))
            for row in page.rows:  # type: ignore[union-attr]
                held = await self._rounds.ask(slot, Read(row.key, value=True))
                await self._replica.restore({row.key: held.record}, NONE)  # type: ignore[union-attr]


@pytest.mark.parametrize("naive", [False, True])
async def test_an_accept_granted_before_it_forgot_is_not_chosen_behind_its_back(
    naive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """n0 proposes x: n2 accepts it, and forgets. The accept is late at n1, and reaches it after the recovery."""
    if naive:
        monkeypatch.setattr("cluster.repair.amnesia.recollection.Recovery", CopiesFromBoth)
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await cluster.put(0, key, b"v", needed=3)
    ballot = cluster.nodes[0].ballots.tick()
    late = Accept(key, Record(ballot, ballot, False, b"x"), NONE)
    for slot in (1, 2):
        await cluster.ask(slot, Prepare(key, ballot))
    assert isinstance(await cluster.ask(2, late), Accepted)
    await recovered(await wiped(cluster, 2))
    x_is_acknowledged = isinstance(await cluster.ask(1, late), Accepted)  # n2's was counted long ago
    cluster.network.cut_off(1)
    read = await cluster.get(0, key)
    assert isinstance(read, Found)
    assert read.record is not None
    is_lost = x_is_acknowledged and read.record.value == b"v"
    assert is_lost == naive


async def test_a_promise_given_before_it_forgot_is_kept() -> None:
    """n2 promised 20 and told v; with its memory it forgot that. The accept of 10 must not get a majority now."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await cluster.put(0, key, b"v", needed=3)
    older = cluster.nodes[0].ballots.tick()
    newer = cluster.nodes[1].ballots.tick(older)
    for slot in (0, 2):
        assert isinstance(await cluster.ask(slot, Prepare(key, older)), Promised)
    for slot in (1, 2):
        assert isinstance(await cluster.ask(slot, Prepare(key, newer)), Promised)
    await recovered(await wiped(cluster, 2))
    assert isinstance(await cluster.ask(2, Accept(key, Record(older, older, False, b"10"), NONE)), Refused)


async def test_the_round_lies_above_every_ballot_that_was_given_out() -> None:
    """Ballots run an hour ahead since a clock was wrong; n2, whose folder is gone, knows nothing of it."""
    cluster = await form_cluster()
    ahead = ballot_of(WALL_START_MS + 3_600_000, 0, 1)
    for slot in (0, 1, 2):
        await cluster.ask(slot, Prepare(b"some key", ahead))
    node = await wiped(cluster, 2)
    await recovered(node)
    assert all(promise > ahead for promise in node.marks.promises.values())
    assert len(node.marks.promises) == cluster.topology.partitions
    assert unix_ms_of(node.ballots.tick()) > unix_ms_of(ahead)


async def test_what_a_floor_covers_does_not_come_back_with_an_old_folder() -> None:
    cluster = await filled()
    old = copied(cluster.nodes[2])
    gone = KEYS[7]
    await cluster.end(2)
    partition = cluster.nodes[0].trees.partition_of(gone)
    floor = cluster.nodes[0].ballots.tick()
    for slot in (0, 1):
        node = cluster.nodes[slot]
        deletion = Record(floor - 1024, floor - 1024, False, None)
        assert isinstance(await cluster.ask(slot, Accept(gone, deletion, NONE)), Accepted)
        _, ticket = await node.replica.purge(partition, floor, 0)
        await node.commits.wait(ticket)
        assert gone not in node.engine.folder.states
        node.recollection.peers.told(2, cluster.nodes[2].recollection.boot, old.commit_sequence + 1)
    node = await cluster.begin(2, old)
    await until(lambda: node.fitness.bars & Bar.RECOVERING)
    await recovered(node)
    assert gone not in records(node)
    assert node.marks.floors[partition] == floor
    assert_trees_are_right(node)
    reply = await cluster.ask(2, Prepare(gone, node.ballots.tick()))
    assert isinstance(reply, Promised)
    assert reply.floor == floor


async def test_a_witness_lists_what_it_had_accepted_and_not_yet_written() -> None:
    cluster = await form_cluster()
    key, node = cluster.key_led_by(0), cluster.nodes[0]
    node.disk.clear()
    ballot = node.ballots.tick()
    accepting = asyncio.create_task(cluster.ask(0, Accept(key, Record(ballot, ballot, False, b"x"), NONE)))
    await asyncio.sleep(A_WHILE_S)
    listing = asyncio.create_task(cluster.ask(0, Inventory(node.trees.partition_of(key), None, 10)))  # type: ignore[arg-type]
    await asyncio.sleep(A_WHILE_S)
    assert not accepting.done()
    assert not listing.done()
    node.disk.set()
    assert [row.ballot for row in (await listing).rows] == [ballot]  # type: ignore[union-attr]
    assert isinstance(await accepting, Accepted)


# -- single records ----------------------------------------------------------------------------------------------


async def test_a_record_found_damaged_when_it_is_read_becomes_whole_and_nobody_sees_it() -> None:
    cluster = await filled()
    key = next(key for key in KEYS[1:] if cluster.topology.replicas_of(key)[0] == 0)
    value = records(cluster.nodes[0])[key].value
    folder = await cluster.end(2)
    folder.damaged[key] = "its checksum is wrong"
    node = await cluster.begin(2, folder)
    await recovered(node)
    cluster.network.treat(Fate.SILENT, Prepare, source=2)
    assert isinstance(await cluster.ask(2, Read(key, value=True)), Unfit)
    read = await cluster.get(2, key, level=Level.EVENTUAL)
    assert isinstance(read, Found)
    assert read.record is not None
    assert read.record.value == value
    assert "n2" not in read.replicas
    assert isinstance(await cluster.put(2, key, b"without it"), Written)
    cluster.network.heal()
    await until(lambda: key not in node.replica.damaged)
    held = await cluster.ask(2, Read(key, value=True))
    assert isinstance(held, Held)
    assert held.record is not None
    assert held.record.value == b"without it"
    assert folder.damaged == {}
    await asyncio.sleep(A_WHILE_S)
    assert_equal(cluster)


async def test_a_record_that_rots_unread_is_found_by_the_scrub() -> None:
    cluster = await filled()
    node, key = cluster.nodes[2], KEYS[5]
    node.engine.damage(key, "its checksum is wrong")
    await asyncio.sleep(SCRUBBED_S)
    assert node.engine.folder.damaged == {}
    assert node.replica.damaged == {}
    assert_equal(cluster)
    assert node.recollection.scrubbing.rows >= len(KEYS)


async def test_a_record_that_was_removed_is_not_taken_for_an_absence_after_a_restart() -> None:
    cluster = await filled()
    node, key = cluster.nodes[2], KEYS[5]
    cluster.network.treat(Fate.SILENT, Prepare, source=2)
    node.engine.damage(key, "its checksum is wrong")
    await asyncio.sleep(SCRUBBED_S)
    assert key not in node.engine.folder.states
    assert isinstance(await cluster.ask(2, Read(key, value=True)), Unfit)  # though it was in memory
    folder = await cluster.end(2)
    node = await cluster.begin(2, folder)
    await recovered(node)
    assert isinstance(await cluster.ask(2, Read(key, value=True)), Unfit)
    cluster.network.heal()
    await until(lambda: key in node.engine.folder.states)
    await asyncio.sleep(A_WHILE_S)
    assert_equal(cluster)
    folder = await cluster.end(2)
    node = await cluster.begin(2, folder)
    assert node.replica.damaged == {}


async def test_the_promise_that_rotted_with_a_record_is_kept() -> None:
    cluster = await filled()
    node, key = cluster.nodes[2], KEYS[5]
    older = cluster.nodes[0].ballots.tick()
    newer = cluster.nodes[1].ballots.tick(older)
    assert isinstance(await cluster.ask(2, Prepare(key, newer)), Promised)
    node.engine.damage(key, "its checksum is wrong")
    await asyncio.sleep(SCRUBBED_S)
    assert node.replica.damaged == {}
    assert isinstance(await cluster.ask(2, Accept(key, Record(older, older, False, b"x"), NONE)), Refused)


async def test_a_row_that_lost_its_key_sends_the_whole_node_into_recovery() -> None:
    cluster = await filled()
    node = cluster.nodes[2]
    states = node.engine.folder.states
    states[b"rotten"] = states.pop(KEYS[5])
    node.engine.damage(b"rotten", "its checksum is wrong")
    row = node.engine.folder.number_of(b"rotten")

    async def scrub(after: int, limit: int) -> object:
        return ScrubPage(1, [Rot(row, None, "its key has rotted")] if b"rotten" in states else [], None)

    node.engine.scrub = scrub  # type: ignore[method-assign, assignment]
    await asyncio.sleep(SCRUBBED_S)
    assert node.recollection.recovery.progress.partitions_done == cluster.topology.partitions
    assert not node.fitness.bars
    assert b"rotten" not in states
    assert records(node) == records(cluster.nodes[0])


async def test_a_folder_with_pages_that_cannot_be_read_takes_no_part_any_more() -> None:
    cluster = await filled()
    node = cluster.nodes[2]

    async def scrub(after: int, limit: int) -> object:
        return ScrubPage(1, [Rot(-1, None, "a page can't be read")], None)

    node.engine.scrub = scrub  # type: ignore[method-assign, assignment]
    await asyncio.sleep(5 * SCRUBBED_S)
    assert node.fitness.bars == Bar.RECOVERING
    assert "a page can't be read; start this node again" in node.fitness.reasons[0]
    folder = await cluster.end(2)
    with pytest.raises(FolderDamaged, match="a page can't be read"):
        await MemoryEngine(folder).open()
    await recovered(await cluster.begin(2))
    assert_equal(cluster)


async def test_a_node_that_lost_some_key_knows_it_after_a_restart() -> None:
    """Its folder is as new as anybody remembers, and the row is gone by then."""
    cluster = await filled()
    node = cluster.nodes[2]
    node.recollection.lose("the key of a row has rotted")
    cluster.network.treat(Fate.SILENT, Inventory)
    await asyncio.sleep(A_WHILE_S)
    folder = await cluster.end(2)
    node = await cluster.begin(2, folder)
    assert node.fitness.bars == Bar.RECOVERING
    cluster.network.heal()
    await recovered(node)


async def test_a_damaged_record_is_settled_above_what_it_may_have_promised() -> None:
    """Ballots run an hour ahead, which n2 has forgotten with its clock's memory when it starts again; n1 knows."""
    cluster = await filled()
    key = KEYS[5]
    ahead = ballot_of(WALL_START_MS + 3_600_000, 5, 1)
    cluster.nodes[1].ballots.absorb(ahead)
    assert isinstance(await cluster.ask(2, Prepare(key, ahead)), Promised)
    folder = await cluster.end(2)
    folder.damaged[key] = "its checksum is wrong"
    node = await cluster.begin(2, folder)
    await recovered(node)
    assert isinstance(await cluster.ask(2, Read(key, value=True)), Unfit)
    await until(lambda: key not in node.replica.damaged)
    older = ballot_of(WALL_START_MS + 3_600_000, 1, 0)
    assert isinstance(await cluster.ask(2, Accept(key, Record(older, older, False, b"x"), NONE)), Refused)


async def test_what_recovers_keeps_the_promises_that_it_gave_for_the_whole_partition_meanwhile() -> None:
    cluster = await filled()
    node, key = cluster.nodes[2], KEYS[5]
    cluster.network.treat(Fate.SILENT, Prepare, source=2)
    node.engine.damage(key, "its checksum is wrong")
    await asyncio.sleep(SCRUBBED_S)
    promised = cluster.nodes[1].ballots.tick() + (3_600_000 << 22)
    granted = await cluster.ask(2, RaisePromise(node.trees.partition_of(key), promised))  # type: ignore[arg-type]
    assert isinstance(granted, PromiseRaised)
    node.ballots.tick()
    settled = records(cluster.nodes[0])[key]
    await node.commits.wait(await node.replica.restore({key: settled}, settled.ballot + 1))
    older = promised - 1024
    assert isinstance(await cluster.ask(2, Accept(key, Record(older, older, False, b"x"), NONE)), Refused)


async def test_an_answer_to_a_question_from_before_the_bar_says_too_little() -> None:
    """n0 said what ballots it knew of; then n2 promised a newer one; then n2 was found to have lost its memory."""
    cluster = await form_cluster()
    recovery = cluster.nodes[2].recollection.recovery
    cluster.network.treat(Fate.SILENT, Heartbeat, source=2)
    asked_s = asyncio.get_running_loop().time()
    await asyncio.sleep(A_WHILE_S)
    cluster.nodes[2].recollection.lose("some reason")
    for slot in (0, 1):
        recovery.heard(slot, 1, asked_s)
    await asyncio.sleep(A_WHILE_S)
    assert cluster.nodes[2].fitness.bars == Bar.RECOVERING
    cluster.network.heal()
    await recovered(cluster.nodes[2])


async def test_a_listing_leaves_a_node_that_recovers_out() -> None:
    cluster = await filled()
    cluster.network.treat(Fate.SILENT, Inventory)
    node = await wiped(cluster, 2)
    await until(lambda: node.fitness.bars == Bar.RECOVERING)
    assert isinstance(await cluster.ask(2, Scan(b"", None, 10, values=False)), Unfit)  # type: ignore[arg-type]
    page = await cluster.page(2, b"key-1")
    assert isinstance(page, Listed)
    assert b"key-11" in {entry.key for entry in page.entries}


async def test_a_row_that_is_written_anew_at_this_moment_is_left_to_that() -> None:
    cluster = await filled()
    node, key = cluster.nodes[2], KEYS[5]
    node.engine.damage(key, "its checksum is wrong")
    node.disk.clear()
    accepting = asyncio.create_task(cluster.ask(2, Prepare(key, cluster.nodes[1].ballots.tick())))
    await asyncio.sleep(A_WHILE_S)
    await node.recollection.scrubbing.sweep()
    assert node.replica.damaged == {}
    node.disk.set()
    assert isinstance(await accepting, Promised)
    await node.recollection.scrubbing.sweep()
    assert node.engine.folder.damaged == {}
