"""Deleting for good on three nodes and virtual time: what goes, what holds it back, and that nothing comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random

import pytest

from cluster.levels import Level
from cluster.protocol.changes import Merge
from cluster.protocol.messages import Accept, Accepted, Forward, Forwarded, Prepare, Refused, Settled, Unfit
from cluster.protocol.repair_messages import Confirm, Gate, Gated, Purge, Purged
from cluster.repair.floors.criterion import DEADLINE_S, shortest_purge_after_s
from cluster.repair.floors.loop import PASS_S, PURGE_AFTER_S
from cluster.replica.gates import GATE_S
from cluster.replica.replica import PURGE_KEYS
from cluster.requests import Found, Written
from kvstore.http.incoming.parameters import TIMEOUT_S_MAX
from storage.ballot import NONE, ballot_of, unix_ms_of
from storage.engine import Damaged
from storage.record import Record, ReplicaState
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


async def test_an_expired_value_goes_like_a_deletion() -> None:
    cluster = await form_cluster()
    ballot = cluster.nodes[0].ballots.tick()
    record = Record(ballot, ballot, False, b"short-lived", expires_at_ms=cluster.nodes[0].ballots.now_ms() + 60_000)
    for slot in range(3):
        await cluster.ask(slot, Accept(b"key", record, NONE))
    await asyncio.sleep(PURGE_AFTER_S + 2 * PASS_S)
    assert held(cluster, b"key") == [True] * 3  # expired for two minutes only
    await asyncio.sleep(60 + 2 * PASS_S)
    assert held(cluster, b"key") == [False] * 3


async def test_a_fence_outlives_its_key() -> None:
    cluster = await form_cluster()
    ballot = cluster.nodes[0].ballots.tick()
    for slot in range(3):
        await cluster.ask(slot, Accept(b"key", Record(ballot, ballot, False, None, fences={"lock": 7}), NONE))
    await asyncio.sleep(LONG_AFTER_S)
    assert held(cluster, b"key") == [True] * 3


async def test_many_deletions_go_in_more_than_one_transaction() -> None:
    cluster = await form_cluster()
    ballot = cluster.nodes[0].ballots.tick()
    keys = [b"many-%d" % number for number in range(10_000)]
    mine = [key for key in keys if partition_of(cluster, key) == 0]
    assert len(mine) > 2 * PURGE_KEYS
    for key in mine:
        for slot in range(3):
            await cluster.ask(slot, Accept(key, Record(ballot, ballot, False, None), NONE))
    await asyncio.sleep(LONG_AFTER_S)
    assert not any(held(cluster, key) != [False] * 3 for key in mine)
    assert {node.trees.root(0) for node in cluster.nodes} == {0}
    assert all(node.replica.peek(key) is None for node in cluster.nodes for key in mine)


# -- what arrives late ----------------------------------------------------------------------------------------------


LATE: dict[str, Callable[[Record], Accept]] = {
    "a strong accept": lambda old: Accept(b"key", old, NONE),
    "one that asks for the next ballot": lambda old: Accept(b"key", old, old.ballot + (1 << 10)),
    "a weak accept": lambda old: Accept(b"key", Record(old.ballot, old.origin, True, b"old"), NONE),
    "a weak accept that yields": lambda old: Accept(b"key", Record(old.ballot, old.origin, True, b"old"), NONE, True),
}


@pytest.mark.parametrize("kind", LATE)
async def test_what_is_older_than_the_deletion_comes_too_late(kind: str) -> None:
    """Repair by reads, anti-entropy and hints send one of these."""
    cluster = await form_cluster()
    old, _ = await purged_key(cluster)
    for slot in range(3):
        reply = await cluster.ask(slot, LATE[kind](old))
        assert isinstance(reply, Refused)
        assert reply.weak  # to a weak write that says: superseded
        assert reply.origin > old.origin
    assert await is_absent(cluster, b"key")
    assert held(cluster, b"key") == [False] * 3


async def test_what_is_older_stays_away_over_a_restart() -> None:
    cluster = await form_cluster()
    old, _ = await purged_key(cluster)
    await cluster.restart_all()
    for slot in range(3):
        assert isinstance(await cluster.ask(slot, Accept(b"key", old, NONE)), Refused)
    assert await is_absent(cluster, b"key")


async def test_a_record_kept_aside_that_is_older_is_forgotten_and_not_merged() -> None:
    """As when the folder of a node that owed it comes back from a copy."""
    cluster = await form_cluster()
    old, _ = await purged_key(cluster)
    weak = Record(old.ballot, old.origin, True, b"old")
    for node in cluster.nodes:
        node.replica.keep_aside(b"key", weak, lambda: None)
    await asyncio.sleep(3)
    assert [len(node.merge_back) for node in cluster.nodes] == [0] * 3
    assert await is_absent(cluster, b"key")


async def test_a_hint_that_is_older_is_done_with_and_changes_nothing() -> None:
    cluster = await form_cluster()
    old, _ = await purged_key(cluster)
    hints = cluster.nodes[0].hints
    weak = Record(old.ballot, old.origin, True, b"old")
    assert hints.add(b"key", weak, (1, 2), False, lambda: None)
    await until(lambda: len(hints) == 0)
    assert await is_absent(cluster, b"key")
    assert held(cluster, b"key") == [False] * 3


async def test_a_merge_that_was_handed_over_long_ago_settles_on_the_deletion() -> None:
    cluster = await form_cluster()
    old, _ = await purged_key(cluster)
    weak = Record(old.ballot, old.origin, True, b"old")
    for slot in range(3):
        reply = await cluster.ask(slot, Forward(b"key", Merge(weak), 2, 5_000))
        assert isinstance(reply, Forwarded)
        assert isinstance(reply.outcome, Settled)
        assert reply.outcome.record is None
    assert await is_absent(cluster, b"key")


async def test_a_floor_never_stands_against_a_record() -> None:
    """Only one replica holds it; the others say that the key is deleted for good up to before it."""
    cluster = await form_cluster()
    await purged_key(cluster)
    record = await cluster.leave_unsettled(1, b"key", b"new")
    cluster.network.cut_off(2)  # or two of three that hold nothing would be answer enough
    read = await cluster.get(0, b"key")
    assert isinstance(read, Found)
    assert read.record is not None
    assert read.record.origin == record.origin


# -- what holds a floor back ----------------------------------------------------------------------------------------


def why(cluster: Cluster, key: bytes) -> str:
    """What the leader of the key's partition says."""
    said = [node.floors.held_back_by.get(partition_of(cluster, key)) for node in cluster.nodes]
    return next(reason for reason in said if reason is not None)


