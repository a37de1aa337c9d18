"""Nodes whose wall clock is off or whose disk is full, among others that are well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cluster.ballot_clock import AHEAD_MS_MAX
from cluster.levels import Level
from cluster.membership.failure_detector import HEARTBEAT_INTERVAL_S
from cluster.membership.fitness import Bar
from cluster.node import ClusterNode
from cluster.protocol.changes import SETTLE, Put
from cluster.protocol.messages import Accept, Accepted, Forward, Forwarded, Heartbeat, Held, Prepare, Read, Unfit
from cluster.repair.disk_watch import ENOUGH, INTERVAL_S, RESERVE_BYTES
from cluster.requests import Found, NoRoom, Unavailable, Unknown, Written
from storage.ballot import NONE, ballot_of
from storage.record import Record
from tests.coordination.three_nodes import Cluster, Fate, form_cluster
from tests.coordination.virtual_time import WALL_START_MS

KEY = b"key"
HOUR_MS = 3_600_000
SOON_S = 4 * HEARTBEAT_INTERVAL_S
LEVELS = [Level.STRONG, Level.WEAK, Level.EVENTUAL]


async def soon() -> None:
    """Long enough for heartbeats to go round."""
    await asyncio.sleep(SOON_S)


# -- a wall clock that is off ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS, 5_100, -5_100])
@pytest.mark.parametrize("when", ["at the start", "while it runs"])
async def test_a_node_whose_clock_is_off_takes_no_writes_until_it_is_right(step_ms: int, when: str) -> None:
    cluster = await form_cluster(wall_steps_ms={0: step_ms} if when == "at the start" else {})
    await soon()
    bad, clock = cluster.nodes[0], cluster.nodes[0].clock
    clock.wall_step_ms = step_ms
    await soon()
    if when == "while it runs":
        assert abs(bad.ballots.now_ms() + step_ms - clock.wall_ms()) <= 1, "ballots go on from before"
    assert f"{abs(step_ms) / 1000:.1f} s {'ahead of' if step_ms > 0 else 'behind'} n1" in "".join(bad.fitness.reasons)
    for level in LEVELS:
        refused = await cluster.put(0, KEY, b"refused", level=level)
        assert isinstance(refused, Unavailable)
        assert "wall clock is off" in refused.reason
        for at in (1, 2):
            written = await cluster.put(at, KEY, level.encode(), level=level, needed=2)
            assert isinstance(written, Written)
            assert written.replicas == ("n1", "n2")
            read = await cluster.get(0, KEY, level=level, needed=2)
            assert isinstance(read, Found)
            assert read.record is not None
            assert (read.record.value, read.replicas) == (level.encode(), ("n1", "n2"))
    assert cluster.values_on_disk(KEY)[0] is None
    clock.wall_step_ms = 0
    await soon()
    assert bad.fitness.reasons == []
    for level in LEVELS:
        assert isinstance(await cluster.put(0, KEY, b"again", level=level, needed=3), Written)
    assert abs(bad.ballots.now_ms() - clock.wall_ms()) <= 1


@pytest.mark.parametrize("step_ms", [3_000, -3_000])
async def test_a_step_within_what_is_allowed_stops_nothing(step_ms: int) -> None:
    cluster = await form_cluster()
    for number in range(60):
        if number == 20:
            cluster.nodes[0].clock.wall_step_ms = step_ms
        for at in range(3):
            for level in LEVELS:
                value = b"%d %d %s" % (number, at, level.encode())
                written = await cluster.put(at, b"by-%d-%s" % (at, level.encode()), value, level=level)
                assert isinstance(written, Written)
                read = await cluster.get(at, b"by-%d-%s" % (at, level.encode()), level=level)
                assert isinstance(read, Found)
                assert read.record is not None
                assert read.record.value == value
        await asyncio.sleep(0.02)
    assert abs(cluster.nodes[0].ballots.now_ms() - cluster.nodes[0].clock.wall_ms()) <= 1


async def test_three_clocks_that_are_far_apart_and_none_of_them_wrong() -> None:
    """Each is within what is allowed of a majority, though the first and the last are not of one another."""
    cluster = await form_cluster(wall_steps_ms={0: 4_000, 2: -4_000})
    await soon()
    assert [node.fitness.reasons for node in cluster.nodes] == [[], [], []]
    for level in LEVELS:
        for at in range(3):
            key = b"%d %s" % (at, level.encode())
            assert isinstance(await cluster.put(at, key, b"value", level=level, needed=3), Written)


async def test_a_step_that_all_share_is_followed() -> None:
    """Somebody sets the time of the whole cluster right; nobody has to be started again."""
    cluster = await form_cluster()
    await soon()
    for node in cluster.nodes:
        node.clock.wall_step_ms = -HOUR_MS
    await soon()
    assert [node.fitness.reasons for node in cluster.nodes] == [[], [], []]
    assert all(abs(node.ballots.now_ms() - node.clock.wall_ms()) <= 1 for node in cluster.nodes)
    for level in LEVELS:
        assert isinstance(await cluster.put(0, KEY, b"later", level=level, needed=3), Written)


async def test_of_two_members_that_differ_neither_takes_writes() -> None:
    cluster = await form_cluster(2)
    await soon()
    cluster.nodes[0].clock.wall_step_ms = HOUR_MS
    await soon()
    for at in (0, 1):
        refused = await cluster.put(at, KEY, b"refused", level=Level.WEAK)
        assert isinstance(refused, Unavailable)
        assert "nobody can tell" in refused.reason
    cluster.nodes[0].clock.wall_step_ms = 0
    await soon()
    assert isinstance(await cluster.put(0, KEY, b"taken", level=Level.WEAK, needed=2), Written)


async def test_a_node_that_hears_nobody_is_not_barred() -> None:
    """Alone it can't tell, and eventual writes go on."""
    cluster = await form_cluster()
    await soon()
    cluster.network.cut_off(0)
    cluster.network.treat(Fate.UNSENT, target=1)
    cluster.network.treat(Fate.UNSENT, target=2)
    await soon()
    assert all(not node.fitness.bars & Bar.BAD_CLOCK for node in cluster.nodes)


