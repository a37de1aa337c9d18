"""Listings over replicas on which records are damaged: such a record is asked of others, or the listing is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cluster.levels import Level
from cluster.protocol.messages import Prepare, Scan, Scanned, Unfit
from cluster.requests import Listed, ListRequest, Unavailable, Written
from storage.engine import ScanPage
from tests.coordination.three_nodes import Cluster, Fate, form_cluster, until

KEYS = [b"key-%02d" % number for number in range(20)]
DAMAGED = (KEYS[7], KEYS[9])
SCRUBBED_S = 70.0
LEVELS = list(Level)


async def with_damage(*slots: int) -> Cluster:
    """Some of each of these nodes' records have rotted and were removed, and no round can make them whole just now."""
    cluster = await form_cluster()
    for key in KEYS:
        assert isinstance(await cluster.put(0, key, b"value of " + key, needed=3), Written)
    for slot in slots:
        cluster.network.treat(Fate.SILENT, Prepare, source=slot)
        for key in DAMAGED:
            cluster.nodes[slot].engine.damage(key, "its checksum is wrong")
    await asyncio.sleep(SCRUBBED_S)
    for slot in slots:
        assert not set(DAMAGED) & cluster.nodes[slot].engine.folder.states.keys(), "they are gone from the disk"
    return cluster


def keys_of(listed: object) -> Sequence[bytes]:
    assert isinstance(listed, Listed), listed
    return [entry.key for entry in listed.entries]


@pytest.mark.parametrize("level", LEVELS)
async def test_a_record_in_quarantine_is_listed_by_another_replica(level: Level) -> None:
    cluster = await with_damage(2)
    listed = await cluster.page(2, b"key-", level=level)
    assert keys_of(listed) == KEYS
    assert isinstance(listed, Listed)
    assert "n2" not in listed.replicas
    cluster.network.heal()
    await until(lambda: not cluster.nodes[2].replica.damaged)
    listed = await cluster.page(2, b"key-", level=Level.WEAK)
    assert keys_of(listed) == KEYS
    assert isinstance(listed, Listed)
    assert listed.replicas == ("n2",)


@pytest.mark.parametrize("level", [Level.WEAK, Level.EVENTUAL])
async def test_the_listing_is_refused_where_no_replica_is_left(level: Level) -> None:
    cluster = await with_damage(1, 2)
    cluster.network.cut_off(0)
    refused = await cluster.page(2, b"key-", level=level)
    assert isinstance(refused, Unavailable)
    assert (refused.got, refused.replicas) == (0, ())


async def test_pages_without_a_damaged_record_are_told() -> None:
    cluster = await with_damage(2)

    async def scanned(prefix: bytes, after: bytes | None, limit: int) -> bool:
        reply = await cluster.nodes[2].replica.scan(Scan(prefix, after, limit, False))
        assert isinstance(reply, Scanned | Unfit)
        return isinstance(reply, Scanned)

    assert await scanned(b"key-", None, 7)
    assert not await scanned(b"key-", None, 8)  # its last key is behind the one that is not there
    assert not await scanned(b"key-", KEYS[6], 1)
    assert await scanned(b"key-", KEYS[7], 1)
    assert not await scanned(b"key-", KEYS[7], 2)
    assert await scanned(b"key-", KEYS[9], 100)
    assert not await scanned(b"key-09", None, 100)
    assert await scanned(b"key-1", None, 100)
    assert await scanned(b"other", None, 100)
    assert not await scanned(b"", None, 100)


@pytest.mark.parametrize("level", [Level.WEAK, Level.EVENTUAL])
async def test_later_pages_that_meet_damage_are_of_others(level: Level) -> None:
    """The first page is this replica's own, and the next one can't be."""
    cluster = await with_damage(2)
    found: list[bytes] = []
    after: bytes | None = None
    while True:
        page = await cluster.nodes[2].page(ListRequest(b"key-", after, 3, True, level, 1, 5.0))
        found += keys_of(page)
        assert isinstance(page, Listed)
        if page.next_after is None:
            break
        after = page.next_after
    assert found == KEYS


async def test_a_record_that_becomes_whole_while_it_is_listed_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = await with_damage(2)
    node = cluster.nodes[2]
    scan = node.engine.scan
    scans = 0

    async def slow(prefix: bytes, after: bytes | None, limit: int, values: bool, value_bytes_max: int) -> ScanPage:
        nonlocal scans
        scans += 1
        page = await scan(prefix, after, limit, values, value_bytes_max)
        cluster.network.heal()
        await until(lambda: not node.replica.damaged)
        return page

    monkeypatch.setattr(node.engine, "scan", slow)
    reply = await node.replica.scan(Scan(b"key-", None, 100, False))
    assert isinstance(reply, Scanned)
    assert [entry.key for entry in reply.entries] == KEYS
    assert scans == 2
