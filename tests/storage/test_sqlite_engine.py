"""What is SQLite's own: the folder, the settings, damage on disk, and that the event loop never waits."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import Batch, Damaged, FolderUnusable, Record, ReplicaState, SqliteEngine, StorageError
from storage.sqlite import schema
from storage.sqlite.writer import apply_settings


def value(ballot: int, content: bytes, content_type: str = "text/plain") -> ReplicaState:
    return ReplicaState(ballot, Record(ballot, ballot, False, content, content_type))


async def opened(folder: Path) -> SqliteEngine:
    engine = SqliteEngine(folder)
    await engine.open()
    return engine


async def written(folder: Path, batch: Batch) -> Path:
    """A closed folder that holds the batch; its database file."""
    engine = await opened(folder)
    await engine.write(batch)
    await engine.close()
    return folder / "kvstore.db"


def flip(path: Path, marker: bytes, occurrence: int = 0) -> None:
    """Flips one bit in the middle of the marker, where the file has it."""
    content = bytearray(path.read_bytes())
    places = [place for place in range(len(content)) if content.startswith(marker, place)]
    content[places[occurrence] + len(marker) // 2] ^= 0x04
    path.write_bytes(content)


def change(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute(statement)
    database.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


MARKER = b"seven wise masters"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (value(5, b"." * 50 + MARKER), "the value has changed on disk"),
        (value(5, b"." * 50_000 + MARKER + b"." * 50_000), "the value has changed on disk"),
        (value(5, b"v", MARKER.decode()), "ballots, type, expiry or fences have changed"),
    ],
    ids=["value", "value on overflow pages", "header"],
)
async def test_a_flipped_bit_is_found_when_the_key_is_loaded(tmp_path: Path, state: ReplicaState, reason: str) -> None:
    database = await written(tmp_path, Batch({b"good": value(5, b"good"), b"rotten": state}))
    flip(database, MARKER)
    engine = await opened(tmp_path)
    found = await engine.load([b"good", b"rotten"])
    assert found[b"good"] == value(5, b"good")
    damaged = found[b"rotten"]
    assert isinstance(damaged, Damaged)
    assert reason in damaged.reason
    assert "b'rotten'" in damaged.reason
    with pytest.raises(StorageError, match="b'rotten'"):
        await engine.scan(b"", None, 10, True, 1 << 20)
    await engine.close()


@pytest.mark.parametrize(
    "column", ["promised", "ballot", "origin", "weak", "expires_at_ms", "value_checksum", "checksum"]
)
async def test_every_number_of_a_row_is_under_its_checksum(tmp_path: Path, column: str) -> None:
    database = await written(tmp_path, Batch({b"k": value(5, b"v")}))
    change(database, f"UPDATE records SET {column} = {column} + 1")
    engine = await opened(tmp_path)
    assert isinstance((await engine.load([b"k"]))[b"k"], Damaged)
    with pytest.raises(StorageError):
        await engine.scan(b"", None, 10, False, 0)
    await engine.close()


@pytest.mark.parametrize("column", ["promised", "content_type", "fences", "value", "checksum"])
@pytest.mark.parametrize("changed", ["'text'", "1.5", "x'00'"])
async def test_a_column_of_another_type_is_damage_and_no_crash(tmp_path: Path, column: str, changed: str) -> None:
    database = await written(tmp_path, Batch({b"k": value(5, b"v")}))
    change(database, f"UPDATE records SET {column} = {changed}")
    engine = await opened(tmp_path)
    assert isinstance((await engine.load([b"k"]))[b"k"], Damaged)
    await engine.close()


async def test_a_value_that_became_a_tombstone_is_damage(tmp_path: Path) -> None:
    database = await written(tmp_path, Batch({b"k": value(5, b"")}))
    change(database, "UPDATE records SET value = NULL")
    engine = await opened(tmp_path)
    assert isinstance((await engine.load([b"k"]))[b"k"], Damaged)
    await engine.close()


LONG_KEY = b"a key that is long enough to find"


@pytest.mark.parametrize("copy", ["table", "index"])
async def test_a_key_that_rotted_in_one_of_its_two_places(tmp_path: Path, copy: str) -> None:
    database = await written(tmp_path, Batch({LONG_KEY: value(5, b"v"), b"other": value(5, b"w")}))
    flip(database, LONG_KEY, ["table", "index"].index(copy))
    engine = await opened(tmp_path)
    found = await engine.load([LONG_KEY, b"other"])
    assert found[b"other"] == value(5, b"w")
    if copy == "table":  # keys are read from the index
        assert found[LONG_KEY] == value(5, b"v")
    else:  # it can't be found any more: whoever goes through all rows is told
        with pytest.raises(StorageError, match="changed on disk"):
            await engine.scan(b"", None, 10, False, 0)
    await engine.close()


@pytest.mark.parametrize("led_to", ["a rotten key", "another row"])
async def test_a_row_that_bears_another_key_is_neither_absent_nor_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, led_to: str
) -> None:
    """As another SQLite may answer, that reads the key from the table."""
    await written(tmp_path, Batch({b"asked": value(5, b"v"), b"other": value(5, b"w")}))
    engine = await opened(tmp_path)
    reader = engine._reader
    assert reader is not None
    fetch: Callable[..., object] = reader._loads.execute_fetchall
    (row,), (other,) = [await fetch(schema.select_records(1), (key,)) for key in (b"asked", b"other")]  # type: ignore[misc]
    found_instead = other if led_to == "another row" else (b"bskec", *row[1:])

    async def misled(sql: str, parameters: object) -> list[object]:
        rows = list(await fetch(sql, parameters))  # type: ignore[misc]
        return [found_instead if row[0] == b"asked" else row for row in rows]

    monkeypatch.setattr(reader._loads, "execute_fetchall", misled)
    for keys in ([b"asked"], [b"asked", b"other", b"absent"]):
        found = await engine.load(keys)
        assert found.keys() == set(keys)
        assert isinstance(found[b"asked"], Damaged)
    assert (found[b"other"], found[b"absent"]) == (value(5, b"w"), ReplicaState())
    await engine.close()


async def test_a_bad_page_costs_the_keys_on_it_and_no_others(tmp_path: Path) -> None:
    states = {b"%04d" % number: value(5, MARKER + b"%04d" % number + b"." * 200) for number in range(500)}
    database = await written(tmp_path, Batch(states))
    content = bytearray(database.read_bytes())
    page = content.index(MARKER + b"0250") // 4096 * 4096
    content[page : page + 200] = b"\xa5" * 200
    database.write_bytes(content)
    engine = await opened(tmp_path)
    found = await engine.load(list(states))
    damaged = {key for key, state in found.items() if isinstance(state, Damaged)}
    assert b"0250" in damaged
    assert len(damaged) < 50
    assert all(found[key] == states[key] for key in states.keys() - damaged)
    with pytest.raises(StorageError, match="can't be listed"):
        await engine.scan(b"", None, 1000, True, 1 << 20)
    await engine.close()


async def test_a_rotten_record_that_was_kept_aside_is_an_error(tmp_path: Path) -> None:
    database = await written(tmp_path, Batch(keep={(b"k", 5): Record(5, 5, True, b"v")}))
    change(database, "UPDATE kept_aside SET weak = 0")
    engine = await opened(tmp_path)
    with pytest.raises(StorageError, match="b'k'"):
        await engine.kept_aside()
    await engine.close()


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        (f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}", "newer program"),
        ("PRAGMA application_id = 7", "another program's database"),
        ("UPDATE folder SET commit_sequence = 1000", "commit sequence .* has changed on disk"),
        ("UPDATE folder SET incarnation = 'other'", "incarnation .* has changed on disk"),
        ("DELETE FROM folder", "has changed on disk"),
        ("UPDATE facts SET value = x'00'", "the fact 'cluster' .* has changed on disk"),
        ("UPDATE facts SET checksum = 'text'", "the fact 'cluster' .* has changed on disk"),
        ("DROP TABLE facts", "can't be used"),
    ],
)
async def test_a_folder_that_cant_be_trusted_is_refused_untouched(
    tmp_path: Path, statement: str, complaint: str
) -> None:
    database = await written(tmp_path, Batch({b"k": value(5, b"v")}, facts={"cluster": b"c"}))
    change(database, statement)
    before = database.read_bytes()
    for _ in range(2):  # the refusal lets go of the folder
        with pytest.raises(FolderUnusable, match=complaint):
            await opened(tmp_path)
    assert before == database.read_bytes()


@pytest.mark.parametrize("foreign", ["database", "garbage"])
async def test_a_file_that_is_not_ours_is_refused_untouched(tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "kvstore.db"
    if foreign == "database":
        change(path, "CREATE TABLE theirs (a)")
    else:
        path.write_bytes(b"garbage" * 1000)
    before = path.read_bytes()
    with pytest.raises(FolderUnusable):
        await opened(tmp_path)
    assert before == path.read_bytes()


async def test_a_folder_that_cant_be_made_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderUnusable, match="can't be used"):
        await opened(tmp_path / "file" / "data")


async def test_the_settings_that_safety_rests_on_are_taken(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path, page_cache_bytes_max=8 << 20)
    await engine.open()
    reader = engine._reader
    assert reader is not None
    assert len({reader._loads, reader._scans, reader._sweeps}) == 3
    for connection, cache in ((reader._loads, -2048), (reader._scans, -1792), (reader._sweeps, -256)):
        expected = {
            "query_only": 1, "wal_autocheckpoint": 0, "mmap_size": 0, "cell_size_check": 1,
            "trusted_schema": 0, "busy_timeout": 5000, "journal_mode": "wal", "cache_size": cache,
        }  # fmt: skip
        for name, wanted in expected.items():
            rows = list(await connection.execute_fetchall(f"PRAGMA {name}"))
            assert tuple(rows[0]) == (wanted,), name
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await connection.execute("DELETE FROM records")

    def writers() -> dict[str, int | str]:
        connection = engine._writer._connection
        assert connection is not None
        names = ("journal_mode", "synchronous", "mmap_size", "cell_size_check", "trusted_schema", "cache_size")
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    assert await engine._in_thread(writers) == {
        "journal_mode": "wal",
        "synchronous": 2,
        "mmap_size": 0,
        "cell_size_check": 1,
        "trusted_schema": 0,
        "cache_size": -4096,
    }
    await engine.close()


def test_a_setting_that_did_not_take_is_refused() -> None:
    without_log = sqlite3.connect(":memory:")
    with pytest.raises(FolderUnusable, match=r"journal_mode = wal \(it reads memory\)"):
        apply_settings(without_log, schema.WRITER_SETTINGS)
    unknown = schema.Setting("no_such_setting", 1, "it does not exist")
    with pytest.raises(FolderUnusable, match="it does not exist"):
        apply_settings(without_log, [unknown])
    without_log.close()


async def test_only_the_owner_can_read_the_folder_and_its_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = tmp_path / "new" / "data"
        engine = await opened(folder)
        await engine.write(Batch({b"k": value(5, b"v")}))
        assert mode(folder) == 0o700
        assert {path.name: mode(path) for path in folder.iterdir()} == dict.fromkeys(
            ("kvstore.db", "kvstore.db-wal", "kvstore.db-shm", "lock"), 0o600
        )
        await engine.close()
    finally:
        os.umask(before)


async def test_a_folder_with_other_things_in_it_keeps_its_permissions(tmp_path: Path) -> None:
    shared, empty = tmp_path / "shared", tmp_path / "empty"
    for folder in (shared, empty):
        folder.mkdir()
        folder.chmod(0o755)
    (shared / "something").touch()
    for folder in (shared, empty):
        await (await opened(folder)).close()
    assert (mode(shared), mode(empty)) == (0o755, 0o700)


async def test_names_with_signs_that_mean_something_in_a_uri(tmp_path: Path) -> None:
    folder = tmp_path / "what? 100% #1 ö"
    engine = await opened(folder)
    await engine.write(Batch({b"k": value(5, b"v")}))
    assert await engine.load([b"k"]) == {b"k": value(5, b"v")}
    await engine.close()
    assert (folder / "kvstore.db").exists()


async def test_closing_leaves_no_log_and_no_lock(tmp_path: Path) -> None:
    await written(tmp_path, Batch({b"k": value(5, b"v")}))
    assert set(os.listdir(tmp_path)) == {"kvstore.db", "lock"}
    await (await opened(tmp_path)).close()


@pytest.mark.parametrize("turns", range(6))
async def test_an_opening_that_is_cancelled_lets_go_of_the_folder(tmp_path: Path, turns: int) -> None:
    opening = asyncio.ensure_future(SqliteEngine(tmp_path).open())
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    await (await opened(tmp_path)).close()


async def test_the_event_loop_runs_while_a_write_waits(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    blocker = sqlite3.connect(tmp_path / "kvstore.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    write = asyncio.ensure_future(engine.write(Batch({b"k": value(5, b"v")})))
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert not write.done()
    assert await engine.load([b"k"]) == {b"k": ReplicaState()}, "readers go on too"
    blocker.execute("ROLLBACK")
    await write
    assert await engine.load([b"k"]) == {b"k": value(5, b"v")}
    blocker.close()
    await engine.close()


async def test_a_log_that_has_grown_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "WAL_BYTES_MAX", 200_000)
    engine = await opened(tmp_path)
    log = tmp_path / "kvstore.db-wal"
    sizes = []
    for number in range(1, 100):
        await engine.write(Batch({b"%d" % number: value(number, os.urandom(10_000))}))
        sizes.append(log.stat().st_size)
    assert max(sizes) <= 200_000
    assert sizes.count(0) >= 2
    await engine.close()


async def test_listings_of_large_values_are_read_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await opened(tmp_path)
    await engine.write(Batch({b"%03d" % number: value(5, b"v" * 1000) for number in range(100)}))
    reader = engine._reader
    assert reader is not None
    fetched: list[int] = []
    fetch: Callable[..., object] = reader._scans.execute_fetchall

    async def counted(sql: str, parameters: tuple[object, ...]) -> list[object]:
        rows = list(await fetch(sql, parameters))  # type: ignore[misc]
        fetched.append(len(rows))
        return rows

    monkeypatch.setattr(reader._scans, "execute_fetchall", counted)
    page = await engine.scan(b"", None, 100, True, 20_000)
    assert (len(page.entries), page.complete) == (20, False)
    assert fetched == [16, 16]
    await engine.close()