async def test_peers_refuse_a_node_that_does_not_know_that_its_clock_is_off() -> None:
    """All that brings a ballot or a write of its; not its heartbeats, nor reads, nor the request to settle a key."""
    cluster = await form_cluster()
    bad, key = cluster.nodes[0], cluster.key_led_by(1)
    await soon()
    bad.wall_watch.look = bad.wall_watch._judge = lambda: None  # type: ignore[method-assign]
    bad.clock.wall_step_ms = HOUR_MS
    await soon()
    assert not bad.fitness.bars
    assert "n0 is off: 3600.0 s ahead of this node's" in (cluster.nodes[1].why_refuse(0) or "")
    assert cluster.nodes[1].why_refuse(2) is None
    for _ in range(20):
        await asyncio.sleep(SOON_S / 20)
        assert not cluster.nodes[1].roster.is_writable(0), "whatever it says of itself, and whoever beats"
    weak = await cluster.put(0, key, b"refused", level=Level.WEAK, needed=2, timeout_s=1)
    strong = await cluster.put(0, key, b"refused", timeout_s=1)
    assert isinstance(weak, Unknown)
    assert isinstance(strong, Unavailable | Unknown)
    assert cluster.values_on_disk(key)[1:] == [None, None]
    ballot = bad.ballots.tick()
    record = Record(ballot, ballot, True, b"refused")
    for request in (Prepare(key, ballot), Accept(key, record, NONE), Forward(key, Put(b"refused", ""), 2, 500)):
        assert isinstance(await sent(bad, 1, request), Unfit)
    for harmless in (Read(key, True), Forward(key, SETTLE, 2, 500), Heartbeat(bad.clock.wall_ms(), 0, 0, 0)):
        assert isinstance(await sent(bad, 1, harmless), harmless.grant)
    bad.clock.wall_step_ms = 0
    await soon()
    assert cluster.nodes[1].why_refuse(0) is None
    assert isinstance(await sent(bad, 1, Forward(key, Put(b"taken", ""), 2, 500)), Forwarded)


async def sent(node: ClusterNode, slot: int, request: object) -> object:
    answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    node.context.transport.send(slot, request, lambda _, answer: answered.set_result(answer))  # type: ignore[arg-type]
    return await answered


# -- what was written with a clock that was wrong ----------------------------------------------------------------------


def afar(value: bytes, *, weak: bool, ahead_ms: int = HOUR_MS) -> Record:
    """A record of node 0 from an hour ahead."""
    ballot = ballot_of(WALL_START_MS + ahead_ms, 0, 0)
    return Record(ballot, ballot, weak, value)


