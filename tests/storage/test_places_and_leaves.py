"""What is SQLite's own in the service of repair: indexes by place, the leaves' journal, room that comes back."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from storage import Batch, DiskFull, FolderUnusable, Record, ReplicaState, Row, SqliteEngine, hash_of
from storage.sqlite import leaf_sums, schema

SPACE = 1 << 32


def value(ballot: int, content: bytes = b"v") -> ReplicaState:
    return ReplicaState(ballot, Record(ballot, ballot, False, content))


async def opened(folder: Path) -> SqliteEngine:
    engine = SqliteEngine(folder)
    await engine.open()
    return engine


async def written(folder: Path, *batches: Batch) -> Path:
    """A closed folder that holds the batches; its database file."""
    engine = await opened(folder)
    for batch in batches:
        await engine.write(batch)
    await engine.close()
    return folder / "kvstore.db"


def ask(database: Path, query: str, *parameters: object) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(database)
    with connection:
        rows = connection.execute(query, parameters).fetchall()
    connection.close()
    return rows


# -- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parameters", "index"),
    [(schema.ROWS_BY_PLACE, 5, "records_by_place"), (schema.PURGEABLE, 4, "records_to_purge")],
)
async def test_a_range_of_places_is_a_range_of_an_index(
    tmp_path: Path, query: str, parameters: int, index: str
) -> None:
    database = await written(tmp_path)
    plan = [str(row[3]) for row in ask(database, f"EXPLAIN QUERY PLAN {query}", *[0] * parameters)]
    assert f"SEARCH records USING INDEX {index} (place>? AND place<?)" in plan
    assert not any("SCAN" in step for step in plan)


async def test_an_update_leaves_the_index_by_place_alone(tmp_path: Path) -> None:
    database = await written(tmp_path)
    ((root,),) = ask(database, "SELECT rootpage FROM sqlite_master WHERE name = 'records_by_place'")
    program = ask(database, f"EXPLAIN {schema.upsert_records(1)}", *[1] * 12)
    (cursor,) = [step[2] for step in program if step[1] == "OpenWrite" and step[3] == root]
    touched = [step[1] for step in program if str(step[1]).startswith("Idx") and step[2] == cursor]
    assert touched == ["IdxInsert"], "that of a new row, and no deletion"


async def test_only_what_may_be_purged_is_in_the_index_for_it(tmp_path: Path) -> None:
    states = {b"%d" % number: value(number + 1) for number in range(500)}
    states |= {b"gone": ReplicaState(5, Record(5, 5, False, None)), b"promise": ReplicaState(5)}
    states |= {b"expires": ReplicaState(5, Record(5, 5, False, b"v", "", 77))}
    database = await written(tmp_path, Batch(states), Batch({b"7": ReplicaState(900, Record(900, 900, False, None))}))
    query = f"SELECT key FROM records INDEXED BY records_to_purge WHERE {schema.MAY_BE_PURGED}"
    assert {row[0] for row in ask(database, query)} == {b"gone", b"promise", b"expires", b"7"}


async def test_a_row_that_lies_at_a_wrong_place_is_not_listed_there(tmp_path: Path) -> None:
    states = {b"%d" % number: ReplicaState(number + 1) for number in range(50)}
    database = await written(tmp_path, Batch(states))
    keys = sorted(states, key=hash_of)
    wrong = hash_of(keys[30])
    for key in keys[10:20]:
        ask(database, "UPDATE records SET place = ? WHERE key = ?", wrong, key)
    engine = await opened(tmp_path)
    left = keys[:10] + keys[20:]
    assert [row.key for row in (await engine.rows(0, SPACE, None, 100)).rows] == left
    found: list[bytes] = []
    complete = False
    while not complete:
        page = await engine.rows(0, SPACE, (hash_of(found[-1]), found[-1]) if found else None, 3)
        complete = page.complete
        assert complete or len(page.rows) == 3
        found += [row.key for row in page.rows]
    assert found == left
    assert await engine.purgeable(0, SPACE, 1000, 0) == left, "or it would go under another partition's floor"
    await engine.close()


async def test_a_rotten_row_is_listed_with_what_can_be_read_of_it(tmp_path: Path) -> None:
    database = await written(tmp_path, Batch({b"k": value(5), b"other": value(5)}))
    ask(database, "UPDATE records SET promised = 'text', origin = x'00' WHERE key = ?", b"k")
    ask(database, "UPDATE records SET key = 'other' WHERE key = ?", b"other")
    engine = await opened(tmp_path)
    assert (await engine.rows(0, SPACE, None, 9)).rows == [Row(b"k", 0, 5, 0, False, 0)]
    await engine.close()


# -- the leaves' sums ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart_every", [1, 7, 1_000])
async def test_the_journal_is_folded_and_no_sum_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart_every: int
) -> None:
    monkeypatch.setattr(leaf_sums, "FOLD_AFTER", 5)
    expected: dict[int, int] = {}
    engine = await opened(tmp_path)
    for number in range(1, 60):
        if number % restart_every == 0:
            await engine.close()
            ((length,),) = ask(tmp_path / "kvstore.db", "SELECT count(*) FROM tree_journal WHERE changes <> x''")
            assert 0 < length <= 5 or number == 1
            engine = await opened(tmp_path)
            assert dict(engine.leaves) == expected
        leaves = {number: number, number * 131 % 1_000: number, 7: number, 128 * number: 1}
        await engine.write(Batch(leaves=leaves))
        expected |= leaves
        if number % 10 == 0:
            await engine.write(Batch({b"no leaf": value(number)}))
    await engine.close()
    counts = "SELECT (SELECT count(*) FROM trees), (SELECT count(*) FROM tree_journal)"
    ((chunks, length),) = ask(tmp_path / "kvstore.db", counts)
    assert chunks > 40
    assert 0 < length <= 5
    engine = await opened(tmp_path)
    assert dict(engine.leaves) == expected
    await engine.close()


async def test_a_folding_that_finds_no_room_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaf_sums, "FOLD_AFTER", 3)
    expected: dict[int, int] = {7: 3, **{chunk * 128: 3 for chunk in range(100)}}
    engine = await opened(tmp_path)
    for number in range(1, 4):
        await engine.write(Batch(leaves=dict.fromkeys(expected, number)))
    connection = engine._writer._connection
    assert connection is not None
    await engine._in_thread(lambda: connection.execute("PRAGMA max_page_count = 1").fetchall())
    for _ in range(2):
        with pytest.raises(DiskFull):
            await engine.write(Batch(leaves={4: 4, 7: 4}))
    await engine.close()
    engine = await opened(tmp_path)
    assert dict(engine.leaves) == expected
    await engine.write(Batch(leaves={5: 5, 128: 5}))
    await engine.close()
    engine = await opened(tmp_path)
    assert dict(engine.leaves) == expected | {5: 5, 128: 5}
    await engine.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trees SET sums = zeroblob(1024) WHERE chunk = 2",
        "UPDATE trees SET sums = 'text' WHERE chunk = 2",
        "UPDATE trees SET chunk = 77 WHERE chunk = 2",
        "UPDATE trees SET checksum = checksum + 1 WHERE chunk = 2",
        "UPDATE trees SET sums = x'00' WHERE chunk = 2",
        "UPDATE tree_journal SET changes = zeroblob(16)",
        "UPDATE tree_journal SET changes = x'00'",
        "UPDATE tree_journal SET commit_sequence = commit_sequence + 1000",
        "UPDATE tree_journal SET checksum = 'text'",
    ],
)
async def test_damaged_sums_are_lost_as_a_whole_and_the_folder_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(leaf_sums, "FOLD_AFTER", 2)
    database = await written(tmp_path, *[Batch({b"k": value(5)}, leaves={number: 5, 300: 6}) for number in range(3)])
    ask(database, statement)
    engine = await opened(tmp_path)
    assert (dict(engine.leaves), engine.leaves_are_lost) == ({}, True)
    assert await engine.load([b"k"]) == {b"k": value(5)}
    await engine.write(Batch(leaves={300: 7, 2: 5}, leaves_are_all=True))
    await engine.close()
    engine = await opened(tmp_path)
    assert (dict(engine.leaves), engine.leaves_are_lost) == ({300: 7, 2: 5}, False)
    await engine.close()


# -- the folder ----------------------------------------------------------------------------------------------------


async def test_a_folder_of_the_first_schema_is_refused_and_it_says_what_to_do(tmp_path: Path) -> None:
    database = tmp_path / "kvstore.db"
    for statement in (
        "CREATE TABLE records (key BLOB PRIMARY KEY NOT NULL, promised INTEGER NOT NULL)",
        "CREATE TABLE folder (only_row INTEGER PRIMARY KEY)",
        f"PRAGMA application_id = {schema.APPLICATION_ID}",
        "PRAGMA user_version = 1",
    ):
        ask(database, statement)
    before = database.read_bytes()
    with pytest.raises(FolderUnusable, match=r"schema version 1.*nothing was touched. Export .* import"):
        await opened(tmp_path)
    assert before == database.read_bytes()


@pytest.mark.parametrize("stopped_after", range(1, 4))
async def test_a_folder_whose_making_was_cut_off_can_give_room_back_all_the_same(
    tmp_path: Path, stopped_after: int
) -> None:
    database = tmp_path / "kvstore.db"
    connection = sqlite3.connect(database, isolation_level=None)
    for statement in ("PRAGMA auto_vacuum = 2", "PRAGMA journal_mode = wal", "PRAGMA synchronous = 2")[:stopped_after]:
        connection.execute(statement).fetchall()
    connection.close()
    await (await opened(tmp_path)).close()
    assert ask(database, "PRAGMA auto_vacuum") == [(2,)]


async def test_room_that_deletions_left_goes_back_to_the_file_system_step_by_step(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    keys = [b"%d" % number for number in range(4_000)]
    await engine.write(Batch({key: value(5, os.urandom(1_000)) for key in keys}))
    await engine.write(Batch({b"stays %d" % number: value(5, b"." * 100) for number in range(200)}))
    await engine.write(Batch(drop=set(keys)))
    await engine.fold()
    sequence = engine.commit_sequence

    def on_disk() -> int:
        return sum(file.stat().st_size for file in tmp_path.iterdir() if file.suffix != ".db-shm")

    assert await engine.reclaim(0) == 0
    full = on_disk()
    assert full > 4_000_000
    given = await engine.reclaim(1_000_000)
    assert 900_000 <= given <= 1_100_000, "as much as was asked for, and no more: others wait meanwhile"
    while step := await engine.reclaim(1_000_000):
        given += step
    assert given > 4_000_000
    assert on_disk() < 300_000
    assert (tmp_path / "kvstore.db-wal").stat().st_size == 0
    assert engine.commit_sequence == sequence
    page = await engine.rows(0, SPACE, None, 1_000)
    assert len(page.rows) == 200
    await engine.write(Batch({b"more": value(5)}))
    await engine.close()
    assert ask(tmp_path / "kvstore.db", "PRAGMA integrity_check") == [("ok",)]


async def test_a_log_that_a_burst_left_long_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "WAL_CHECKPOINT_PAGES", 100)
    engine = await opened(tmp_path)
    log = tmp_path / "kvstore.db-wal"
    await engine.write(Batch({b"k": value(5)}))
    assert await engine.reclaim(1 << 20) == 0
    assert log.stat().st_size > 0, "a short one is left alone"
    await engine.write(Batch({b"large": value(5, os.urandom(1_000_000))}))
    assert await engine.reclaim(1 << 20) == 0
    assert log.stat().st_size == 0
    await engine.close()
