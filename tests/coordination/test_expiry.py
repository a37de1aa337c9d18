"""Values that expire, on three nodes whose wall clocks are 4 s apart: once gone, gone.

Ballot clocks follow the wall clocks, so the nodes judge a value by times that differ by as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cluster.levels import Level
from cluster.protocol.changes import Settle
from cluster.protocol.messages import Accept, Forward, Forwarded, Held, Read, Settled
from cluster.requests import (
    Condition,
    ConditionKind,
    Conflict,
    Found,
    Listed,
    Unavailable,
    WriteRequest,
    Written,
)
from storage.ballot import NONE, unix_ms_of
from storage.record import Record
from tests.coordination.three_nodes import Cluster, Fate, form_cluster, until

BEHIND, RIGHT, AHEAD = 0, 1, 2
NODES = (BEHIND, RIGHT, AHEAD)
STEP_MS = 2_000
TTL_MS = 10_000
CREATE = Condition(ConditionKind.IF_ABSENT)
LEVELS = (Level.WEAK, Level.EVENTUAL)


@pytest_asyncio.fixture
async def apart() -> AsyncIterator[Cluster]:
    """The outermost are 4 s apart, which is less than the 5 s that are allowed."""
    yield await form_cluster(wall_steps_ms={BEHIND: -STEP_MS, AHEAD: STEP_MS})


async def written(cluster: Cluster, at: int, key: bytes, value: bytes, **choices: object) -> int:
    outcome = await cluster.put(at, key, value, **choices)  # type: ignore[arg-type]
    assert isinstance(outcome, Written), outcome
    return outcome.version


async def value_at(
    cluster: Cluster, at: int, key: bytes, level: Level = Level.STRONG, needed: int | None = None
) -> bytes | None:
    outcome = await cluster.get(at, key, level=level, needed=needed)
    assert isinstance(outcome, Found), outcome
    return outcome.record.value if outcome.record is not None else None


async def keys_at(cluster: Cluster, at: int, level: Level) -> list[bytes]:
    outcome = await cluster.page(at, b"", level=level)
    assert isinstance(outcome, Listed), outcome
    return [entry.key for entry in outcome.entries]


async def sleep_until(cluster: Cluster, at: int, moment_ms: int) -> None:
    """Until a little after the wall clock of that node shows it."""
    await asyncio.sleep(max(0.0, (moment_ms - cluster.nodes[at].clock.wall_ms() + 2) / 1000))


def moment_of(cluster: Cluster, key: bytes) -> int:
    """When the value expires."""
    states = [node.replica.peek(key) for node in cluster.nodes]
    (moment_ms,) = {state.record.expires_at_ms for state in states if state is not None and state.record is not None}
    return moment_ms


@pytest.mark.parametrize("led_by", NODES)
@pytest.mark.parametrize("written_at", NODES)
@pytest.mark.parametrize(("level", "step_ms"), [*((level, STEP_MS) for level in Level), (Level.STRONG, 2 * STEP_MS)])
async def test_once_gone_gone(led_by: int, written_at: int, level: Level, step_ms: int) -> None:
    """Strong reads through all nodes in turn, from well before the moment to well after it.

    With neighbours 4 s apart the outermost refuse each other's writes, and the one in the middle hears both.
    """
    apart = await form_cluster(wall_steps_ms={BEHIND: -step_ms, AHEAD: step_ms})
    key = apart.key_led_by(led_by)
    await written(apart, written_at, key, b"value", ttl_ms=TTL_MS, level=level)
    seen: list[bytes | None] = []
    for step in range(200):
        seen.append(await value_at(apart, NODES[step % 3], key))
        await asyncio.sleep(0.1)

    assert seen[0] == b"value"
    assert seen[-1] is None
    gone = seen.index(None)
    assert set(seen[gone:]) == {None}
    assert apart.values_on_disk(key) == [None, None, None]


@pytest.mark.parametrize("at", NODES)
async def test_it_is_there_until_its_moment_by_every_clock(at: int) -> None:
    """Without a clock that is ahead nobody takes a value away before its time, and nobody sees it after."""
    cluster = await form_cluster()
    key = cluster.key_led_by(RIGHT)
    begun_ms = cluster.nodes[at].clock.wall_ms()
    await written(cluster, at, key, b"value", ttl_ms=TTL_MS)
    moment_ms = moment_of(cluster, key)
    assert begun_ms + TTL_MS <= moment_ms <= cluster.nodes[at].clock.wall_ms() + TTL_MS

    await sleep_until(cluster, at, moment_ms - 200)
    assert [await value_at(cluster, slot, key, level) for level in Level for slot in NODES] == [b"value"] * 9
    await sleep_until(cluster, at, moment_ms + 1)
    assert [await value_at(cluster, slot, key, level) for level in LEVELS for slot in NODES] == [None] * 6
    assert cluster.values_on_disk(key) == [b"value"] * 3, "a weak read settles nothing"
    assert [await value_at(cluster, slot, key) for slot in NODES] == [None] * 3


async def test_weak_reads_go_by_their_own_clock(apart: Cluster) -> None:
    key = apart.key_led_by(RIGHT)
    await written(apart, RIGHT, key, b"value", ttl_ms=TTL_MS)
    await sleep_until(apart, RIGHT, moment_of(apart, key))

    for level in LEVELS:
        assert [await value_at(apart, at, key, level) for at in NODES] == [b"value", None, None]
        assert [await value_at(apart, at, key, level, needed=3) for at in NODES] == [b"value", None, None]
        assert [await keys_at(apart, at, level) for at in NODES] == [[key], [], []]


@pytest.mark.parametrize("at", NODES)
@pytest.mark.parametrize("led_by", NODES)
async def test_a_create_succeeds_once_anybody_was_told_that_it_is_gone(apart: Cluster, at: int, led_by: int) -> None:
    """Through any node, also one whose clock says that the value is still there."""
    key = apart.key_led_by(led_by)
    await written(apart, RIGHT, key, b"old", ttl_ms=TTL_MS)
    assert isinstance(await apart.put(at, key, b"too soon", condition=CREATE), Conflict)
    await sleep_until(apart, AHEAD, moment_of(apart, key))
    assert await value_at(apart, AHEAD, key) is None

    version = await written(apart, at, key, b"new", condition=CREATE)
    for slot in NODES:
        found = await apart.get(slot, key)
        assert isinstance(found, Found)
        assert found.record is not None
        assert (found.record.origin, found.record.value, found.record.expires_at_ms) == (version, b"new", 0)


@pytest.mark.parametrize("at", NODES)
async def test_a_create_over_an_expired_value_needs_nobody_to_have_looked(apart: Cluster, at: int) -> None:
    key = apart.key_led_by(BEHIND)
    await written(apart, RIGHT, key, b"old", ttl_ms=TTL_MS)
    await sleep_until(apart, at, moment_of(apart, key))

    await written(apart, at, key, b"new", condition=CREATE)
    assert [await value_at(apart, slot, key) for slot in NODES] == [b"new"] * 3


@pytest.mark.parametrize(("asked", "led_by"), [(BEHIND, AHEAD), (AHEAD, BEHIND)])
async def test_the_clock_that_is_ahead_decides(apart: Cluster, asked: int, led_by: int) -> None:
    """Whether it is that of the node that was asked, or of the primary."""
    key = apart.key_led_by(led_by)
    await written(apart, RIGHT, key, b"old", ttl_ms=TTL_MS)
    await sleep_until(apart, AHEAD, moment_of(apart, key))

    await written(apart, asked, key, b"new", condition=CREATE)


@pytest.mark.parametrize("condition", [ConditionKind.IF_VERSION, ConditionKind.IF_EXISTS])
@pytest.mark.parametrize("at", NODES)
async def test_a_swap_of_an_expired_value_finds_nothing_and_nobody_finds_it_afterwards(
    apart: Cluster, at: int, condition: ConditionKind
) -> None:
    key = apart.key_led_by(BEHIND)
    version = await written(apart, RIGHT, key, b"old", ttl_ms=TTL_MS)
    await sleep_until(apart, at, moment_of(apart, key))

    outcome = await apart.put(at, key, b"new", condition=Condition(condition, version))
    assert isinstance(outcome, Conflict)
    assert outcome.version is None
    assert outcome.acks >= 2
    assert [await value_at(apart, slot, key) for slot in NODES] == [None] * 3
    assert isinstance(await apart.put(at, key, b"new", condition=Condition(condition, version)), Conflict)


async def test_deleting_an_expired_value_succeeds(apart: Cluster) -> None:
    key = apart.key_led_by(BEHIND)
    await written(apart, RIGHT, key, b"old", ttl_ms=TTL_MS)
    await sleep_until(apart, RIGHT, moment_of(apart, key))
    outcome = await apart.nodes[RIGHT].write(WriteRequest(key, None, "", Level.STRONG, 2, 5.0))
    assert isinstance(outcome, Written)
    assert [await value_at(apart, slot, key) for slot in NODES] == [None] * 3


@pytest.mark.parametrize("level", list(Level))
async def test_a_write_without_ttl_removes_the_expiry(apart: Cluster, level: Level) -> None:
    key = apart.key_led_by(RIGHT)
    await written(apart, AHEAD, key, b"short", ttl_ms=TTL_MS)
    await written(apart, AHEAD, key, b"long", level=level)
    await asyncio.sleep(10 * TTL_MS / 1000)
    assert [await value_at(apart, slot, key) for slot in NODES] == [b"long"] * 3


async def test_a_strong_listing_settles_what_it_hides(apart: Cluster) -> None:
    key, lasting = apart.key_led_by(RIGHT), apart.key_led_by(BEHIND)
    await written(apart, RIGHT, key, b"value", ttl_ms=TTL_MS)
    await written(apart, RIGHT, lasting, b"value", ttl_ms=100 * TTL_MS)
    assert set(await keys_at(apart, BEHIND, Level.STRONG)) == {key, lasting}
    await sleep_until(apart, AHEAD, moment_of(apart, key))

    assert await keys_at(apart, AHEAD, Level.STRONG) == [lasting]
    assert await keys_at(apart, BEHIND, Level.STRONG) == [lasting]
    assert apart.values_on_disk(lasting) == [b"value"] * 3


async def test_a_newer_weak_write_outlives_the_value_that_expired(apart: Cluster) -> None:
    """The deletion has the origin of the value. With one of its own it superseded the weak write, which was newer."""
    key = apart.key_led_by(RIGHT)
    first = await written(apart, RIGHT, key, b"short", ttl_ms=TTL_MS)
    moment_ms = moment_of(apart, key)
    apart.network.cut_off(BEHIND)
    weak = await written(apart, BEHIND, key, b"weak", level=Level.EVENTUAL)
    assert unix_ms_of(weak) < moment_ms
    await sleep_until(apart, RIGHT, moment_ms)
    found = await apart.get(RIGHT, key)
    assert isinstance(found, Found)
    assert found.record is not None
    assert (found.record.value, found.record.origin) == (None, first)
    apart.network.rejoin(BEHIND)

    await value_at(apart, BEHIND, key)  # it brings the deletion there, and that pushes the weak write out
    await until(lambda: apart.values_on_disk(key) == [b"weak"] * 3)
    assert [await value_at(apart, slot, key) for slot in NODES] == [b"weak"] * 3


async def test_fences_outlive_the_value(apart: Cluster) -> None:
    key = apart.key_led_by(RIGHT)
    ballot = apart.nodes[RIGHT].ballots.tick()
    record = Record(ballot, ballot, False, b"v", "", unix_ms_of(ballot) + 1, {"lock": 7})
    for slot in NODES:
        await apart.ask(slot, Accept(key, record, NONE))
    await asyncio.sleep(1)
    found = await apart.get(RIGHT, key)
    assert isinstance(found, Found)
    assert found.record is not None
    assert (found.record.value, found.record.fences, found.record.expires_at_ms) == (None, {"lock": 7}, 0)


async def test_until_its_deletion_is_settled_nobody_is_told_that_it_is_gone(apart: Cluster) -> None:
    """The tombstone reaches one replica at most, and the reader learns nothing."""
    key = apart.key_led_by(AHEAD)
    await written(apart, RIGHT, key, b"value", ttl_ms=TTL_MS)
    await sleep_until(apart, AHEAD, moment_of(apart, key))
    apart.network.treat(Fate.LOST, Accept, source=AHEAD)
    assert not isinstance(await apart.get(AHEAD, key, timeout_s=1), Found)
    create = await apart.put(AHEAD, key, b"new", condition=Condition(ConditionKind.IF_EXISTS), timeout_s=1)
    assert isinstance(create, Unavailable), "surely not applied: only a deletion was proposed"
    apart.network.heal()

    assert await value_at(apart, AHEAD, key) is None
    assert [await value_at(apart, slot, key) for slot in NODES] == [None] * 3


async def test_two_can_settle_it_without_the_third(apart: Cluster) -> None:
    """And the one that slept through it finds it gone."""
    key = apart.key_led_by(BEHIND)
    await written(apart, RIGHT, key, b"value", ttl_ms=TTL_MS)
    apart.network.cut_off(BEHIND)
    await sleep_until(apart, AHEAD, moment_of(apart, key))
    assert await value_at(apart, AHEAD, key) is None
    apart.network.rejoin(BEHIND)
    assert await value_at(apart, BEHIND, key, Level.WEAK) == b"value"
    assert await value_at(apart, BEHIND, key) is None
    await until(lambda: apart.values_on_disk(key) == [None] * 3)


async def test_an_old_copy_does_not_bring_it_back(apart: Cluster) -> None:
    """Each kind of message that may carry it, late."""
    key = apart.key_led_by(BEHIND)
    await written(apart, RIGHT, key, b"value", ttl_ms=TTL_MS, level=Level.WEAK, needed=3)
    state = apart.nodes[BEHIND].replica.peek(key)
    assert state is not None
    assert state.record is not None
    old = state.record
    await sleep_until(apart, AHEAD, old.expires_at_ms)
    assert await value_at(apart, AHEAD, key) is None
    for node in apart.nodes:
        await apart.ask(node.slot, Accept(key, old, NONE))
        node.merge_back.add(key, old)
    await until(lambda: not any(len(node.merge_back) for node in apart.nodes))
    assert [await value_at(apart, slot, key) for slot in NODES] == [None] * 3


async def test_a_wrong_clock_is_not_believed(apart: Cluster) -> None:
    """A node that is an hour ahead asks to settle: a value that others still have must not go."""
    key = apart.key_led_by(RIGHT)
    await written(apart, RIGHT, key, b"value", ttl_ms=60_000)
    hour_ahead_ms = apart.nodes[RIGHT].clock.wall_ms() + 3_600_000
    reply = await apart.ask(RIGHT, Forward(key, Settle(now_ms=hour_ahead_ms), 2, 1_000))  # type: ignore[arg-type]
    assert isinstance(reply, Forwarded)
    assert isinstance(reply.outcome, Settled)
    assert reply.outcome.record is not None
    assert reply.outcome.record.value == b"value"
    assert [await value_at(apart, slot, key) for slot in NODES] == [b"value"] * 3


@pytest.mark.parametrize("step_ms", [-3_600_000, 3_600_000])
async def test_a_node_whose_clock_is_wrong_lets_the_primary_say_what_is_there(step_ms: int) -> None:
    cluster = await form_cluster(wall_steps_ms={AHEAD: step_ms})
    await until(lambda: not cluster.nodes[AHEAD].roster.is_clock_right)
    key = cluster.key_led_by(RIGHT)
    await written(cluster, RIGHT, key, b"value", ttl_ms=TTL_MS)
    assert await value_at(cluster, AHEAD, key) == b"value"
    assert await keys_at(cluster, AHEAD, Level.STRONG) == [key]
    await sleep_until(cluster, RIGHT, moment_of(cluster, key))
    assert await keys_at(cluster, AHEAD, Level.STRONG) == []
    assert await value_at(cluster, AHEAD, key) is None


async def test_the_moment_is_one_for_all_replicas_and_survives_a_restart(apart: Cluster) -> None:
    key = apart.key_led_by(AHEAD)
    await written(apart, BEHIND, key, b"value", ttl_ms=TTL_MS)
    replies = [await apart.ask(slot, Read(key, False)) for slot in NODES]
    moments = {reply.record.expires_at_ms for reply in replies if isinstance(reply, Held) and reply.record}
    await apart.restart_all()
    replies = [await apart.ask(slot, Read(key, False)) for slot in NODES]
    assert {reply.record.expires_at_ms for reply in replies if isinstance(reply, Held) and reply.record} == moments
    assert len(moments) == 1
    await sleep_until(apart, RIGHT, moments.pop())
    assert [await value_at(apart, slot, key) for slot in NODES] == [None] * 3
