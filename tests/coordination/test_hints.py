"""Hinted handoff: what a home replica missed reaches it when it returns, with nobody reading.

Anti-entropy would bring all of it, too, so its messages are lost here.
"""

from __future__ import annotations

import asyncio

import pytest

from cluster.ballot_clock import BALLOT_MS_SHIFT
from cluster.coordination.writing.primary import OnOutcome
from cluster.coordination.writing.weak_writing import HINT_AFTER_S
from cluster.levels import Level
from cluster.membership.fitness import Bar
from cluster.protocol.changes import Change
from cluster.protocol.messages import Accept, Answer, Prepare, Promised, Request, Unfit
from cluster.protocol.repair_messages import CompareRoots, Inventory, RepairPartition
from cluster.repair import hints as hints_module
from cluster.repair.hints import ANSWER_S, IN_FLIGHT, INTERVAL_S, RATE_PER_S, size_of
from cluster.replica.replica import Respond
from cluster.requests import Found, Overloaded, Unavailable, Unknown, WriteOutcome, Written
from storage.record import Record
from tests.coordination.three_nodes import GRACE_S, MANY_KEYS, Cluster, Fate, Node, form_cluster

KEY = b"key"
REPLAYED_S = 4 * INTERVAL_S
"""By then whoever has returned has been noticed and sent what waits for it, if that is not much."""
ONE_HOUR = 3_600_000 << BALLOT_MS_SHIFT


def without_anti_entropy(cluster: Cluster) -> None:
    cluster.network.treat(Fate.LOST, CompareRoots, RepairPartition, Inventory)


async def without(*slots: int, count: int = 3) -> Cluster:
    """A cluster in which these nodes are gone, and everybody knows it."""
    cluster = await form_cluster(count)
    await asyncio.sleep(1)
    leave(cluster, *slots)
    return cluster


def leave(cluster: Cluster, *slots: int) -> None:
    for slot in slots:
        cluster.network.cut_off(slot)
    without_anti_entropy(cluster)


def come_back(cluster: Cluster) -> None:
    """All links work again, and still nobody compares replicas."""
    cluster.network.heal()
    without_anti_entropy(cluster)


def outsider_of(cluster: Cluster, key: bytes) -> int:
    """A node that holds no replica of the key."""
    return next(node.slot for node in cluster.nodes if node.slot not in cluster.topology.replicas_of(key))


def held(node: Node, key: bytes = KEY) -> Record | None:
    """What the node has on its disk."""
    state = node.engine.folder.states.get(key)
    return state.record if state is not None else None


def hints_of(node: Node) -> list[tuple[bytes, bytes | None, tuple[int, ...], bool]]:
    """(key, value, targets, sole) of the hints on its disk, in order."""
    folder = node.engine.folder
    assert len(node.hints) == len(folder.hints)
    return [
        (hint.key, hint.record.value, hint.targets, hint.sole) for hint in map(folder.hints.get, sorted(folder.hints))
        if hint is not None
    ]  # fmt: skip


async def promise_to_others(cluster: Cluster, key: bytes) -> None:
    """All replicas of the key have promised a ballot an hour ahead to somebody who has died."""
    for slot in cluster.topology.replicas_of(key):
        await cluster.ask(slot, Prepare(key, cluster.nodes[slot].ballots.tick() + ONE_HOUR))


def hinted(outcome: WriteOutcome) -> Written:
    """The outcome, which must be that of a write with a hint."""
    assert isinstance(outcome, Written), outcome
    assert outcome.hinted
    return outcome


class Accepts:
    """Records the accepts that reach a node, and how many of them wait for their answer; may turn some keys away."""

    def __init__(self, node: Node, unfit_for: set[bytes] | None = None) -> None:
        self.unfit_for = unfit_for or set()
        self.seen: list[tuple[bytes, bytes | None]] = []
        self.at_s: list[float] = []
        self.unanswered = self.most_at_once = 0
        self._handle = node.on_request
        node.on_request = self._record  # type: ignore[method-assign]

    def _record(self, request: Request, age_ms: int, respond: Respond, token: int) -> None:
        if not isinstance(request, Accept):
            self._handle(request, age_ms, respond, token)
            return
        if request.key in self.unfit_for:
            respond(token, Unfit("for a test"))
            return
        self.seen.append((request.key, request.record.value))
        self.at_s.append(asyncio.get_running_loop().time())
        self.unanswered += 1
        self.most_at_once = max(self.most_at_once, self.unanswered)

        def answered(token: int, answer: Answer) -> None:
            self.unanswered -= 1
            respond(token, answer)  # type: ignore[arg-type]

        self._handle(request, age_ms, answered, token)