async def test_a_member_that_is_away_holds_it_back_and_catches_up() -> None:
    cluster = await form_cluster(anti_entropy_interval_s=5.0)
    await put(cluster, 0, b"key", b"old")
    cluster.network.cut_off(2)
    assert isinstance(await cluster.put(0, b"key", None), Written)
    await asyncio.sleep(LONG_AFTER_S)
    assert held(cluster, b"key") == [True] * 3
    assert "n2" in why(cluster, b"key")
    cluster.network.rejoin(2)
    await asyncio.sleep(4 * PASS_S)
    assert held(cluster, b"key") == [False] * 3
    assert await is_absent(cluster, b"key")


async def test_a_member_that_holds_no_replica_holds_it_back_too() -> None:
    """It may keep a weak write aside that is as old."""
    cluster = await form_cluster(4)
    key = cluster.key_without(3)
    await put(cluster, 3, key, b"old")
    await delete(cluster, 3, key)
    cluster.network.cut_off(3)
    await asyncio.sleep(LONG_AFTER_S)
    assert key in cluster.nodes[0].engine.folder.states
    assert "n3" in why(cluster, key)
    cluster.network.rejoin(3)
    await asyncio.sleep(2 * PASS_S)
    assert key not in cluster.nodes[0].engine.folder.states


async def test_a_replica_that_merely_missed_a_value_holds_it_back() -> None:
    """With that floor its absence would outvote the value, and a weak write that only the third one took be lost."""
    cluster = await form_cluster()
    key, other = b"key", b"other"
    while partition_of(cluster, key) != partition_of(cluster, other):
        other += b"+"
    ballot = cluster.nodes[0].ballots.tick()
    await cluster.ask(2, Accept(other, Record(ballot, ballot, True, b"acknowledged"), NONE))
    await put(cluster, 0, key, b"old")
    await delete(cluster, 0, key)
    await asyncio.sleep(LONG_AFTER_S)
    assert held(cluster, key) == [True] * 3
    assert floors(cluster, key) == [NONE] * 3
    assert "differs in 1 key" in why(cluster, key)
    read = await cluster.get(0, other)
    assert isinstance(read, Found)
    await cluster.get(0, other, needed=3)  # brings them together
    await asyncio.sleep(3 * PASS_S)
    assert held(cluster, key) == [False] * 3
    assert cluster.values_on_disk(other) == [b"acknowledged"] * 3