async def hold(cluster: Cluster, record: Record, *slots: int) -> None:
    """These replicas take the record; then all nodes are started anew, so that no clock remembers it."""
    for slot in slots:
        assert isinstance(await cluster.ask(slot, Accept(KEY, record, NONE)), Accepted)
    await cluster.restart_all()
    await soon()


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("weak", [True, False])
async def test_a_record_from_afar_is_read_overwritten_and_deleted(weak: bool, level: Level, at: int) -> None:
    """A weak write was acknowledged as superseded by it, and never seen: an hour long nobody could write that key."""
    cluster = await form_cluster()
    await hold(cluster, afar(b"afar", weak=weak), 0, 1, 2)
    read = await cluster.get(at, KEY, level=level)
    assert isinstance(read, Found)
    assert read.record is not None
    assert read.record.value == b"afar"
    await cluster.restart_all()  # the read has told the clock
    await soon()
    for value in (b"new", None, b"newer"):
        written = await cluster.put(at, KEY, value, level=level)  # type: ignore[arg-type]
        assert isinstance(written, Written)
        for reader in range(3):
            found = await cluster.get(reader, KEY)
            assert isinstance(found, Found)
            assert found.record is not None
            assert (found.record.value, found.record.origin) == (value, written.version)


@pytest.mark.parametrize("needed", [1, 2])
async def test_a_record_from_afar_supersedes_nothing_where_a_replica_is_down(needed: int) -> None:
    """What was surely not sent to it is surely not there, so the write begins anew all the same."""
    cluster = await form_cluster()
    await hold(cluster, afar(b"afar", weak=True), 0, 1, 2)
    cluster.network.cut_off(0)
    written = await cluster.put(1, KEY, b"new", level=Level.WEAK, needed=needed)
    assert isinstance(written, Written)
    read = await cluster.get(2, KEY)
    assert isinstance(read, Found)
    assert read.record is not None
    assert read.record.value == b"new"


async def test_a_write_that_somebody_took_is_not_begun_anew_nor_called_written() -> None:
    """Under another ballot it could be applied twice; as superseded by what was there before, it is never read."""
    cluster = await form_cluster()
    await hold(cluster, afar(b"afar", weak=True), 0, 2)
    first = await cluster.put(1, KEY, b"first", level=Level.WEAK, needed=2)
    assert isinstance(first, Unknown)
    second = await cluster.put(1, KEY, b"second", level=Level.WEAK, needed=2)
    assert isinstance(second, Written), "the refusals have told the clock"
    for reader in range(3):
        read = await cluster.get(reader, KEY)
        assert isinstance(read, Found)
        assert read.record is not None
        assert read.record.value == b"second"


async def test_who_reads_a_record_from_afar_writes_above_it() -> None:
    """Also through a node that holds no replica of the key, which hears of it by the read alone."""
    cluster = await form_cluster(4)
    key = cluster.key_without(3)
    record = afar(b"afar", weak=True)
    for slot in cluster.topology.replicas_of(key)[:2]:
        await cluster.ask(slot, Accept(key, record, NONE))
    await cluster.restart_all()
    await soon()
    cluster.network.treat(Fate.UNSENT, Accept)  # or the read's repair would tell all replicas
    await cluster.get(3, key, level=Level.WEAK, needed=3)
    cluster.network.heal()
    written = await cluster.put(3, key, b"new", level=Level.WEAK)
    assert isinstance(written, Written)
    assert written.version > record.origin


async def test_a_coordinator_writes_above_what_lies_in_its_own_replica() -> None:
    """Where one replica lacks the record from afar, that one takes the write, and one acknowledgement is enough."""
    cluster = await form_cluster()
    record = afar(b"afar", weak=True)
    await hold(cluster, record, 0, 1)
    assert isinstance(await cluster.ask(0, Read(KEY, True)), Held)  # now it is in memory
    written = await cluster.put(0, KEY, b"new", level=Level.WEAK)
    assert isinstance(written, Written)
    assert written.version > record.origin


async def test_a_late_refusal_tells_the_clock() -> None:
    """The write had its one acknowledgement already, and the next one was hidden, too."""
    cluster = await form_cluster()
    record = afar(b"afar", weak=True)
    await hold(cluster, record, 0, 2)
    assert isinstance(await cluster.put(1, KEY, b"first", level=Level.WEAK), Written)
    await soon()
    second = await cluster.put(1, KEY, b"second", level=Level.WEAK)
    assert isinstance(second, Written)
    assert second.version > record.origin