# -- what leaves a hint ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [Level.WEAK, Level.EVENTUAL])
async def test_a_dead_replica_gets_what_it_missed_when_it_returns(level: Level) -> None:
    cluster = await without(2)
    written = hinted(await cluster.put(0, KEY, b"value", level=level, needed=2))
    assert (written.acks, written.replicas) == (2, ("n0", "n1"))
    assert hints_of(cluster.nodes[0]) == [(KEY, b"value", (2,), False)]
    await asyncio.sleep(REPLAYED_S)
    assert held(cluster.nodes[2]) is None
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert {held(node) for node in cluster.nodes} == {Record(written.version, written.version, True, b"value")}
    assert hints_of(cluster.nodes[0]) == []
    assert cluster.nodes[0].hints.size_bytes == 0


async def test_a_deletion_leaves_a_hint_too() -> None:
    cluster = await form_cluster()
    await cluster.put(0, KEY, b"value", level=Level.WEAK, needed=3)
    leave(cluster, 2)
    hinted(await cluster.put(0, KEY, None, level=Level.WEAK))  # type: ignore[arg-type]  # None deletes
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    record = held(cluster.nodes[2])
    assert record is not None
    assert record.value is None


@pytest.mark.parametrize("fate", [Fate.DELIVERED, Fate.SILENT])
async def test_a_replica_that_is_well_or_merely_slow_is_left_no_hint(fate: Fate) -> None:
    """Its accept is on its way; anti-entropy sees to the rest."""
    cluster = await form_cluster()
    cluster.network.treat(fate, Accept, target=2)
    for level in (Level.WEAK, Level.EVENTUAL, Level.STRONG):
        written = await cluster.put(0, KEY, b"value", level=level)
        assert isinstance(written, Written)
        assert not written.hinted
    assert hints_of(cluster.nodes[0]) == []


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNSENT])
async def test_a_replica_that_seems_alive_and_to_which_the_link_broke_is_left_a_hint(fate: Fate) -> None:
    cluster = await form_cluster()
    cluster.network.treat(fate, Accept, target=2)
    hinted(await cluster.put(0, KEY, b"value", level=Level.WEAK))
    assert hints_of(cluster.nodes[0]) == [(KEY, b"value", (2,), False)]


async def test_a_replica_that_is_alive_and_takes_no_writes_is_left_a_hint() -> None:
    cluster = await form_cluster()
    cluster.nodes[2].engine.folder.bytes_free = 0
    await asyncio.sleep(2)
    hinted(await cluster.put(0, KEY, b"value", level=Level.WEAK))
    assert hints_of(cluster.nodes[0]) == [(KEY, b"value", (2,), False)]
    cluster.nodes[2].engine.folder.bytes_free = 1 << 40
    await asyncio.sleep(2 + REPLAYED_S)
    assert cluster.values_on_disk(KEY) == [b"value"] * 3


async def test_the_hint_is_on_disk_before_the_answer_leaves() -> None:
    cluster = await form_cluster()
    outsider = cluster.nodes[0]
    await cluster.put(0, b"another", b"x", level=Level.WEAK)  # its clock's ceiling is on disk
    leave(cluster, 2)
    outsider.disk.clear()
    writing = asyncio.create_task(cluster.put(0, KEY, b"value", level=Level.WEAK))
    await asyncio.sleep(1)
    assert held(cluster.nodes[1]) is not None, "enough have it"
    assert not writing.done()
    outsider.disk.set()
    hinted(await writing)
    assert hints_of(outsider) == [(KEY, b"value", (2,), False)]


async def test_a_stalled_disk_holds_up_nobody_beyond_the_deadline() -> None:
    """Enough replicas have it, so it is written; that it is hinted can't be said."""
    cluster = await form_cluster()
    await cluster.put(0, b"another", b"x", level=Level.WEAK)
    leave(cluster, 2)
    cluster.nodes[0].disk.clear()
    written = await cluster.put(0, KEY, b"value", level=Level.WEAK, timeout_s=1)
    assert isinstance(written, Written)
    assert (written.replicas, written.hinted) == (("n1",), False)
    cluster.nodes[0].disk.set()


@pytest.mark.parametrize("level", [Level.WEAK, Level.EVENTUAL])
async def test_what_is_surely_not_applied_leaves_no_hint(level: Level) -> None:
    cluster = await without(1, 2)
    refused = await cluster.put(0, KEY, b"value", level=level, needed=2)
    assert isinstance(refused, Unavailable)
    come_back(cluster)
    cluster.network.treat(Fate.UNSENT, Accept)
    refused = await cluster.put(3 if len(cluster.nodes) > 3 else 0, KEY, b"value", level=level, needed=3, timeout_s=1)
    assert isinstance(refused, Unavailable | Unknown)
    assert [hints_of(node) for node in cluster.nodes] == [[], [], []]