async def test_a_weak_write_that_lies_aside_holds_it_back_until_it_is_merged() -> None:
    cluster = await form_cluster()
    await put(cluster, 0, b"key", b"old")
    await delete(cluster, 0, b"key")
    ballot = cluster.nodes[1].ballots.tick()
    cluster.network.treat(Fate.SILENT, Forward)
    cluster.network.treat(Fate.SILENT, Prepare)
    cluster.nodes[1].replica.keep_aside(b"key", Record(ballot, ballot, True, b"acknowledged"), lambda: None)
    await asyncio.sleep(LONG_AFTER_S)
    assert held(cluster, b"key") == [True] * 3
    assert "merged back" in why(cluster, b"key")
    cluster.network.heal()
    await asyncio.sleep(3 * PASS_S)
    assert cluster.values_on_disk(b"key") == [b"acknowledged"] * 3


async def test_a_hint_holds_it_back() -> None:
    cluster = await form_cluster()
    await put(cluster, 0, b"key", b"old")
    await delete(cluster, 0, b"key")
    hints = cluster.nodes[1].hints
    ballot = cluster.nodes[1].ballots.tick()
    cluster.network.treat(Fate.SILENT, Accept)
    assert hints.add(b"key", Record(ballot, ballot, True, b"hinted"), (0, 2), True, lambda: None)
    await asyncio.sleep(LONG_AFTER_S)
    assert held(cluster, b"key") == [True] * 3
    assert "hint" in why(cluster, b"key")


# -- gates ----------------------------------------------------------------------------------------------------------


async def sealed(cluster: Cluster, key: bytes) -> int:
    """All members have confirmed this floor; nobody has purged."""
    partition, floor = partition_of(cluster, key), old_floor(cluster)
    for request in (Gate(partition, floor), Confirm(partition, floor)):
        for slot in range(3):
            answer = await cluster.ask(slot, request)
            assert isinstance(answer, Gated)
            assert answer.is_clear, answer.reason
    return floor


async def deleted_key(cluster: Cluster, key: bytes = b"key") -> None:
    await put(cluster, 0, key, b"old")
    await delete(cluster, 0, key)
    await asyncio.sleep(PURGE_AFTER_S - PASS_S)
    for node in cluster.nodes:
        node.floors.pass_over = _nothing  # type: ignore[method-assign]  # from here on the test raises floors
    await asyncio.sleep(4 * PASS_S)


async def _nothing() -> None:
    pass


async def test_a_write_as_old_as_a_gate_breaks_it() -> None:
    """It may be a deletion, and another replica hold the value still."""
    cluster = await form_cluster()
    early = cluster.nodes[1].ballots.tick()
    await deleted_key(cluster)
    partition, floor = partition_of(cluster, b"key"), old_floor(cluster)
    other = b"other"
    while partition_of(cluster, other) != partition:
        other += b"+"
    assert isinstance(await cluster.ask(1, Gate(partition, floor)), Gated)
    assert isinstance(await cluster.ask(1, Accept(other, Record(early, early, False, None), NONE)), Accepted)
    answer = await cluster.ask(1, Confirm(partition, floor))
    assert isinstance(answer, Gated)
    assert not answer.is_clear
    assert isinstance(await cluster.ask(1, Purge(partition, floor)), Unfit)


async def test_a_newer_write_breaks_nothing() -> None:
    cluster = await form_cluster()
    await deleted_key(cluster)
    partition, floor = partition_of(cluster, b"key"), old_floor(cluster)
    await cluster.ask(1, Gate(partition, floor))
    await put(cluster, 0, b"key", b"new")
    answer = await cluster.ask(1, Confirm(partition, floor))
    assert isinstance(answer, Gated)
    assert answer.is_clear, answer.reason
    assert isinstance(await cluster.ask(1, Purge(partition, floor)), Purged)
    assert cluster.values_on_disk(b"key") == [b"new"] * 3


