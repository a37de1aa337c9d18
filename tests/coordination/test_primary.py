"""The queue of a key: what waits for what, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from cluster.levels import Level
from cluster.pressure import key_line
from cluster.pressure.admission import FEW, WINDOW_S
from cluster.protocol.changes import Put
from cluster.protocol.messages import Outcome
from cluster.requests import Found, Overloaded, Unavailable, Unknown, Written
from tests.coordination.three_nodes import Fate, form_cluster


async def test_a_write_to_all_replicas_holds_up_nobody_else() -> None:
    """A write with w=3 and a long timeout kept its key to itself until the third, paused replica answered.

    Every other write of the key waited behind it and timed out.
    """
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await cluster.put(0, key, b"before")
    cluster.network.treat(Fate.SILENT, target=2)
    to_all = asyncio.create_task(cluster.put(0, key, b"to all", needed=3, timeout_s=6))
    await asyncio.sleep(0.05)
    assert isinstance(await cluster.put(0, key, b"strong", timeout_s=0.5), Written)
    assert isinstance(await cluster.put(1, key, b"weak", level=Level.WEAK, timeout_s=0.5), Written)
    assert isinstance(await to_all, Unknown)


async def test_what_waited_too_long_in_the_queue_was_never_sent() -> None:
    """It is told so in time, and does not come up when its turn would have been, after its client has left."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    cluster.network.treat(Fate.SILENT, source=0)
    first = asyncio.create_task(cluster.put(0, key, b"first", timeout_s=2))
    await asyncio.sleep(0)
    assert isinstance(await cluster.put(0, key, b"second", timeout_s=1), Overloaded)
    cluster.network.heal()
    assert isinstance(await first, Unavailable), "its prepare was never answered"
    await asyncio.sleep(2)
    assert cluster.values_on_disk(key) == [None, None, None]


async def test_what_is_called_overloaded_is_not_begun_although_its_turn_came_in_the_same_moment() -> None:
    """It and the write before it had one deadline: it was called overloaded, and then applied."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    cluster.network.treat(Fate.SILENT, source=0)
    writes = [asyncio.create_task(cluster.put(0, key, b"%d" % number, timeout_s=1)) for number in range(3)]
    await asyncio.sleep(0.9)
    cluster.network.heal()
    surely_not = [isinstance(await write, Unavailable | Overloaded) for write in writes]
    await asyncio.sleep(2)
    on_disk = set(cluster.values_on_disk(key))
    assert not any(is_told_so and b"%d" % number in on_disk for number, is_told_so in enumerate(surely_not))


async def test_a_failing_callback_does_not_keep_the_key() -> None:
    """Whoever cannot take its outcome harms neither the next in line nor the replica that told it."""
    cluster = await form_cluster()
    key, primary = cluster.key_led_by(0), cluster.nodes[0].primary
    for _ in range(3):
        primary.submit(key, Put(b"value", ""), 2, asyncio.get_running_loop().time() + 5, _fail)
    assert isinstance(await cluster.put(0, key, b"next"), Written)


def _fail(outcome: Outcome) -> None:
    raise RuntimeError("this callback fails")


async def test_a_full_queue_refuses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would only wait longer than any timeout is told so before it waits."""
    monkeypatch.setattr(key_line, "QUEUE_MAX", 3)
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    cluster.network.treat(Fate.SILENT, source=0)
    waiting = [asyncio.create_task(cluster.put(0, key, b"%d" % number, timeout_s=2)) for number in range(4)]
    await asyncio.sleep(0)
    began_s = asyncio.get_running_loop().time()
    assert isinstance(await cluster.put(0, key, b"one too many", timeout_s=2), Overloaded)
    assert asyncio.get_running_loop().time() == began_s
    await asyncio.gather(*waiting)


async def test_strong_writes_of_one_key_are_applied_in_the_order_they_came() -> None:
    """They queue instead of duelling, however many there are."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    outcomes = await asyncio.gather(*(cluster.put(0, key, b"%d" % number) for number in range(200)))
    versions = [outcome.version for outcome in outcomes if isinstance(outcome, Written)]
    assert len(versions) == 200
    assert versions == sorted(versions)
    read = await cluster.get(1, key)
    assert isinstance(read, Found)
    assert read.record is not None
    assert read.record.value == b"199"


async def test_a_primary_refuses_what_can_not_make_its_deadline_before_it_does_anything() -> None:
    """It is the overloaded one, and the node that was asked can't know: what it hands over is surely not applied."""
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    forwards = cluster.nodes[0].forwards.admission
    await cluster.put(1, key, b"before")
    now_s = asyncio.get_running_loop().time()
    forwards.look(now_s)
    for _ in range(FEW + 1):
        forwards.begin()
    forwards.end(1.0, True)  # the last took a second
    forwards.look(now_s + WINDOW_S)
    assert isinstance(await cluster.put(1, key, b"late", timeout_s=0.5), Overloaded)
    assert cluster.values_on_disk(key) == [b"before"] * 3
    assert forwards.refused == 1
    assert isinstance(await cluster.put(1, key, b"patient", timeout_s=5), Written)
    assert forwards.in_flight == FEW