async def test_a_weak_write_below_its_w_leaves_no_hint() -> None:
    cluster = await form_cluster()
    cluster.network.treat(Fate.LOST, Accept, target=2)
    unknown = await cluster.put(0, KEY, b"value", level=Level.WEAK, needed=3, timeout_s=1)
    assert isinstance(unknown, Unknown)
    assert hints_of(cluster.nodes[0]) == []


# -- sole hints --------------------------------------------------------------------------------------------------------


async def with_homes_down(*, count: int = 5) -> tuple[Cluster, bytes, Node]:
    """A cluster, a key whose home replicas are all gone, and a node that is none of them."""
    cluster = await form_cluster(count)
    await asyncio.sleep(1)
    leave(cluster, *cluster.topology.replicas_of(KEY))
    return cluster, KEY, cluster.nodes[outsider_of(cluster, KEY)]


async def test_an_eventual_write_needs_no_home_replica() -> None:
    cluster, key, outsider = await with_homes_down()
    homes = cluster.topology.replicas_of(key)
    written = hinted(await cluster.put(outsider.slot, key, b"value", level=Level.EVENTUAL))
    assert (written.acks, written.replicas) == (1, (f"n{outsider.slot}",))
    assert hints_of(outsider) == [(key, b"value", homes, True)]
    assert outsider.hints.soles == 1
    folder = await cluster.end(outsider.slot)
    outsider = await cluster.begin(outsider.slot, folder)
    assert hints_of(outsider) == [(key, b"value", homes, True)]
    assert outsider.hints.soles == 1
    come_back(cluster)
    await asyncio.sleep(2 * REPLAYED_S)
    assert [held(cluster.nodes[slot], key) for slot in homes] == [
        Record(written.version, written.version, True, b"value")
    ] * 3
    read = await cluster.get(homes[0], key)
    assert isinstance(read, Found)
    assert read.record is not None
    assert (read.record.value, read.record.origin) == (b"value", written.version)
    assert hints_of(outsider) == []


@pytest.mark.parametrize(("level", "needed"), [(Level.WEAK, 1), (Level.EVENTUAL, 2)])
async def test_any_other_write_needs_home_replicas(level: Level, needed: int) -> None:
    cluster, key, outsider = await with_homes_down()
    refused = await cluster.put(outsider.slot, key, b"value", level=level, needed=needed)
    assert isinstance(refused, Unavailable)
    assert hints_of(outsider) == []


@pytest.mark.parametrize("timeout_s", [5.0, 0.5])
async def test_an_eventual_write_does_not_wait_long_for_silent_replicas(timeout_s: float) -> None:
    cluster = await form_cluster(5)
    await asyncio.sleep(1)
    outsider = cluster.nodes[outsider_of(cluster, KEY)]
    cluster.network.treat(Fate.SILENT, Accept)
    began_s = asyncio.get_running_loop().time()
    hinted(await cluster.put(outsider.slot, KEY, b"value", level=Level.EVENTUAL, timeout_s=timeout_s))
    assert asyncio.get_running_loop().time() - began_s < min(HINT_AFTER_S, timeout_s / 2) + 2 * GRACE_S
    assert hints_of(outsider) == [(KEY, b"value", cluster.topology.replicas_of(KEY), True)]
    come_back(cluster)
    await asyncio.sleep(ANSWER_S + REPLAYED_S)
    assert [held(node) is not None for node in cluster.nodes].count(True) == 3


async def test_a_late_accept_and_the_hint_are_one_write() -> None:
    """The replicas take the write after it was answered for its hint, then the hint comes: same ballot, same origin."""
    cluster = await form_cluster(5)
    await asyncio.sleep(1)
    homes, outsider = cluster.topology.replicas_of(KEY), cluster.nodes[outsider_of(cluster, KEY)]
    cluster.network.treat(Fate.ANSWER_LOST, Accept, answer_after_s=2 * HINT_AFTER_S)
    written = hinted(await cluster.put(outsider.slot, KEY, b"value", level=Level.EVENTUAL))
    assert {held(cluster.nodes[slot]) for slot in homes} == {Record(written.version, written.version, True, b"value")}
    come_back(cluster)
    await asyncio.sleep(2 * REPLAYED_S)
    assert {held(cluster.nodes[slot]) for slot in homes} == {Record(written.version, written.version, True, b"value")}
    assert hints_of(outsider) == []