async def test_what_is_kept_aside_after_a_gate_breaks_it() -> None:
    cluster = await form_cluster()
    early = cluster.nodes[1].ballots.tick()
    await deleted_key(cluster)
    partition, floor = partition_of(cluster, b"key"), old_floor(cluster)
    await cluster.ask(1, Gate(partition, floor))
    cluster.nodes[1].replica.keep_aside(b"key", Record(early, early, True, b"weak"), lambda: None)
    await until(lambda: len(cluster.nodes[1].merge_back) == 0)  # superseded by the deletion, and gone again
    answer = await cluster.ask(1, Confirm(partition, floor))
    assert isinstance(answer, Gated)
    assert not answer.is_clear


async def test_once_sealed_a_replica_refuses_what_is_as_old_for_any_key() -> None:
    """The others may have the floor already: with it they count a weak write as superseded that this one would take."""
    cluster = await form_cluster()
    early = cluster.nodes[1].ballots.tick()
    await deleted_key(cluster)
    floor = await sealed(cluster, b"key")
    other = b"other"
    while partition_of(cluster, other) != partition_of(cluster, b"key"):
        other += b"+"
    reply = await cluster.ask(1, Accept(other, Record(early, early, True, b"late"), NONE))
    assert isinstance(reply, Refused)
    assert reply.promised >= floor
    assert isinstance(
        await cluster.ask(1, Accept(other, Record(floor + (1 << 22), floor, True, b"new"), NONE)), Accepted
    )


async def test_a_purge_that_comes_twice_does_nothing_the_second_time() -> None:
    """Between the two a late deletion may have come, which is not on all replicas."""
    cluster = await form_cluster()
    await put(cluster, 0, b"other", b"value")
    early = cluster.nodes[1].ballots.tick()
    await deleted_key(cluster, b"other2")
    key = b"key"
    partition, floor = partition_of(cluster, key), await sealed(cluster, key)
    assert isinstance(await cluster.ask(1, Purge(partition, floor)), Purged)
    assert isinstance(await cluster.ask(1, Purge(partition, floor)), Unfit)
    assert early < floor


async def test_the_later_of_two_gates_takes_the_place_of_the_other() -> None:
    cluster = await form_cluster()
    await deleted_key(cluster)
    partition, first, second = partition_of(cluster, b"key"), old_floor(cluster, 0), old_floor(cluster, 1)
    assert first != second
    for floor in (first, second):
        await cluster.ask(2, Gate(partition, floor))
    answers = [await cluster.ask(2, Confirm(partition, floor)) for floor in (first, second)]
    assert [isinstance(answer, Gated) and answer.is_clear for answer in answers] == [False, True]


async def test_a_member_that_restarts_has_lost_its_gate_and_its_right_to_purge() -> None:
    cluster = await form_cluster()
    await deleted_key(cluster)
    partition = partition_of(cluster, b"key")
    floor = await sealed(cluster, b"key")
    folder = await cluster.end(1)
    node = await cluster.begin(1, folder)
    await until(lambda: not node.fitness.bars)
    assert isinstance(await cluster.ask(1, Purge(partition, floor)), Unfit)
    answer = await cluster.ask(1, Confirm(partition, floor))
    assert isinstance(answer, Gated)
    assert not answer.is_clear


async def test_a_leader_that_dies_half_way_leaves_nothing_that_stays_so() -> None:
    """One replica has purged. The others hear of its floor, and do as they were about to be told."""
    cluster = await form_cluster(anti_entropy_interval_s=5.0)
    await deleted_key(cluster)
    partition = partition_of(cluster, b"key")
    floor = await sealed(cluster, b"key")
    assert isinstance(await cluster.ask(1, Purge(partition, floor)), Purged)
    assert held(cluster, b"key") == [True, False, True]
    await asyncio.sleep(20)
    assert held(cluster, b"key") == [False] * 3
    assert floors(cluster, b"key") == [floor] * 3