async def test_a_newer_write_of_a_clock_that_is_allowed_supersedes_as_ever() -> None:
    cluster = await form_cluster()
    await hold(cluster, afar(b"concurrent", weak=True, ahead_ms=4_500), 0, 1, 2)
    await cluster.put(1, KEY, b"older", level=Level.WEAK)
    assert cluster.values_on_disk(KEY) == [b"concurrent"] * 3


async def test_a_ballot_from_beyond_a_year_is_taken_by_nobody() -> None:
    cluster = await form_cluster()
    record = afar(b"never", weak=True, ahead_ms=AHEAD_MS_MAX + 86_400_000)
    for slot in range(3):
        assert isinstance(await cluster.ask(slot, Accept(KEY, record, NONE)), Unfit)
    written = await cluster.put(0, KEY, b"now", level=Level.WEAK, needed=3)
    assert isinstance(written, Written)
    assert written.version < ballot_of(WALL_START_MS + HOUR_MS, 0, 0)


@pytest.mark.parametrize("level", LEVELS)
async def test_what_was_acknowledged_with_a_wrong_clock_before_anybody_could_tell(level: Level) -> None:
    """Two of three have started, an hour apart: nobody knows whose clock is right, and both take writes."""
    cluster = await form_cluster(wall_steps_ms={0: HOUR_MS}, without={2})
    acknowledged = await cluster.put(0, KEY, b"afar", level=level)
    assert isinstance(acknowledged, Written)
    cluster.network.heal()
    await soon()
    assert cluster.nodes[0].fitness.bars == Bar.BAD_CLOCK
    read = await cluster.get(2, KEY, level=level, needed=2)
    assert isinstance(read, Found)
    cluster.nodes[0].clock.wall_step_ms = 0
    await soon()
    read = await cluster.get(1, KEY, level=Level.WEAK, needed=3)
    assert isinstance(read, Found)
    assert read.record is not None
    assert read.record.value == b"afar"
    for at, next_level in ((0, Level.WEAK), (1, Level.STRONG), (2, Level.EVENTUAL), (0, Level.STRONG)):
        written = await cluster.put(at, KEY, next_level.encode(), level=next_level, needed=2)
        assert isinstance(written, Written)
        for reader in range(3):
            found = await cluster.get(reader, KEY)
            assert isinstance(found, Found)
            assert found.record is not None
            assert (found.record.value, found.record.origin) == (next_level.encode(), written.version)


# -- a full disk -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def full(cluster: Cluster, slot: int, free: int = RESERVE_BYTES - 1) -> AsyncIterator[None]:
    """The disk of that node has only so much room left."""
    folder = cluster.nodes[slot].engine.folder
    folder.bytes_free = free
    await asyncio.sleep(2 * INTERVAL_S + SOON_S)
    yield
    folder.bytes_free = folder.bytes_total
    await asyncio.sleep(2 * INTERVAL_S + SOON_S)


async def test_a_node_with_a_full_disk_reads_and_does_not_write() -> None:
    cluster = await form_cluster()
    await cluster.put(0, KEY, b"before", needed=3)
    async with full(cluster, 0):
        for level in LEVELS:
            refused = await cluster.put(0, KEY, b"refused", level=level)
            assert isinstance(refused, NoRoom)
            assert "is full" in refused.reason
            read = await cluster.get(0, KEY, level=level)
            assert isinstance(read, Found)
            assert read.record is not None
            assert read.record.value == b"before"
        ballot = cluster.nodes[0].ballots.tick()
        assert isinstance(await cluster.ask(0, Prepare(KEY, ballot)), Unfit)
        assert isinstance(await cluster.ask(0, Accept(KEY, Record(ballot, ballot, True, b"refused"), NONE)), Unfit)
        for at, level in ((1, Level.STRONG), (2, Level.WEAK), (1, Level.EVENTUAL)):
            for key in (KEY, cluster.key_led_by(0), cluster.key_led_by(1)):
                written = await cluster.put(at, key, b"through others", level=level, needed=2)
                assert isinstance(written, Written)
                assert written.replicas == ("n1", "n2")
        read = await cluster.get(0, KEY)
        assert isinstance(read, Found)
        assert read.record is not None
        assert read.record.value == b"through others", "a strong read through it asks the others"
        assert cluster.values_on_disk(KEY)[0] == b"before"
    for level in LEVELS:
        written = await cluster.put(0, KEY, b"after", level=level, needed=3)
        assert isinstance(written, Written)