@pytest.mark.parametrize("bar", [Bar.RECOVERING, Bar.UNVERIFIED])
async def test_a_node_that_may_not_vote_may_keep_an_eventual_write(bar: Bar) -> None:
    """Its own replica is one of those that get it later."""
    cluster = await form_cluster()
    await asyncio.sleep(1)
    node = cluster.nodes[0]
    leave(cluster, 1, 2)
    node.fitness.bar(bar, "for a test")
    node.fitness.recovering.update(range(cluster.topology.partitions))
    hinted(await cluster.put(0, KEY, b"value", level=Level.EVENTUAL))
    assert held(node) is None
    node.fitness.clear(bar)
    node.fitness.recovering.clear()
    await asyncio.sleep(REPLAYED_S)
    assert held(node) is not None
    assert node.hints.soles == 0
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert cluster.values_on_disk(KEY) == [b"value"] * 3


async def test_a_sole_hint_on_a_stalled_disk_is_unknown_at_the_deadline() -> None:
    cluster, key, outsider = await with_homes_down()
    hinted(await cluster.put(outsider.slot, key, b"before", level=Level.EVENTUAL))  # its clock's ceiling is on disk
    outsider.disk.clear()
    unknown = await cluster.put(outsider.slot, key, b"value", level=Level.EVENTUAL, timeout_s=0.5)
    outsider.disk.set()
    assert isinstance(unknown, Unknown)
    assert unknown.version is not None
    await asyncio.sleep(1)
    assert [value for _, value, *_ in hints_of(outsider)] == [b"before", b"value"]


async def test_a_sole_hint_whose_ballot_is_not_safe_yet_is_not_applied_and_never_seen() -> None:
    """A ballot above the ceiling on disk might be given out again after a crash."""
    cluster, key, outsider = await with_homes_down()
    await asyncio.sleep(10)  # the ceiling on disk is behind
    outsider.disk.clear()
    refused = await cluster.put(outsider.slot, key, b"ghost", level=Level.EVENTUAL, timeout_s=0.5)
    outsider.disk.set()
    assert isinstance(refused, Unavailable)
    await asyncio.sleep(1)
    assert hints_of(outsider) == []


async def test_an_eventual_write_that_is_refused_and_cant_be_merged_is_kept_aside_and_acknowledged() -> None:
    """A weak one, of which the replicas did not have enough, is unknown."""
    cluster = await form_cluster(4)
    key = cluster.key_without(3)
    outsider = cluster.nodes[3]
    await promise_to_others(cluster, key)
    hand_over, outsider.context.hand_over = outsider.context.hand_over, _no_room
    assert isinstance(await cluster.put(3, key, b"weak", level=Level.WEAK, timeout_s=1), Unknown)
    await promise_to_others(cluster, key)
    written = hinted(await cluster.put(3, key, b"eventual", level=Level.EVENTUAL))
    assert (written.acks, written.replicas) == (1, ("n3",))
    assert {record.value for record in outsider.engine.folder.kept_aside.values()} == {b"weak", b"eventual"}
    assert hints_of(outsider) == []
    outsider.context.hand_over = hand_over
    await asyncio.sleep(REPLAYED_S)
    read = await cluster.get(0, key)
    assert isinstance(read, Found)
    assert read.record is not None
    assert (read.record.value, read.record.origin) == (b"eventual", written.version)
    assert outsider.engine.folder.kept_aside == {}


async def test_an_eventual_write_that_a_record_from_a_wrong_clock_may_have_beaten_is_unknown() -> None:
    """Somebody may hold it, so it can't begin anew above that record, and below it nobody would ever read it."""
    cluster = await form_cluster(4)
    key = cluster.key_without(3)
    first, *others = cluster.topology.replicas_of(key)
    ballot = cluster.nodes[first].ballots.tick() + ONE_HOUR
    for slot in others:
        await cluster.ask(slot, Accept(key, Record(ballot, ballot, True, b"afar"), 0))
    cluster.network.treat(Fate.LOST, Accept, source=3, target=first)
    outcome = await cluster.put(3, key, b"value", level=Level.EVENTUAL)
    assert isinstance(outcome, Unknown)
    assert hints_of(cluster.nodes[3]) == []


# -- replaying ---------------------------------------------------------------------------------------------------------