async def test_a_replica_that_restarts_before_it_could_purge_does_so_with_the_next_floor() -> None:
    cluster = await form_cluster(anti_entropy_interval_s=5.0)
    passes = [node.floors.pass_over for node in cluster.nodes]
    await deleted_key(cluster)
    partition = partition_of(cluster, b"key")
    floor = await sealed(cluster, b"key")
    for slot in (0, 1):
        assert isinstance(await cluster.ask(slot, Purge(partition, floor)), Purged)
    folder = await cluster.end(2)
    node = await cluster.begin(2, folder)
    await until(lambda: not node.fitness.bars)
    await asyncio.sleep(20)
    assert floors(cluster, b"key") == [floor] * 3
    assert held(cluster, b"key") == [False, False, True]  # it does not know any more what was compared
    for number, pass_over in enumerate(passes[:2]):
        cluster.nodes[number].floors._passes = 29
        cluster.nodes[number].floors.pass_over = pass_over  # type: ignore[method-assign]
    await asyncio.sleep(3 * PASS_S)
    assert held(cluster, b"key") == [False] * 3


async def test_a_gate_is_answered_once_no_ballot_below_it_can_be_given_out_any_more() -> None:
    """Not even after a crash: the ceiling of its clock is on disk by then."""
    cluster = await form_cluster()
    node = cluster.nodes[1]
    await asyncio.sleep(10)
    ahead = ballot_of(node.ballots.now_ms() - 1, 0, 0)
    assert isinstance(await cluster.ask(1, Gate(0, ahead)), Gated)
    assert node.ballots.tick() > ahead
    assert int(node.engine.folder.facts["clock_ceiling_ms"]) > unix_ms_of(ahead)


async def test_a_floor_ahead_of_the_clock_is_none() -> None:
    cluster = await form_cluster()
    ahead = ballot_of(cluster.nodes[1].ballots.now_ms() + 10_000, 0, 0)
    for request in (Gate(0, ahead), Confirm(0, ahead), Purge(0, ahead), Gate(99, old_floor(cluster))):
        assert isinstance(await cluster.ask(1, request), Unfit)


def test_a_deletion_is_never_purged_while_a_request_of_its_time_may_run() -> None:
    assert DEADLINE_S == TIMEOUT_S_MAX
    assert shortest_purge_after_s(5.0) <= PURGE_AFTER_S


async def test_a_value_that_is_written_while_its_tombstone_is_being_purged_stays() -> None:
    cluster = await form_cluster()
    await deleted_key(cluster)
    partition, node = partition_of(cluster, b"key"), cluster.nodes[1]
    floor = await sealed(cluster, b"key")
    load = node.engine.load

    async def and_meanwhile(keys: Sequence[bytes]) -> dict[bytes, ReplicaState | Damaged]:
        node.engine.load = load  # type: ignore[method-assign]
        found = await load(keys)
        assert b"key" in found
        ballot = node.ballots.tick()
        assert isinstance(await cluster.ask(1, Accept(b"key", Record(ballot, ballot, False, b"new"), NONE)), Accepted)
        node.replica._cache.remove(b"key")  # as when other keys were asked for meanwhile
        return found

    node.engine.load = and_meanwhile  # type: ignore[method-assign]
    reply = await cluster.ask(1, Purge(partition, floor))
    assert isinstance(reply, Purged)
    state = node.engine.folder.states[b"key"]
    assert state.record is not None
    assert state.record.value == b"new"


async def test_an_old_write_under_a_newer_ballot_is_still_old() -> None:
    """A weak write that was merged lately: replicas without it would call it superseded, with that floor."""
    cluster = await form_cluster()
    early = cluster.nodes[1].ballots.tick()
    await put(cluster, 0, b"key", b"old")
    await delete(cluster, 0, b"key")
    await asyncio.sleep(PURGE_AFTER_S - PASS_S)
    other = b"other"
    while partition_of(cluster, other) != partition_of(cluster, b"key"):
        other += b"+"
    merged = Record(cluster.nodes[1].ballots.tick(), early, True, b"acknowledged")
    await cluster.ask(2, Accept(other, merged, NONE))
    await asyncio.sleep(5 * PASS_S)
    assert held(cluster, b"key") == [True] * 3
    assert "differs in 1 key" in why(cluster, b"key")


async def test_a_gate_that_nobody_comes_back_to_is_taken_down() -> None:
    cluster = await form_cluster()
    await asyncio.sleep(PURGE_AFTER_S)
    floor = old_floor(cluster)
    await cluster.ask(1, Gate(0, floor))
    await asyncio.sleep(GATE_S + 1)
    await cluster.ask(1, Gate(1, floor))
    answers = [await cluster.ask(1, Confirm(partition, floor)) for partition in (0, 1)]
    assert [isinstance(answer, Gated) and answer.is_clear for answer in answers] == [False, True]


