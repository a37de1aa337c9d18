"""kvstore.open(): the same methods as a cluster's client, the same refusals, and what a file adds to them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from pathlib import Path

import pytest

import kvstore
from kvstore import Delete, Fence, Get, Put
from kvstore.client.asynchronous import AsyncClient
from kvstore.embedded import arguments
from kvstore.http.incoming import media, parameters
from kvstore.http.routes import operations
from tests.kvstore.embedded.conftest import Opened, ShiftedClock


async def test_what_is_written_is_read_with_all_that_belongs_to_it(db: AsyncClient) -> None:
    written = await db.put("a/ä", "text", content_type="text/plain", consistency="weak", w="all")
    found = await db.get("a/ä", r=1)
    assert found is not None
    assert (found.key, found.text, found.content_type, found.version) == ("a/ä", "text", "text/plain", written.version)
    assert (written.level, written.acks, written.replicas) == ("weak", 1, 1)
    assert found.receipt == kvstore.Receipt(level="strong", n=1, needed=1, acks=1)
    weak = await db.get("a/ä", consistency="eventual")
    assert weak is not None
    assert weak.receipt is not None
    assert (weak.receipt.level, weak.receipt.age is not None) == ("eventual", True)
    assert await db.get("b") is None


async def test_a_second_client_of_the_file_sees_it_at_once_and_versions_grow(opened: Opened) -> None:
    one, other = await opened(), await opened()
    versions = [(await client.put("a", b"%d" % turn)).version for turn in range(4) for client in (one, other)]
    versions += [(await one.delete("a")).version, (await other.delete("a")).version, (await one.put("a", "x")).version]
    assert versions == sorted(set(versions))
    assert all(len(version) == 16 for version in versions)
    found = await other.get("a")
    assert found is not None
    assert found.text == "x"


async def test_conditions(db: AsyncClient) -> None:
    first = await db.put("a", "1", create=True)
    with pytest.raises(kvstore.Exists) as exists:
        await db.put("a", "2", create=True)
    assert exists.value.version == first.version
    second = await db.put("a", "2", if_match=first)
    with pytest.raises(kvstore.VersionMismatch) as mismatch:
        await db.put("a", "3", if_match=first.version)
    assert mismatch.value.version == second.version
    with pytest.raises(kvstore.VersionMismatch) as mismatch:
        await db.delete("b", if_match="*")
    assert mismatch.value.version is None
    await db.delete("a", if_match="*")
    with pytest.raises(kvstore.VersionMismatch):
        await db.put("a", "3", if_match=second)
    await db.compare_and_set("a", None, "4")
    await db.compare_and_set("a", "4", "5")
    with pytest.raises(kvstore.VersionMismatch):
        await db.compare_and_set("a", "4", "6")


BAD = {
    "": ({}, kvstore.BadRequest),
    "k" * 1_025: ({}, kvstore.BadRequest),
    "a\0b": ({}, kvstore.BadRequest),
    "\ud800": ({}, kvstore.BadRequest),
    "1": ({"consistency": "srong"}, kvstore.BadRequest),
    "2": ({"w": 2}, kvstore.BadRequest),
    "3": ({"w": 0}, kvstore.BadRequest),
    "4": ({"w": "most"}, kvstore.BadRequest),
    "5": ({"w": True}, kvstore.BadRequest),
    "6": ({"ttl": 0.05}, kvstore.BadRequest),
    "7": ({"ttl": float("nan")}, kvstore.BadRequest),
    "8": ({"ttl": 400_000_000}, kvstore.BadRequest),
    "9": ({"content_type": "text/ä"}, kvstore.BadRequest),
    "10": ({"if_match": "12"}, kvstore.BadRequest),
    "11": ({"if_match": "0" * 16, "create": True}, kvstore.BadRequest),
    "12": ({"create": True, "consistency": "weak"}, kvstore.NeedsStrong),
    "13": ({"fence": Fence("lock", 1), "consistency": "weak"}, kvstore.NeedsStrong),
    "14": ({"fence": Fence("", 1)}, kvstore.BadFence),
    "15": ({"fence": Fence("lock", 0)}, kvstore.BadFence),
    "16": ({"fence": Fence("lock", 1)}, kvstore.BadFence),
}


@pytest.mark.parametrize("key", BAD, ids=[f"bad-{number}" for number in range(len(BAD))])
async def test_what_means_nothing_is_refused(db: AsyncClient, key: str) -> None:
    more, kind = BAD[key]
    with pytest.raises(kind) as refusal:
        await db.put(key, "x", **more)  # type: ignore[arg-type]
    assert refusal.value.outcome == "not-applied"
    assert [entry async for entry in db.list()] == []


async def test_large_values_are_refused(db: AsyncClient) -> None:
    await db.put("a", b"." * arguments.VALUE_BYTES_MAX)
    with pytest.raises(kvstore.TooLarge) as refusal:
        await db.put("a", b"." * (arguments.VALUE_BYTES_MAX + 1))
    assert refusal.value.limit == arguments.VALUE_BYTES_MAX
    found = await db.get("a")
    assert found is not None
    assert len(found.value) == arguments.VALUE_BYTES_MAX


def test_limits_are_those_of_a_node() -> None:
    assert (arguments.VALUE_TTL_S_MIN, arguments.VALUE_TTL_S_MAX) == (parameters.TTL_S_MIN, parameters.TTL_S_MAX)
    assert arguments.LIST_LIMIT_MAX == parameters.LIST_LIMIT_MAX
    assert arguments.OPERATIONS_MAX == operations.OPERATIONS_MAX
    assert arguments.BATCH_BYTES_MAX == operations.BODY_BYTES_MAX
    assert (arguments.CONTENT_TYPE, arguments.CONTENT_TYPE_CHARACTERS_MAX) == (
        media.DEFAULT,
        media.CONTENT_TYPE_CHARACTERS_MAX,
    )


async def test_what_expired_does_not_come_back_when_the_clock_does(db: AsyncClient, clock: ShiftedClock) -> None:
    for key in ("got", "listed", "batched", "put over", "swept"):
        await db.put(key, "x", ttl=60, fence=None)
    await db.put("stays", "x")
    found = await db.get("got")
    assert found is not None
    assert found.expires_in is not None
    assert 59 < found.expires_in <= 60

    clock.wall_shift_ms = 61_000
    assert await db.get("got") is None
    assert [entry.key async for entry in db.list(prefix="listed")] == []
    assert await db.batch([Get("batched")]) == [None]
    with pytest.raises(kvstore.VersionMismatch):
        await db.put("put over", "y", if_match="*")
    await db.put("stays", "y")  # sweeps up what nobody asks for

    clock.wall_shift_ms = 0
    assert [entry.key async for entry in db.list()] == ["stays"]
    for key in ("got", "listed", "batched", "put over", "swept"):
        assert await db.get(key) is None, key


async def test_listings_walk_through_all_keys_in_byte_order(db: AsyncClient) -> None:
    keys = [f"k/{number:04}" for number in range(1_203)] + ["k0", "ä", "K"]
    for begin in range(0, len(keys), 1_000):
        await db.batch([Put(key, key) for key in keys[begin : begin + 1_000]])
    assert [entry.key async for entry in db.list()] == sorted(keys, key=str.encode)
    assert [entry.key async for entry in db.list("k/", after="k/1200")] == ["k/1201", "k/1202"]
    found = [entry async for entry in db.list("k/", values=True, limit=150)]
    assert [entry.text for entry in found] == keys[:150]
    assert [entry.key async for entry in db.list("k/", after="a", limit=1)] == ["k/0000"]
    with pytest.raises(kvstore.BadRequest):
        [entry async for entry in db.list("k\0")]


async def test_a_batch_has_a_result_for_each_operation(db: AsyncClient) -> None:
    old = await db.put("a", "1")
    results = await db.batch(
        [
            Put("a", "2", if_match=old.version),
            Put("a", "3", create=True),
            Get("a"),
            Get("nothing"),
            Delete("a"),
            Get("a"),
            Put("", "x"),
            Put("b", b"\xff", ttl=30, content_type="text/plain", fence=Fence("never", 5)),
            Put("c", "." * (arguments.VALUE_BYTES_MAX + 1)),
            Put("d", "4"),
        ]
    )
    assert isinstance(results[0], kvstore.Written)
    assert isinstance(results[1], kvstore.Exists)
    assert isinstance(results[2], kvstore.Value)
    assert results[2].text == "2"
    assert results[3] is None
    assert isinstance(results[4], kvstore.Written)
    assert results[5] is None
    assert [type(result) for result in results[6:]] == [
        kvstore.BadRequest,
        kvstore.BadFence,
        kvstore.TooLarge,
        kvstore.Written,
    ]
    assert [entry.key async for entry in db.list()] == ["d"]
    with pytest.raises(kvstore.TooLarge):
        await db.batch([Get("a")] * 1_001)
    assert await db.batch([]) == []


async def test_a_rotten_value_is_an_error_and_never_an_absence(db: AsyncClient, path: Path) -> None:
    await db.put("a", "1")
    await db.put("b", "2")
    meddler = sqlite3.connect(path)
    meddler.execute("UPDATE entries SET value = x'39' WHERE key = x'61'")
    meddler.commit()
    meddler.close()
    with pytest.raises(kvstore.ReadFailed, match="changed on disk") as failure:
        await db.get("a")
    assert failure.value.code == "damaged"
    results = await db.batch([Get("a"), Get("b")])
    assert isinstance(results[0], kvstore.ReadFailed)
    assert isinstance(results[1], kvstore.Value)
    with pytest.raises(kvstore.ReadFailed):
        [entry async for entry in db.list(values=True)]
    await db.put("a", "3")
    found = await db.get("a")
    assert found is not None
    assert found.text == "3"


async def test_a_file_that_others_hold_is_waited_for_until_the_deadline(db: AsyncClient, path: Path) -> None:
    await db.put("a", "1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(kvstore.Overloaded, match="nothing was read or written") as refusal:
        await db.put("a", "2", timeout=0.1)
    assert refusal.value.outcome == "not-applied"
    with pytest.raises(kvstore.ReadTimedOut):
        await db.get("a", timeout=0.1)
    waiting = asyncio.ensure_future(db.put("a", "3"))
    await asyncio.sleep(0)
    other.execute("COMMIT")
    other.close()
    await waiting
    found = await db.get("a")
    assert found is not None
    assert found.text == "3"


async def test_a_cancelled_write_is_whole_or_not_there(db: AsyncClient) -> None:
    for turn in range(20):
        writing = asyncio.ensure_future(db.put(f"a{turn}", "1"))
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await db.put("after", "1")
    assert {entry.size async for entry in db.list()} == {1}


def test_a_strangers_file_is_refused_with_words(path: Path) -> None:
    path.write_text("dear friend")
    with kvstore.open(path) as db, pytest.raises(kvstore.BadRequest, match="nothing was touched") as refusal:
        db.get("a")
    assert refusal.value.code == "bad-file"
    assert path.read_text() == "dear friend"
    with pytest.raises(ValueError, match="names no file"):
        kvstore.open(":memory:")


def test_without_await_and_from_many_threads(path: Path) -> None:
    with kvstore.open(path) as db:

        def count() -> None:
            for _ in range(10):
                with db.lock("l") as lock:
                    found = db.get("n")
                    db.put("n", str(int(found.text) + 1 if found else 1), fence=lock)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = db.get("n")
        assert found is not None
        assert found.text == "40"
    with kvstore.open(str(path)) as db:
        assert [entry.key for entry in db.list()] == ["n"]


def test_a_child_of_a_fork_uses_the_same_client(path: Path) -> None:
    """The one with await; the one without has a thread, which no child inherits, and says so."""
    db = kvstore.open_async(path)
    asyncio.run(db.put("a", "parent"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(db.put("b", "child"))
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    async def look() -> list[str]:
        found = [entry.key async for entry in db.list()]
        await db.close()
        return found

    assert asyncio.run(look()) == ["a", "b"]