@pytest.mark.parametrize(("unsettled_at", "at"), [(1, 0), (2, 0), (1, 1), (2, 2)])
async def test_a_strong_read_settles_through_the_nodes_that_have_room(unsettled_at: int, at: int) -> None:
    """The write-back of what only one replica holds, and the round where a promise forbids it."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await cluster.put(0, key, b"settled", needed=3)
    async with full(cluster, 0):
        unsettled = await cluster.leave_unsettled(unsettled_at, key, b"unsettled")
        for slot in (1, 2):
            await cluster.ask(slot, Prepare(key, cluster.nodes[slot].ballots.tick(unsettled.ballot)))
        cluster.network.treat(Fate.LOST, Read, target=3 - unsettled_at)  # so that the unsettled one is seen
        read = await cluster.get(at, key)
        cluster.network.heal()
        assert isinstance(read, Found)
        assert read.record is not None
        assert read.record.value == b"unsettled"
        assert cluster.values_on_disk(key) == [b"settled", b"unsettled", b"unsettled"]


async def test_a_node_with_a_full_disk_proposes_nothing() -> None:
    """A primary that others still take for well says that it can't, before anything is done: the next one can."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await soon()
    cluster.network.treat(Fate.SILENT, Heartbeat)  # nobody hears of it
    cluster.nodes[0].engine.folder.bytes_free = 0
    await asyncio.sleep(2 * INTERVAL_S)
    written = await cluster.put(1, key, b"through the next", needed=2)
    assert isinstance(written, Written)
    assert written.replicas == ("n1", "n2")


async def test_a_disk_at_the_edge_does_not_flap() -> None:
    """Writes are taken again only with a quarter of the reserve to spare."""
    cluster = await form_cluster()
    node = cluster.nodes[0]
    async with full(cluster, 0):
        node.engine.folder.bytes_free = int(RESERVE_BYTES * ENOUGH) - 1
        await asyncio.sleep(2 * INTERVAL_S)
        assert node.fitness.bars == Bar.READ_ONLY
        node.engine.folder.bytes_free = int(RESERVE_BYTES * ENOUGH)
        await asyncio.sleep(2 * INTERVAL_S)
        assert not node.fitness.bars
        node.engine.folder.bytes_free = RESERVE_BYTES
        await asyncio.sleep(2 * INTERVAL_S)
        assert not node.fitness.bars


async def test_a_small_disk_keeps_a_twentieth() -> None:
    cluster = await form_cluster()
    node, total = cluster.nodes[0], 20 << 20
    node.engine.folder.bytes_total = total
    node.engine.folder.bytes_free = total // 20
    await asyncio.sleep(2 * INTERVAL_S)
    assert not node.fitness.bars
    node.engine.folder.bytes_free = total // 20 - 1
    await asyncio.sleep(2 * INTERVAL_S)
    assert node.fitness.bars == Bar.READ_ONLY


@pytest.mark.parametrize("reserve_bytes", [RESERVE_BYTES, 0])
async def test_a_disk_without_any_room_ends_nothing(reserve_bytes: int) -> None:
    """The transaction under way waits; what it holds is told to nobody before it is written."""
    cluster = await form_cluster()
    cluster.nodes[0].disk_watch.reserve_bytes = reserve_bytes
    await cluster.put(0, KEY, b"before", needed=3)
    folder = cluster.nodes[0].engine.folder
    folder.bytes_free = 0
    written = asyncio.ensure_future(cluster.put(1, KEY, b"during", needed=3))
    await asyncio.sleep(4 * INTERVAL_S)
    assert not written.done()
    assert cluster.nodes[0].fitness.bars == Bar.READ_ONLY
    assert cluster.values_on_disk(KEY) == [b"before", b"during", b"during"]
    folder.bytes_free = folder.bytes_total
    outcome = await written
    assert isinstance(outcome, Written)
    assert outcome.acks == 3
    await asyncio.sleep(4 * INTERVAL_S)
    assert cluster.values_on_disk(KEY)[0] == b"during"
    assert not cluster.nodes[0].fitness.bars
