"""What the twin in memory can do beyond the contract: crash, and fail a commit."""

from __future__ import annotations

import asyncio

import pytest

from storage import Batch, CommitFailed, MemoryEngine, MemoryFolder, Record, ReplicaState, StorageError


def state(ballot: int) -> ReplicaState:
    return ReplicaState(ballot, Record(ballot, ballot, False, b"v"))


async def opened(folder: MemoryFolder | None = None) -> MemoryEngine:
    engine = MemoryEngine(folder)
    await engine.open()
    return engine


async def test_a_crash_forgets_what_was_not_committed_and_nothing_else() -> None:
    engine = await opened()
    await engine.write(Batch({b"a": state(1)}))
    lost = asyncio.ensure_future(engine.write(Batch({b"a": state(2), b"b": state(2)}, facts={"f": b"1"})))
    await asyncio.sleep(0)
    engine.crash()
    await asyncio.wait([lost])
    assert lost.cancelled()
    with pytest.raises(StorageError, match="crashed"):
        await engine.load([b"a"])
    again = await opened(engine.folder)
    await engine.close()
    assert await again.load([b"a", b"b"]) == {b"a": state(1), b"b": ReplicaState()}
    assert (again.incarnation, again.commit_sequence, dict(again.facts)) == (engine.incarnation, 1, {})
    await again.write(Batch({b"a": state(3)}))


@pytest.mark.parametrize("applied", [False, True])
async def test_a_commit_that_fails_may_be_on_disk_and_ends_the_engine(applied: bool) -> None:
    engine = await opened()
    await engine.write(Batch({b"a": state(1)}))
    engine.fail_next_commit("no space left", applied=applied)
    with pytest.raises(CommitFailed, match="no space left"):
        await engine.write(Batch({b"a": state(2)}))
    for refused in (engine.write(Batch()), engine.load([b"a"]), engine.kept_aside()):
        with pytest.raises(CommitFailed):
            await refused
    await engine.close()
    again = await opened(engine.folder)
    assert await again.load([b"a"]) == {b"a": state(2 if applied else 1)}


async def test_the_delay_of_a_commit_is_the_tests_to_choose() -> None:
    gate = asyncio.Event()

    async def delay() -> None:
        await gate.wait()

    engine = MemoryEngine(commit_delay=delay)
    await engine.open()
    write = asyncio.ensure_future(engine.write(Batch({b"a": state(1)})))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not write.done()
    assert await engine.load([b"a"]) == {b"a": ReplicaState()}
    gate.set()
    await write
    assert await engine.load([b"a"]) == {b"a": state(1)}