async def test_what_a_recovery_puts_in_ends_the_right_to_purge() -> None:
    """It did not come by an accept, so no seal has looked at it."""
    cluster = await form_cluster()
    await deleted_key(cluster)
    floor, node = await sealed(cluster, b"key"), cluster.nodes[1]
    await node.replica.restore({b"key": None}, node.ballots.tick())
    assert isinstance(await cluster.ask(1, Purge(partition_of(cluster, b"key"), floor)), Unfit)


async def test_a_damaged_record_holds_a_floor_back() -> None:
    cluster = await form_cluster()
    await deleted_key(cluster)
    cluster.nodes[1].replica.exclude(b"key", "it has rotted")
    answer = await cluster.ask(1, Gate(partition_of(cluster, b"key"), old_floor(cluster)))
    assert isinstance(answer, Gated)
    assert not answer.is_clear


async def test_an_old_copy_of_a_folder_brings_nothing_back() -> None:
    """Its node remembers the value and not the deletion. It is known to have forgotten, and learns the floor."""
    cluster = await form_cluster(anti_entropy_interval_s=5.0)
    await put(cluster, 0, b"key", b"old")
    copy = deepcopy(cluster.nodes[1].engine.folder)
    copy.in_use = False
    await delete(cluster, 0, b"key")
    await asyncio.sleep(LONG_AFTER_S)
    assert held(cluster, b"key") == [False] * 3
    await cluster.end(1)
    node = await cluster.begin(1, copy)
    await until(lambda: not node.fitness.bars, 120)
    assert held(cluster, b"key") == [False] * 3
    assert len(set(floors(cluster, b"key"))) == 1
    assert await is_absent(cluster, b"key")


async def test_a_paused_member_holds_a_floor_back_though_it_seems_alive() -> None:
    cluster = await form_cluster()
    await put(cluster, 0, b"key", b"old")
    await delete(cluster, 0, b"key")
    await asyncio.sleep(PURGE_AFTER_S - PASS_S)
    cluster.network.treat(Fate.SILENT, Gate, Confirm, Purge, target=2)
    await asyncio.sleep(5 * PASS_S)
    assert held(cluster, b"key") == [True] * 3
    if cluster.topology.replica_slots[partition_of(cluster, b"key")][0] != 2:
        assert "n2 did not answer" in why(cluster, b"key")
    cluster.network.heal()
    await asyncio.sleep(3 * PASS_S)
    assert held(cluster, b"key") == [False] * 3


async def test_a_purge_that_one_replica_never_hears_of_reaches_it_by_its_roots() -> None:
    cluster = await form_cluster(anti_entropy_interval_s=5.0)
    key = cluster.key_led_by(0)
    await put(cluster, 0, key, b"old")
    await delete(cluster, 0, key)
    cluster.network.treat(Fate.LOST, Purge, target=2)
    await asyncio.sleep(LONG_AFTER_S)
    assert held(cluster, key) == [False] * 3
    assert len(roots(cluster, key)) == 1
    assert not any(node.replica.gates.are_any for node in cluster.nodes)


async def test_deleting_over_and_over_leaves_nothing() -> None:
    """Tombstones, weak and strong, values between them, and reads that meet replicas in the midst of a purge."""
    cluster = await form_cluster(anti_entropy_interval_s=5.0)
    chance, keys = Random(7), [b"key-%d" % number for number in range(40)]
    for _ in range(300):
        key, at = chance.choice(keys), chance.randrange(3)
        level = chance.choice(list(Level))
        if chance.random() < 0.3:
            assert isinstance(await cluster.get(at, key, level=level), Found)
        else:
            value = chance.choice((None, b"value"))
            assert isinstance(await cluster.put(at, key, value, level=level), Written)
        await asyncio.sleep(chance.random() * 4)
    for key in keys:
        await delete(cluster, 0, key)
    for _ in range(60):
        assert isinstance(await cluster.get(chance.randrange(3), chance.choice(keys)), Found)
        await asyncio.sleep(10)
    await until(lambda: not any(any(held(cluster, key)) for key in keys), 600)
    assert {node.trees.root(partition) for node in cluster.nodes for partition in range(8)} == {0}