async def test_hints_arrive_in_the_order_in_which_they_were_kept() -> None:
    cluster = await without(2)
    keys = [b"b", b"a", KEY, b"a", b"c", KEY]
    expected = [(key, b"%d" % number) for number, key in enumerate(keys)]
    for key, value in expected:
        hinted(await cluster.put(0, key, value, level=Level.WEAK))
    accepts = Accepts(cluster.nodes[2])
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert accepts.seen == expected
    assert [held(cluster.nodes[2], key).value for key in (b"a", b"b", b"c", KEY)] == [b"3", b"0", b"4", b"5"]  # type: ignore[union-attr]
    assert hints_of(cluster.nodes[0]) == []


async def test_hints_outlive_a_restart_of_their_keeper_and_their_numbers_go_on() -> None:
    cluster = await without(2)
    for number in range(3):
        hinted(await cluster.put(0, KEY, b"%d" % number, level=Level.WEAK))
    before = set(cluster.nodes[0].engine.folder.hints)
    keeper = await cluster.begin(0, await cluster.end(0))
    leave(cluster, 2)
    await asyncio.sleep(2)
    assert (len(keeper.hints), keeper.hints.per_target()) == (3, {2: 3})
    hinted(await cluster.put(0, KEY, b"last", level=Level.WEAK))
    assert max(keeper.engine.folder.hints) > max(before)
    accepts = Accepts(cluster.nodes[2])
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert [value for _, value in accepts.seen] == [b"0", b"1", b"2", b"last"]
    assert cluster.values_on_disk(KEY) == [b"last"] * 3
    assert hints_of(keeper) == []


async def test_replaying_is_throttled() -> None:
    """A node that returns after a month is not to be buried under what it missed."""
    count = 10 * IN_FLIGHT
    cluster = await without(2)
    for number in range(count):
        hinted(await cluster.put(0, b"many/%d" % number, b"x", level=Level.WEAK))
    accepts = Accepts(cluster.nodes[2])
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S + count / RATE_PER_S)
    assert len(accepts.seen) == count
    assert accepts.most_at_once == IN_FLIGHT
    assert accepts.at_s[-1] - accepts.at_s[0] >= (count - IN_FLIGHT) / RATE_PER_S
    assert hints_of(cluster.nodes[0]) == []


async def test_a_target_that_keeps_silent_holds_up_no_other() -> None:
    cluster, key, outsider = await with_homes_down()
    silent, *others = cluster.topology.replicas_of(key)
    hinted(await cluster.put(outsider.slot, key, b"value", level=Level.EVENTUAL))
    come_back(cluster)
    cluster.network.treat(Fate.SILENT, Accept, target=silent)
    await asyncio.sleep(REPLAYED_S)
    assert [held(cluster.nodes[slot], key) is not None for slot in (silent, *others)] == [False, True, True]
    assert outsider.hints.soles == 0
    come_back(cluster)
    await asyncio.sleep(ANSWER_S + REPLAYED_S)
    assert held(cluster.nodes[silent], key) is not None
    assert hints_of(outsider) == []


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.ANSWER_LOST, Fate.UNSENT])
async def test_what_gets_no_answer_is_tried_again(fate: Fate) -> None:
    cluster = await without(2)
    for value in (b"1", b"2"):
        hinted(await cluster.put(0, KEY, value, level=Level.WEAK))
    come_back(cluster)
    cluster.network.treat(fate, Accept, target=2)
    await asyncio.sleep(REPLAYED_S)
    assert len(hints_of(cluster.nodes[0])) == 2
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert cluster.values_on_disk(KEY) == [b"2"] * 3
    assert hints_of(cluster.nodes[0]) == []


async def test_a_key_that_a_target_cant_take_now_waits_without_holding_up_others() -> None:
    cluster = await without(2)
    for key in (KEY, b"other"):
        hinted(await cluster.put(0, key, b"value", level=Level.WEAK))
    target = cluster.nodes[2]
    accepts = Accepts(target, unfit_for={KEY})
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert (held(target), held(target, b"other") is not None) == (None, True)
    assert [key for key, *_ in hints_of(cluster.nodes[0])] == [KEY]
    accepts.unfit_for.clear()
    await asyncio.sleep(REPLAYED_S)
    assert held(target) is not None
    assert hints_of(cluster.nodes[0]) == []


@pytest.mark.parametrize("found", ["at the start", "while replaying"])
async def test_a_damaged_hint_is_dropped_and_stops_no_other(found: str) -> None:
    cluster = await without(2)
    keeper = cluster.nodes[0]
    for key in (b"1", b"2", b"3"):
        hinted(await cluster.put(0, key, b"value", level=Level.WEAK))
    rotten = sorted(keeper.engine.folder.hints)[1]
    keeper.engine.folder.damaged_hints[rotten] = "damaged for a test"
    if found == "at the start":
        keeper = await cluster.begin(0, await cluster.end(0))
        assert len(keeper.hints) == 2
    come_back(cluster)
    await asyncio.sleep(2 * REPLAYED_S)
    assert [held(cluster.nodes[2], key) is not None for key in (b"1", b"2", b"3")] == [True, False, True]
    assert hints_of(keeper) == []
    assert (keeper.hints.size_bytes, keeper.hints.per_target()) == (0, {})


