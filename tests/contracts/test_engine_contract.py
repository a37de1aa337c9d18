"""What every engine must do, run over each: the twin in memory is worth as much as it behaves like the real one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import (
    Batch,
    Damaged,
    Engine,
    FolderLocked,
    Record,
    ReplicaState,
    StorageError,
)
from tests.contracts.folders import Folders, keys, records, run_in, states, value

lenient = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@lenient
@given(written=st.dictionaries(keys, states, max_size=20), kept=st.dictionaries(keys, records, max_size=5))
def test_everything_written_is_read_back_whole_after_a_restart(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    written: dict[bytes, ReplicaState],
    kept: dict[bytes, Record],
) -> None:
    async def body(folders: Folders) -> None:
        aside = {(key, record.origin): record for key, record in kept.items()}
        engine = await folders.opened()
        await engine.write(Batch(written, aside))
        assert written == await engine.load(list(written))
        await engine.close()
        again = await folders.opened()
        assert written == await again.load(list(written))
        assert aside == await again.kept_aside()

    run_in(kind, tmp_path_factory.mktemp("folder"), body)


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@lenient
@given(
    written=st.dictionaries(keys, states, max_size=30),
    prefix=st.sampled_from([b"", b"a", b"\xff", b"\xff\xff", b"\0"]) | st.binary(max_size=2),
    after=st.none() | keys,
    limit=st.integers(0, 12),
    values=st.booleans(),
    value_bytes_max=st.integers(0, 600),
)
def test_a_scan_is_the_sorted_records_between_its_bounds(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    written: dict[bytes, ReplicaState],
    prefix: bytes,
    after: bytes | None,
    limit: int,
    values: bool,
    value_bytes_max: int,
) -> None:
    async def body(folders: Folders) -> None:
        engine = await folders.opened()
        await engine.write(Batch(written))
        page = await engine.scan(prefix, after, limit, values, value_bytes_max)
        expected: list[bytes] = []
        spent = 0
        in_range = [
            key
            for key in sorted(written)
            if key.startswith(prefix) and (after is None or key > after) and written[key].record is not None
        ]
        for key in in_range:
            if len(expected) == limit or (values and expected and spent >= value_bytes_max):
                break
            record = written[key].record
            assert record is not None
            spent += len(record.value or b"")
            expected.append(key)
        assert expected == [entry.key for entry in page.entries]
        assert page.complete == (expected == in_range)
        for entry in page.entries:
            record = written[entry.key].record
            assert record is not None
            assert entry.record == (record if values else record.without_value())
            assert (entry.size, entry.tombstone) == (len(record.value or b""), record.value is None)

    run_in(kind, tmp_path_factory.mktemp("folder"), body)


async def test_a_tombstone_a_promise_and_a_key_never_heard_of_are_three_things(engine: Engine) -> None:
    tombstone = ReplicaState(9, Record(9, 7, False, None))
    await engine.write(Batch({b"deleted": tombstone, b"promised": ReplicaState(9), b"empty": value(9, b"")}))
    found = await engine.load([b"deleted", b"promised", b"empty", b"absent"])
    assert found == {
        b"deleted": tombstone,
        b"promised": ReplicaState(9, None),
        b"empty": value(9, b""),
        b"absent": ReplicaState(),
    }
    page = await engine.scan(b"", None, 10, True, 1 << 20)
    assert [(entry.key, entry.tombstone) for entry in page.entries] == [(b"deleted", True), (b"empty", False)]


async def test_a_new_state_replaces_the_old_one_whole(engine: Engine) -> None:
    await engine.write(Batch({b"k": value(5, b"old", content_type="text/plain", expires_at_ms=9, fences={"l": 1})}))
    await engine.write(Batch({b"k": value(6, b"new")}))
    assert await engine.load([b"k"]) == {b"k": value(6, b"new")}
    await engine.write(Batch({b"k": ReplicaState(8)}))
    assert await engine.load([b"k"]) == {b"k": ReplicaState(8)}


async def test_an_older_state_is_written_too_for_an_engine_decides_nothing(engine: Engine) -> None:
    await engine.write(Batch({b"k": value(6)}))
    await engine.write(Batch({b"k": value(5)}))
    assert await engine.load([b"k"]) == {b"k": value(5)}


async def test_many_keys_in_one_batch_and_one_load(engine: Engine) -> None:
    written = {b"%05d" % number: value(number + 1, b"%d" % number) for number in range(1_337)}
    await engine.write(Batch(written))
    assert written == await engine.load(list(written))
    assert await engine.load([b"00001"] * 70) == {b"00001": written[b"00001"]}
    assert await engine.load([]) == {}


async def test_a_record_kept_aside_stays_until_it_is_forgotten(folders: Folders) -> None:
    engine = await folders.opened()
    mine, other = Record(5, 5, True, b"mine"), Record(7, 6, True, None)
    await engine.write(Batch(keep={(b"k", 5): mine, (b"k", 6): other}))
    assert await engine.load([b"k"]) == {b"k": ReplicaState()}, "kept aside is not accepted"
    await engine.write(Batch(keep={(b"k", 6): other.under(9, True)}))
    assert await engine.kept_aside() == {(b"k", 5): mine, (b"k", 6): other.under(9, True)}
    await engine.write(Batch(forget={(b"k", 5), (b"never", 1)}))
    await engine.close()
    assert await (await folders.opened()).kept_aside() == {(b"k", 6): other.under(9, True)}


async def test_facts_survive_a_restart(folders: Folders) -> None:
    engine = await folders.opened()
    assert dict(engine.facts) == {}
    await engine.write(Batch(facts={"topology": b"\0\xff", "ceiling": b"1"}))
    await engine.write(Batch(facts={"ceiling": b"2"}))
    assert dict(engine.facts) == {"topology": b"\0\xff", "ceiling": b"2"}
    await engine.close()
    assert dict((await folders.opened()).facts) == {"topology": b"\0\xff", "ceiling": b"2"}


async def test_a_folder_keeps_its_incarnation_and_another_has_another(folders: Folders) -> None:
    engine = await folders.opened()
    first = engine.incarnation
    assert len(first) == 32
    assert int(first, 16) >= 0
    await engine.close()
    assert first == (await folders.opened()).incarnation
    assert first != (await folders.opened("other")).incarnation


async def test_every_commit_counts_one_over_all_restarts(folders: Folders) -> None:
    engine = await folders.opened()
    start = engine.commit_sequence
    await engine.write(Batch({b"a": value(1), b"b": value(1)}))
    await engine.write(Batch(facts={"f": b""}))
    assert start + 2 == engine.commit_sequence
    await engine.close()
    again = await folders.opened()
    assert start + 2 == again.commit_sequence
    await again.write(Batch({b"a": value(2)}))
    assert start + 3 == again.commit_sequence


async def test_cancelling_a_write_does_not_undo_it(folders: Folders) -> None:
    engine = await folders.opened()
    task = asyncio.get_running_loop().create_task(engine.write(Batch({b"k": value(5)}, facts={"f": b"1"})))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.write(Batch({b"after": value(6)}))
    assert await engine.load([b"k", b"after"]) == {b"k": value(5), b"after": value(6)}
    assert (engine.commit_sequence, dict(engine.facts)) == (2, {"f": b"1"})


async def test_closing_finishes_the_write_under_way(folders: Folders) -> None:
    engine = await folders.opened()
    task = asyncio.get_running_loop().create_task(engine.write(Batch({b"k": value(5)})))
    await asyncio.sleep(0)
    await engine.close()
    await task
    assert await (await folders.opened()).load([b"k"]) == {b"k": value(5)}


async def test_a_folder_serves_one_engine_at_a_time(folders: Folders) -> None:
    engine = await folders.opened()
    with pytest.raises(FolderLocked, match="nothing was touched"):
        await folders.engine().open()
    await engine.write(Batch({b"k": value(5)}))
    await engine.close()
    assert await (await folders.opened()).load([b"k"]) == {b"k": value(5)}


async def test_an_engine_that_is_not_open_refuses_everything(folders: Folders) -> None:
    async def refuses_everything(engine: Engine) -> None:
        scan = engine.scan(b"", None, 1, False, 0)
        for refused in (engine.write(Batch()), engine.load([b"k"]), scan, engine.kept_aside()):
            with pytest.raises(StorageError, match="nothing was read or written"):
                await refused

    engine = folders.engine()
    await refuses_everything(engine)
    await engine.open()
    await engine.close()
    await engine.close()
    await refuses_everything(engine)


async def test_a_rotten_row_is_damaged_and_never_an_absence(folders: Folders) -> None:
    engine = await folders.opened()
    await engine.write(Batch({b"a": value(5), b"b": value(5), b"p": ReplicaState(5)}))
    await engine.close()
    await folders.rot(engine, b"b")
    await folders.rot(engine, b"p")
    again = await folders.opened()
    found = await again.load([b"a", b"b", b"p", b"absent"])
    assert (found[b"a"], found[b"absent"]) == (value(5), ReplicaState())
    assert isinstance(found[b"b"], Damaged)
    assert isinstance(found[b"p"], Damaged)
    assert [entry.key for entry in (await again.scan(b"", None, 1, False, 0)).entries] == [b"a"]
    for values in (False, True):
        with pytest.raises(StorageError, match="'b'"):
            await again.scan(b"", None, 10, values, 1 << 20)
        with pytest.raises(StorageError, match="'p'"):
            await again.scan(b"p", None, 10, values, 1 << 20)
    await again.write(Batch({b"b": value(6), b"p": ReplicaState(6)}))
    assert (await again.load([b"b"]))[b"b"] == value(6), "a row that is written anew is sound again"


async def test_a_scan_stays_within_its_prefix_wherever_it_begins(engine: Engine) -> None:
    written = {key: value(5) for key in (b"a", b"aa", b"b", b"b\xff", b"b\xff\xff", b"c", b"\xff", b"\xff\xff")}
    await engine.write(Batch(written))

    async def listed(prefix: bytes, after: bytes | None) -> list[bytes]:
        return [entry.key for entry in (await engine.scan(prefix, after, 10, False, 0)).entries]

    assert await listed(b"b", b"a") == [b"b", b"b\xff", b"b\xff\xff"]
    assert await listed(b"b\xff", b"b\xff") == [b"b\xff\xff"]
    assert await listed(b"b", b"c") == []
    assert await listed(b"\xff", None) == [b"\xff", b"\xff\xff"]
    assert await listed(b"\xff", b"\xff") == [b"\xff\xff"]
    assert await listed(b"", None) == sorted(written)
