"""Random operations give what a dictionary gives, through two clients of one file and over reopening."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvstore
from kvstore import Delete, Get, Put
from kvstore.client.asynchronous import AsyncClient
from kvstore.embedded.file_store import FileStore
from tests.kvstore.embedded.conftest import ShiftedClock

KEYS = st.sampled_from(["a", "b", "a/1", "ä", "\U0010ffff", "z" * 1_024])
VALUES = st.binary(max_size=40) | st.just(b"." * 9_000)
TTLS = st.none() | st.integers(1, 20)
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, VALUES, TTLS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("create"), KEYS, VALUES),
    st.tuples(st.just("over"), KEYS, VALUES, st.booleans()),
    st.tuples(st.just("swap"), KEYS, VALUES, VALUES),
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("list"), st.sampled_from(["", "a", "a/", "ä", "zz"]), st.integers(1, 4)),
    st.tuples(st.just("batch"), st.lists(st.tuples(KEYS, st.none() | VALUES), max_size=4)),
    st.tuples(st.just("wait"), st.integers(1, 10)),
    st.tuples(st.just("reopen")),
)


class Model:
    """What there should be: key -> (value, when it is over)."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[bytes, int | None]] = {}
        self.now_s = 0

    def get(self, key: str) -> bytes | None:
        value, ends_s = self.held.get(key, (None, None))
        return None if ends_s is not None and ends_s <= self.now_s else value

    def put(self, key: str, value: bytes | None, ttl: int | None = None) -> None:
        self.held.pop(key, None)
        if value is not None:
            self.held[key] = value, None if ttl is None else self.now_s + ttl

    def keys(self, prefix: str) -> list[str]:
        return sorted(
            (key for key in self.held if key.startswith(prefix) and self.get(key) is not None), key=str.encode
        )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.booleans(), STEPS), min_size=1, max_size=25))
def test_the_same_operations_give_the_same_results(steps: list[tuple[bool, tuple[Any, ...]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(Path(folder) / "app.db", steps))


async def compare(path: Path, steps: list[tuple[bool, tuple[Any, ...]]]) -> None:
    model, clock = Model(), ShiftedClock()
    frozen_ms = clock.wall_ms()
    clock.wall_ms = lambda: frozen_ms + clock.wall_shift_ms  # type: ignore[method-assign]
    clients = [AsyncClient(FileStore(path, clock=clock)) for _ in range(2)]
    last_version = ""
    for is_second, (what, *details) in steps:
        client = clients[is_second]
        version = None
        match what, details:
            case "put", [key, value, ttl]:
                version = (await client.put(key, value, ttl=ttl)).version
                model.put(key, value, ttl)
            case "delete", [key]:
                version = (await client.delete(key)).version
                model.put(key, None)
            case "create", [key, value]:
                is_free = model.get(key) is None
                assert (await holds(client.put(key, value, create=True), kvstore.Exists)) == is_free
                if is_free:
                    model.put(key, value)
            case "over", [key, value, is_current]:
                found = await client.get(key)
                version_given = found.version if found and is_current else "0" * 15 + "1"
                written = await holds(client.put(key, value, if_match=version_given), kvstore.VersionMismatch)
                assert written == (found is not None and is_current)
                if written:
                    model.put(key, value)
            case "swap", [key, expected, value]:
                is_equal = model.get(key) == expected
                assert (await holds(client.compare_and_set(key, expected, value), kvstore.VersionMismatch)) == is_equal
                if is_equal:
                    model.put(key, value)
            case "get", [key]:
                found = await client.get(key)
                assert (None if found is None else found.value) == model.get(key)
            case "list", [prefix, limit]:
                listed = [entry async for entry in client.list(prefix, limit=limit, values=True)]
                assert [entry.key for entry in listed] == model.keys(prefix)[:limit]
                assert [entry.value for entry in listed] == [model.get(entry.key) for entry in listed]
            case "batch", [pairs]:
                operations = [Delete(key) if value is None else Put(key, value) for key, value in pairs]
                results = await client.batch([*operations, *(Get(key) for key, _ in pairs)])
                for key, value in pairs:
                    model.put(key, value)
                read = [getattr(result, "value", None) for result in results[len(pairs) :]]
                assert read == [model.get(key) for key, _ in pairs]
            case "wait", [seconds]:
                clock.wall_shift_ms += seconds * 1_000
                model.now_s += seconds
            case _:
                await client.close()
                clients[is_second] = AsyncClient(FileStore(path, clock=clock))
        if version is not None:
            assert version > last_version
            last_version = version
    assert [entry.key async for entry in clients[0].list()] == model.keys("")
    for client in clients:
        await client.close()


async def holds(write: Awaitable[object], refusal: type[kvstore.KvstoreError]) -> bool:
    try:
        await write
    except refusal:
        return False
    return True