async def test_a_hint_that_is_superseded_is_done_with() -> None:
    """A newer weak write has reached the replica by another way."""
    cluster = await without(2)
    hinted(await cluster.put(0, KEY, b"older", level=Level.WEAK))
    come_back(cluster)
    ballot = cluster.nodes[1].ballots.tick()
    await cluster.ask(2, Accept(KEY, Record(ballot, ballot, True, b"newer"), 0))
    await asyncio.sleep(REPLAYED_S)
    assert cluster.values_on_disk(KEY)[2] == b"newer"
    assert hints_of(cluster.nodes[0]) == []
    assert cluster.nodes[0].engine.folder.kept_aside == {}
    assert len(cluster.nodes[0].merge_back) == 0


async def test_a_hint_that_a_promise_refuses_is_merged() -> None:
    cluster = await without(2)
    await cluster.ask(2, Prepare(KEY, cluster.nodes[2].ballots.tick() + ONE_HOUR))
    written = hinted(await cluster.put(0, KEY, b"value", level=Level.WEAK))
    come_back(cluster)
    await asyncio.sleep(2 * REPLAYED_S)
    read = await cluster.get(2, KEY)
    assert isinstance(read, Found)
    record = held(cluster.nodes[2])
    assert record is not None
    assert (record.value, record.origin) == (b"value", written.version)
    assert record.ballot > written.version + ONE_HOUR / 2, "no accept went past the promise"
    assert hints_of(cluster.nodes[0]) == []
    assert cluster.nodes[0].engine.folder.kept_aside == {}


async def test_a_hint_steps_back_where_a_strong_proposer_is_at_work() -> None:
    """Its ballot is above what was promised there and would do; the strong write under way would become an unknown."""
    cluster = await without(2)
    keeper, target = cluster.nodes[0], cluster.nodes[2]
    promised = keeper.ballots.tick()
    hinted(await cluster.put(0, KEY, b"value", level=Level.WEAK))
    assert isinstance(await cluster.ask(2, Prepare(KEY, promised)), Promised)
    keeper.context.hand_over = _no_room
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert held(target) is None
    assert len(keeper.engine.folder.kept_aside) == 1


async def test_a_target_that_returns_while_its_hint_is_on_its_way_to_the_disk_gets_it() -> None:
    cluster = await form_cluster()
    keeper = cluster.nodes[0]
    await cluster.put(0, b"another", b"x", level=Level.WEAK)  # its clock's ceiling is on disk
    cluster.network.treat(Fate.LOST, Accept, target=2)
    keeper.disk.clear()
    writing = asyncio.create_task(cluster.put(0, KEY, b"value", level=Level.WEAK))
    await asyncio.sleep(1)
    assert len(keeper.hints) == 1
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    keeper.disk.set()
    hinted(await writing)
    await asyncio.sleep(REPLAYED_S)
    assert held(cluster.nodes[2]) is not None
    assert hints_of(keeper) == []


async def test_a_hint_is_never_gone_before_it_is_kept_aside() -> None:
    """What the floors ask of this node is answered without a gap, and a crash between the two loses nothing."""
    cluster = await without(2)
    keeper = cluster.nodes[0]
    partition = keeper.trees.partition_of(KEY)
    await cluster.ask(2, Prepare(KEY, cluster.nodes[2].ballots.tick() + ONE_HOUR))
    written = hinted(await cluster.put(0, KEY, b"value", level=Level.WEAK))
    keeper.context.hand_over = _no_room
    keeper.disk.clear()
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert (keeper.hints.oldest(partition), keeper.merge_back.oldest(partition)) == (written.version, None)
    keeper.disk.set()
    await asyncio.sleep(REPLAYED_S)
    assert (keeper.hints.oldest(partition), keeper.merge_back.oldest(partition)) == (None, written.version)
    assert list(keeper.engine.folder.kept_aside) == [(KEY, written.version)]


async def test_a_hint_older_than_a_floor_is_dropped() -> None:
    """The key was deleted for good after it: it is superseded, and does not come back."""
    cluster = await without(2)
    keeper, target = cluster.nodes[0], cluster.nodes[2]
    hinted(await cluster.put(0, KEY, b"value", level=Level.WEAK))
    floor = target.ballots.tick() + ONE_HOUR
    _, ticket = await target.replica.purge(target.trees.partition_of(KEY), floor, 0)
    await target.commits.wait(ticket)
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert held(target) is None
    assert hints_of(keeper) == []
    assert len(keeper.merge_back) == 0


async def test_a_sole_hint_is_no_longer_sole_once_a_home_replica_has_it() -> None:
    cluster, key, outsider = await with_homes_down()
    first, *others = cluster.topology.replicas_of(key)
    hinted(await cluster.put(outsider.slot, key, b"value", level=Level.EVENTUAL))
    cluster.network.heal()
    leave(cluster, *others)
    await asyncio.sleep(REPLAYED_S)
    assert held(cluster.nodes[first], key) is not None
    assert outsider.hints.soles == 0
    assert hints_of(outsider) == [(key, b"value", tuple(others), False)]
    restarted = await cluster.begin(outsider.slot, await cluster.end(outsider.slot))
    assert restarted.hints.soles == 0
    assert restarted.hints.per_target() == dict.fromkeys(others, 1)


async def test_replaying_waits_while_much_is_kept_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints are on disk, what is kept aside is in memory too."""
    monkeypatch.setattr(hints_module, "MERGES_MAX", 3)
    cluster = await without(2)
    keeper = cluster.nodes[0]
    for number in range(3 * IN_FLIGHT):
        key = b"promised/%d" % number
        hinted(await cluster.put(0, key, b"x", level=Level.WEAK))
        await cluster.ask(2, Prepare(key, cluster.nodes[2].ballots.tick() + ONE_HOUR))
    hand_over, keeper.context.hand_over = keeper.context.hand_over, _no_room
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert len(keeper.merge_back) == IN_FLIGHT
    assert len(keeper.hints) == 2 * IN_FLIGHT
    keeper.context.hand_over = hand_over
    await asyncio.sleep(4 * REPLAYED_S)
    assert (len(keeper.merge_back), len(keeper.hints)) == (0, 0)


# -- the bound ---------------------------------------------------------------------------------------------------------


def room_for(node: Node, count: int) -> None:
    """So many hints of these tests' keys and values fit, and not one more."""
    node.hints.bytes_max = count * size_of(b"bound/0", Record(1, 1, True, b"x"))


async def test_at_the_bound_the_oldest_hints_go_first() -> None:
    cluster = await without(2)
    keeper = cluster.nodes[0]
    room_for(keeper, 3)
    for number in range(5):
        hinted(await cluster.put(0, b"bound/%d" % number, b"x", level=Level.WEAK))
    assert [key for key, *_ in hints_of(keeper)] == [b"bound/2", b"bound/3", b"bound/4"]
    assert (keeper.hints.dropped, keeper.hints.size_bytes) == (2, keeper.hints.bytes_max)
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    arrived = [held(cluster.nodes[2], b"bound/%d" % number) is not None for number in range(5)]
    assert arrived == [False, False, True, True, True]


async def test_a_write_that_is_larger_than_all_the_room_is_written_without_a_hint() -> None:
    cluster = await without(2)
    room_for(cluster.nodes[0], 3)
    hinted(await cluster.put(0, b"bound/0", b"x", level=Level.WEAK))
    written = await cluster.put(0, b"bound/1", b"x" * cluster.nodes[0].hints.bytes_max, level=Level.WEAK)
    assert isinstance(written, Written)
    assert not written.hinted
    assert [key for key, *_ in hints_of(cluster.nodes[0])] == [b"bound/0"], "and nothing made way for it in vain"


async def test_a_sole_hint_is_never_dropped_and_when_they_fill_the_room_no_more_are_taken() -> None:
    cluster = await form_cluster(5)
    await asyncio.sleep(1)
    keys = [key for key in MANY_KEYS if set(cluster.topology.replicas_of(key)) == {0, 1, 2}][:5]
    assert len(keys) == 5
    leave(cluster, 0)
    keeper = cluster.nodes[3]
    keeper.hints.bytes_max = sum(size_of(key, Record(1, 1, True, b"x")) for key in keys[:3])
    hinted(await cluster.put(3, keys[0], b"x", level=Level.EVENTUAL))
    leave(cluster, 1, 2)
    for key in keys[1:4]:
        hinted(await cluster.put(3, key, b"x", level=Level.EVENTUAL))
    assert [(key, sole) for key, _, _, sole in hints_of(keeper)] == [(key, True) for key in keys[1:4]]
    refused = await cluster.put(3, keys[4], b"x", level=Level.EVENTUAL)
    assert isinstance(refused, Unavailable)
    assert "hints_bytes_max" in refused.reason
    come_back(cluster)
    await asyncio.sleep(2 * REPLAYED_S)
    for slot in range(3):
        assert [held(cluster.nodes[slot], key) is not None for key in keys[1:]] == [True, True, True, False]
    leave(cluster, 0, 1, 2)
    hinted(await cluster.put(3, keys[4], b"x", level=Level.EVENTUAL))


async def test_what_is_kept_aside_counts_at_the_bound_and_is_not_dropped() -> None:
    cluster, key, outsider = await with_homes_down()
    room_for(outsider, 2)
    for number in range(2):
        ballot = outsider.ballots.tick()
        kept = asyncio.Event()
        outsider.replica.keep_aside(b"bound/%d" % number, Record(ballot, ballot, True, b"x"), kept.set)
        await kept.wait()
    refused = await cluster.put(outsider.slot, key, b"x", level=Level.EVENTUAL)
    assert isinstance(refused, Unavailable)
    assert len(outsider.engine.folder.kept_aside) == 2


async def test_without_room_a_refused_write_is_not_kept_aside_and_nobody_calls_it_written() -> None:
    cluster = await form_cluster(4)
    key = cluster.key_without(3)
    outsider = cluster.nodes[3]
    outsider.context.hand_over = _no_room
    outsider.hints.bytes_max = 0
    for level in (Level.WEAK, Level.EVENTUAL):
        await promise_to_others(cluster, key)
        assert isinstance(await cluster.put(3, key, b"value", level=level, timeout_s=1), Unavailable | Unknown)
    assert outsider.engine.folder.kept_aside == {}


# -- what floors and people ask ----------------------------------------------------------------------------------------


async def test_the_oldest_that_is_kept_or_under_way_is_known_by_partition() -> None:
    cluster = await form_cluster()
    node = cluster.nodes[0]
    partition = node.trees.partition_of(KEY)
    added: list[tuple[int, int]] = []
    node.hints.on_added = lambda *what: added.append(what)
    cluster.network.treat(Fate.SILENT, Accept)
    writing = asyncio.create_task(cluster.put(0, KEY, b"slow", level=Level.WEAK, needed=2, timeout_s=1))
    await asyncio.sleep(0.5)
    under_way = node.weak_writer.oldest(partition)
    outcome = await writing
    assert isinstance(outcome, Unknown)
    assert under_way == outcome.version
    assert node.weak_writer.oldest(partition) is None
    leave(cluster, 2)
    cluster.network.treat(Fate.DELIVERED, target=1)
    older = hinted(await cluster.put(0, KEY, b"1", level=Level.WEAK))
    newer = hinted(await cluster.put(0, KEY, b"2", level=Level.WEAK))
    assert node.weak_writer.oldest(partition) is None
    assert node.hints.oldest(partition) == older.version
    assert node.hints.oldest(partition + 1) is None
    assert added == [(partition, older.version), (partition, newer.version)]
    assert node.hints.per_target() == {2: 2}
    await asyncio.sleep(3)
    assert 2.9 <= node.hints.oldest_age_s(node.clock.wall_ms()) < 3.1
    come_back(cluster)
    await asyncio.sleep(REPLAYED_S)
    assert node.hints.oldest(partition) is None
    assert (node.hints.per_target(), node.hints.oldest_age_s(node.clock.wall_ms())) == ({}, 0)
    assert node.hints.delivered == 2


@pytest.mark.parametrize("end", ["written", "refused", "hinted", "kept aside", "clock"])
async def test_no_write_stays_under_way(end: str) -> None:
    """One that did would hold the floor of its partition back for ever."""
    cluster = await form_cluster(4)
    key = cluster.key_without(3)
    node = cluster.nodes[3]
    await asyncio.sleep(1)
    if end == "refused":
        leave(cluster, 0, 1, 2)
        node.hints.bytes_max = 0
    elif end == "hinted":
        leave(cluster, 0, 1, 2)
    elif end == "kept aside":
        node.context.hand_over = _no_room
        await promise_to_others(cluster, key)
    elif end == "clock":
        leave(cluster, 0, 1, 2)
        await asyncio.sleep(10)
        node.disk.clear()
    for level in (Level.WEAK, Level.EVENTUAL):
        await cluster.put(3, key, b"value", level=level, timeout_s=1)
    node.disk.set()
    await asyncio.sleep(0.1)
    assert node.weak_writer.oldest(node.trees.partition_of(key)) is None


def _no_room(key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
    on_outcome(Overloaded(1.0))
