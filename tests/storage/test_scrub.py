"""Bits that flip in a database file, where nobody asks: what the scrub finds, and that it can be mended."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import Batch, CantMend, Damaged, Hint, Record, ReplicaState, Rot, SqliteEngine
from storage.engine import Engine, StorageError

PAGE = 4096
TABLE_LEAF, INDEX_LEAF = 0x0D, 0x0A
"""What the first byte of a page of SQLite says of it."""
KEYS = 300


def key_of(number: int) -> bytes:
    return b"a key that is long enough to find %04d" % number


def state_of(number: int, size: int = 60) -> ReplicaState:
    value = b"the value of number %04d" % number + b"." * size
    return ReplicaState(100 + number, Record(100 + number, 50 + number, False, value, f"text/x-{number:04}"))


STATES = {key_of(number): state_of(number) for number in range(KEYS)}
VICTIM = 137
KEY = key_of(VICTIM)


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


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    return await written(tmp_path, Batch(STATES))


@pytest.fixture
async def engines() -> AsyncIterator[Callable[[Path], SqliteEngine]]:
    made: list[SqliteEngine] = []

    def make(folder: Path) -> SqliteEngine:
        made.append(SqliteEngine(folder))
        return made[-1]

    yield make
    for engine in made:
        await engine.close()


def spoil(path: Path, edit: Callable[[bytearray], None]) -> None:
    """Changes the bytes of a file, in place: an engine may have it open."""
    with path.open("r+b") as file:
        content = bytearray(file.read())
        edit(content)
        file.seek(0)
        file.write(content)


def places_of(content: bytes | bytearray, marker: bytes, kind: int) -> list[int]:
    """Where pages of this kind have the marker: once, and maybe in room that is free again."""
    places = [found.start() for found in re.finditer(re.escape(marker), content)]
    places = [place for place in places if content[place // PAGE * PAGE] == kind]
    assert places
    return places


def flip(path: Path, marker: bytes, kind: int, at: int = -1) -> None:
    """Flips one bit of one byte of the marker where pages of this kind have it."""

    def edit(content: bytearray) -> None:
        for place in places_of(content, marker, kind):
            content[range(place, place + len(marker))[at]] ^= 1

    spoil(path, edit)


def overwrite_page(path: Path, marker: bytes, kind: int) -> None:
    """Noise over the beginning of the page of this kind that has the marker."""

    def edit(content: bytearray) -> None:
        (page,) = {place // PAGE * PAGE for place in places_of(content, marker, kind)}
        content[page : page + 200] = random.Random(1).randbytes(200)

    spoil(path, edit)


def change(path: Path, statement: str, *parameters: object, unseen_by: Iterable[str] = ()) -> None:
    """Changes one row, while some indexes are made to look away, as only damage does."""
    hidden = []
    for name in unseen_by:
        with unlocked(path) as database:
            about = database.execute("SELECT * FROM sqlite_master WHERE name = ?", (name,)).fetchone()
            hidden.append(about)
            database.execute("DELETE FROM sqlite_master WHERE name = ?", (name,))
    with unlocked(path) as database:
        assert database.execute(statement, parameters).rowcount == 1
        database.executemany("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", hidden)


@contextmanager
def unlocked(path: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA writable_schema = 1")
    try:
        yield database
    finally:
        database.close()


async def scrubbed(engine: Engine, limit: int = 50) -> list[Rot]:
    """What a whole sweep finds, after seeing that it looked at every row."""
    rotten: list[Rot] = []
    last: int | None = 0
    while last is not None:
        page = await engine.scrub(last, limit)
        assert page.checked <= limit or page.last is None
        assert page.last is None or page.last > last
        rotten += page.rotten
        last = page.last
    return rotten


def complaint_about(path: Path) -> str:
    database = sqlite3.connect(path)
    try:
        return " ".join(str(row[0]) for row in database.execute("PRAGMA integrity_check"))
    finally:
        database.close()


async def expect_mended(engine: SqliteEngine, path: Path, rotten: list[Rot], expected: Mapping[bytes, object]) -> None:
    """After mend, and after a restart, everything loads as expected and nothing is left to find."""
    sequence = engine.commit_sequence
    await engine.mend([rot.row for rot in rotten])
    assert engine.commit_sequence == sequence + 1
    for _ in range(2):
        assert await engine.load(list(expected)) == expected
        assert await scrubbed(engine) == []
        await engine.close()
        assert complaint_about(path) == "ok"
        engine = await opened(path.parent)
        assert engine.commit_sequence == sequence + 1
        # It can be written and found again, by key and by place.
        assert (await engine.rows(0, 1 << 32, None, 1000)).complete
    await engine.write(Batch({KEY: state_of(VICTIM)}))
    assert await engine.load([KEY]) == {KEY: state_of(VICTIM)}
    assert len((await engine.rows(0, 1 << 32, None, 1000)).rows) == len(
        {key for key, state in expected.items() if state != ReplicaState()} | {KEY}
    )
    await engine.close()
    assert complaint_about(path) == "ok"


GONE = {**STATES, KEY: ReplicaState()}


@pytest.mark.parametrize("limit", [1, 7, 16, 50, 300, 1000])
async def test_sound_rows_are_looked_at_once_each_and_nothing_is_found(
    database: Path, engines: Callable[[Path], SqliteEngine], limit: int
) -> None:
    engine = engines(database.parent)
    await engine.open()
    await engine.write(Batch(keep={(b"kept", 5): Record(5, 5, True, b"v")}, drop={key_of(17)}))
    checked, last = 0, 0
    while True:
        page = await engine.scrub(last, limit)
        assert page.rotten == []
        checked += page.checked
        if page.last is None:
            break
        last = page.last
    assert checked == KEYS - 1 + 1


async def test_an_empty_folder(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    page = await engine.scrub(0, 100)
    assert (page.checked, page.rotten, page.last) == (0, [], None)
    await engine.mend([1, 2, 3])
    assert engine.commit_sequence == 0, "there was nothing to mend"
    await engine.close()


@pytest.mark.parametrize(
    ("marker", "kind", "reason"),
    [
        (b"the value of number %04d" % VICTIM, TABLE_LEAF, "the value has changed on disk"),
        (b"text/x-%04d" % VICTIM, TABLE_LEAF, "ballots, type, expiry or fences have changed"),
        (KEY, TABLE_LEAF, "does not match its checksum"),
    ],
    ids=["value", "header", "key"],
)
async def test_a_flipped_bit_in_a_row(database: Path, marker: bytes, kind: int, reason: str) -> None:
    flip(database, marker, kind)
    engine = await opened(database.parent)
    rotten = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in rotten] == [(VICTIM + 1, KEY)]
    assert reason in rotten[0].reason
    await expect_mended(engine, database, rotten, GONE)


async def test_a_number_of_a_row(database: Path) -> None:
    change(database, "UPDATE records SET promised = -7 WHERE key = ?", KEY)
    engine = await opened(database.parent)
    rotten = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in rotten] == [(VICTIM + 1, KEY)]
    await expect_mended(engine, database, rotten, GONE)


async def test_a_value_that_a_bit_made_a_text(tmp_path: Path) -> None:
    """Python would refuse the whole answer for its bytes, with an error that is not of the disk's kind."""
    database = await written(tmp_path, Batch({**STATES, KEY: ReplicaState(5, Record(5, 5, False, b"\xff\xfe" * 40))}))
    change(database, "UPDATE records SET value = CAST(value AS TEXT) WHERE key = ?", KEY)
    engine = await opened(tmp_path)
    loaded = await engine.load(list(STATES))
    assert isinstance(loaded[KEY], Damaged)
    assert {**loaded, KEY: STATES[KEY]} == STATES
    rotten = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in rotten] == [(VICTIM + 1, KEY)]
    await expect_mended(engine, database, rotten, GONE)


async def test_a_key_that_rotted_in_the_index_is_found_again_with_its_record(database: Path) -> None:
    flip(database, KEY, INDEX_LEAF)
    engine = await opened(database.parent)
    assert await engine.load([KEY]) == {KEY: ReplicaState()}, "a load can't notice"
    rotten = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in rotten] == [(VICTIM + 1, KEY)]
    assert "not found by its key" in rotten[0].reason
    await expect_mended(engine, database, rotten, dict(STATES))


@pytest.mark.parametrize("kind", [TABLE_LEAF, INDEX_LEAF])
async def test_a_key_that_rotted_into_anothers(database: Path, kind: int) -> None:
    """0137 became 0136, which exists: the index can't be made anew before the row is gone."""
    flip(database, KEY, kind)
    engine = await opened(database.parent)
    assert (await engine.load([key_of(136)]))[key_of(136)] == state_of(136)
    rotten = await scrubbed(engine)
    assert [rot.key for rot in rotten if rot.row == VICTIM + 1] == [KEY]
    await expect_mended(engine, database, rotten, GONE if kind == TABLE_LEAF else dict(STATES))


async def test_a_row_that_was_lost_and_written_anew_is_out_of_date(database: Path) -> None:
    flip(database, KEY, INDEX_LEAF)
    engine = await opened(database.parent)
    newer = ReplicaState(9000, Record(9000, 9000, False, b"newer"))
    await engine.write(Batch({KEY: newer}))
    rotten = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in rotten] == [(VICTIM + 1, KEY)]
    await expect_mended(engine, database, rotten, {**STATES, KEY: newer})


async def test_rows_of_one_key_that_were_lost_one_after_the_other(database: Path) -> None:
    newer = ReplicaState(9000, Record(9000, 9000, False, b"newer"))
    flip(database, KEY, INDEX_LEAF)
    await written(database.parent, Batch({KEY: newer}))
    flip(database, KEY, INDEX_LEAF, at=0)
    engine = await opened(database.parent)
    rotten = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in rotten] == [(VICTIM + 1, KEY), (KEYS + 1, KEY)]
    await expect_mended(engine, database, rotten, {**STATES, KEY: newer})


async def test_a_key_that_rotted_with_its_row_can_only_be_told_by_a_checksum(database: Path) -> None:
    flip(database, KEY, TABLE_LEAF)
    flip(database, b"text/x-%04d" % VICTIM, TABLE_LEAF)
    engine = await opened(database.parent)
    rotten = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in rotten] == [(VICTIM + 1, None)]
    await expect_mended(engine, database, rotten, GONE)


PLACE_INDEXES = ("records_by_place", "records_to_purge")


@pytest.mark.parametrize("rotten", [("records_by_place",), ("records_to_purge",), ()], ids=["one", "other", "place"])
async def test_a_row_that_is_not_found_by_its_place(tmp_path: Path, rotten: tuple[str, ...]) -> None:
    states = {**STATES, KEY: ReplicaState(500, Record(500, 500, False, None))}
    database = await written(tmp_path, Batch(states))
    if rotten:
        change(database, "UPDATE records SET place = place + 1 WHERE key = ?", KEY)
        change(database, "UPDATE records SET place = place - 1 WHERE key = ?", KEY, unseen_by=rotten)
    else:
        change(database, "UPDATE records SET place = place + 1 WHERE key = ?", KEY, unseen_by=PLACE_INDEXES)
    assert complaint_about(database) != "ok"
    engine = await opened(tmp_path)
    found = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in found] == [(VICTIM + 1, KEY)]
    assert "not found by its place" in found[0].reason
    await expect_mended(engine, database, found, dict(states))


async def test_many_at_once(database: Path) -> None:
    for number in (3, 50, 51, 52, 250):
        flip(database, b"the value of number %04d" % number, TABLE_LEAF, at=0)
    flip(database, key_of(100), TABLE_LEAF)
    flip(database, key_of(200), INDEX_LEAF)  # reads 0201 then, which leads to either row
    engine = await opened(database.parent)
    rotten = await scrubbed(engine, limit=20)
    gone = (3, 50, 51, 52, 100, 250)
    assert [rot.key for rot in rotten] == [key_of(number) for number in sorted((*gone, 200, 201))]
    await expect_mended(engine, database, rotten, {**STATES, **{key_of(number): ReplicaState() for number in gone}})


async def test_a_row_that_was_written_anew_meanwhile_stays(database: Path) -> None:
    flip(database, b"the value of number %04d" % VICTIM, TABLE_LEAF)
    engine = await opened(database.parent)
    (rot,) = await scrubbed(engine)
    await engine.write(Batch({KEY: state_of(VICTIM)}))
    sequence = engine.commit_sequence
    await engine.mend([rot.row, 12, 10_000, 0, -1])
    assert engine.commit_sequence == sequence
    assert await engine.load(list(STATES)) == STATES
    await engine.close()


async def test_what_is_in_the_way_of_mending_changes_nothing_and_ends_nothing(database: Path) -> None:
    """Another key rotted into one that exists, and is not named: the index can't be made anew."""
    flip(database, KEY, TABLE_LEAF)
    flip(database, b"the value of number 0012", TABLE_LEAF)
    engine = await opened(database.parent)
    rotten = await scrubbed(engine)
    sequence = engine.commit_sequence
    with pytest.raises(CantMend, match="nothing was changed"):
        await engine.mend([13])
    assert engine.commit_sequence == sequence
    assert await scrubbed(engine) == rotten
    await engine.write(Batch({b"another": state_of(1)}))
    await expect_mended(engine, database, rotten, {**GONE, key_of(12): ReplicaState(), b"another": state_of(1)})


@pytest.mark.parametrize("size", [10_000, 100_000])
async def test_a_value_on_pages_of_its_own(tmp_path: Path, size: int) -> None:
    states = {key_of(number): state_of(number, size) for number in range(20)}
    database = await written(tmp_path, Batch(states))
    content = bytearray(database.read_bytes())
    content[content.index(b"the value of number 0007") + 9_000] ^= 1
    database.write_bytes(content)
    engine = await opened(tmp_path)
    rotten = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in rotten] == [(8, key_of(7))]
    await engine.mend([8])
    assert await engine.load(list(states)) == {**states, key_of(7): ReplicaState()}
    await engine.close()
    assert complaint_about(database) == "ok"


async def test_a_value_that_goes_on_on_anothers_pages_does_not_take_them_along(tmp_path: Path) -> None:
    def large(letter: bytes, size: int = 30_000) -> ReplicaState:
        return ReplicaState(5, Record(5, 5, False, letter * size))

    fillers = {key_of(number): large(b"f", 9_000) for number in range(20)}
    # Into the gaps, so that its pages don't lie side by side: where they do, SQLite sees through a wrong number.
    gaps = set(list(fillers)[::2])
    database = await written(
        tmp_path, Batch({**fillers, b"other": large(b"o")}), Batch(drop=gaps), Batch({b"ours": large(b"x")})
    )

    def edit(content: bytearray) -> None:
        ours, others = (
            [page for page in range(0, len(content), PAGE) if content[page + 4 : page + PAGE] == letter * (PAGE - 4)]
            for letter in (b"x", b"o")
        )
        follows = {page: (int.from_bytes(content[page : page + 4], "big") - 1) * PAGE for page in ours}
        jump = next(page for page in ours if follows[page] > 0 and follows[page] != page + PAGE)
        content[jump : jump + 4] = (others[1] // PAGE + 1).to_bytes(4, "big")

    spoil(database, edit)
    engine = await opened(tmp_path)
    rotten = await scrubbed(engine)
    assert [rot.key for rot in rotten] == [b"ours"]
    with pytest.raises(CantMend, match="nothing was changed"):
        await engine.mend([rotten[0].row])
    assert await engine.load([b"other"]) == {b"other": large(b"o")}
    await engine.write(Batch({b"new": large(b"n")}))
    assert await engine.load([b"other", b"new"]) == {b"other": large(b"o"), b"new": large(b"n")}
    await engine.close()


async def test_a_page_of_rows_that_cant_be_read(database: Path) -> None:
    overwrite_page(database, b"the value of number %04d" % VICTIM, TABLE_LEAF)
    flip(database, b"the value of number 0299", TABLE_LEAF)
    engine = await opened(database.parent)
    damaged = {key for key, state in (await engine.load(list(STATES))).items() if isinstance(state, Damaged)}
    assert KEY in damaged
    rotten = await scrubbed(engine)
    assert {rot.key for rot in rotten} == damaged
    assert [rot.key for rot in rotten if rot.row > 0] == [key_of(299)], "the sweep went on behind it"
    unreadable = [rot for rot in rotten if rot.row == -1]
    assert len(unreadable) == len(rotten) - 1
    assert all(
        "can't be read" in rot.reason and "nothing mends that but a new database" in rot.reason for rot in unreadable
    )
    await engine.mend([rot.row for rot in unreadable])
    assert {rot.key for rot in await scrubbed(engine)} == damaged
    await engine.close()


async def test_rows_that_their_page_no_longer_counts(database: Path) -> None:
    """A page says how many rows it has; what it no longer counts is not met by going through the rows."""

    def edit(content: bytearray) -> None:
        (page, *_) = (place // PAGE * PAGE for place in places_of(content, b"the value of number 0030", TABLE_LEAF))
        content[page + 4] -= 2

    spoil(database, edit)
    engine = await opened(database.parent)
    damaged = {key for key, state in (await engine.load(list(STATES))).items() if isinstance(state, Damaged)}
    assert len(damaged) == 2
    rotten = await scrubbed(engine)
    assert {rot.key for rot in rotten} == damaged
    assert all(rot.row == -1 and "is lost" in rot.reason for rot in rotten)
    await engine.close()


async def test_rows_out_of_order(database: Path) -> None:
    """The first row of a page reads as another one that exists."""

    def edit(content: bytearray) -> None:
        (page, *_) = (place // PAGE * PAGE for place in places_of(content, b"the value of number 0030", TABLE_LEAF))
        content[page + 8 : page + 10] = content[page + 14 : page + 16]

    spoil(database, edit)
    engine = await opened(database.parent)
    damaged = {key for key, state in (await engine.load(list(STATES))).items() if isinstance(state, Damaged)}
    assert damaged
    rotten = await scrubbed(engine)
    assert {rot.key for rot in rotten} >= damaged
    await engine.close()


async def test_a_page_of_the_index_that_cant_be_read(database: Path) -> None:
    overwrite_page(database, KEY, INDEX_LEAF)
    flip(database, b"the value of number 0299", TABLE_LEAF)
    engine = await opened(database.parent)
    rotten = await scrubbed(engine)
    assert {KEY, key_of(299)} <= {rot.key for rot in rotten}
    assert len(rotten) < KEYS
    with pytest.raises(CantMend, match="start with a new one"):
        await engine.mend([rot.row for rot in rotten])
    await engine.write(Batch(facts={"still": b"alive"}))
    await engine.close()


async def test_roots_that_cant_be_read_end_the_sweep_with_that_finding(database: Path) -> None:
    with unlocked(database) as connection:
        about = connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'records'").fetchall()

    def edit(content: bytearray) -> None:
        for (root,) in about:
            content[(root - 1) * PAGE : (root - 1) * PAGE + 100] = random.Random(1).randbytes(100)

    spoil(database, edit)
    engine = await opened(database.parent)
    (rot,) = await scrubbed(engine)
    assert (rot.row, rot.key) == (-1, None)
    assert "can't be read, nor skipped" in rot.reason
    await engine.close()


async def test_what_is_kept_aside_and_hints_are_looked_at_too(tmp_path: Path) -> None:
    kept = {(b"kept %d" % number, number): Record(number, number, True, b"v") for number in range(1, 40)}
    hints = {number: Hint(b"hint %d" % number, Record(5, 5, True, b"v"), (1,), False) for number in range(1, 40)}
    database = await written(tmp_path, Batch(STATES, keep=kept, hints=hints))
    change(database, "UPDATE kept_aside SET expires_at_ms = 7 WHERE origin = 20")
    change(database, "UPDATE hints SET targets = x'00' WHERE number = 30")
    engine = await opened(tmp_path)
    rotten = await scrubbed(engine)
    assert [(rot.row, rot.key) for rot in rotten] == [(0, b"kept 20"), (0, b"hint 30")]
    assert "kept aside" in rotten[0].reason
    assert "hint" in rotten[1].reason
    await engine.mend([rot.row for rot in rotten])
    assert await scrubbed(engine) == rotten
    await engine.close()


async def warm(folder: Path) -> SqliteEngine:
    """An engine that has all pages in its caches, and nothing in its log."""
    engine = await opened(folder)
    fillers = {b"filler %03d" % number: state_of(number, 4000) for number in range(50)}
    await engine.write(Batch({**STATES, **fillers}))
    await engine.write(Batch(drop=set(fillers)))
    await engine.fold()
    assert await engine.reclaim(1 << 30) > 0, "pages went back, and with that the log was emptied"
    assert (folder / "kvstore.db-wal").stat().st_size == 0
    assert (await engine.scan(b"", None, 1000, True, 1 << 30)).complete
    assert await engine.load(list(STATES)) == STATES
    for _ in range(2):
        assert await scrubbed(engine) == []
    return engine


@pytest.mark.parametrize(
    ("marker", "kind"),
    [(b"the value of number %04d" % VICTIM, TABLE_LEAF), (KEY, TABLE_LEAF), (KEY, INDEX_LEAF)],
    ids=["value", "key", "key in the index"],
)
async def test_what_changes_under_a_running_engine_that_nobody_uses(tmp_path: Path, marker: bytes, kind: int) -> None:
    """SQLite's page caches, the writer's too, hold what was there before, until somebody commits."""
    engine = await warm(tmp_path)
    database = tmp_path / "kvstore.db"
    flip(database, marker, kind)
    rotten = await scrubbed(engine)
    assert [rot.key for rot in rotten] == [KEY]
    assert rotten[0].row > 0
    await expect_mended(engine, database, rotten, STATES if kind == INDEX_LEAF else GONE)


async def test_what_waits_for_others_changes_under_a_running_engine(tmp_path: Path) -> None:
    kept = {(b"a record that is kept aside", 5): Record(5, 5, True, b"the value that is kept aside")}
    hints = {7: Hint(b"a hint", Record(5, 5, True, b"the value of the hint"), (1,), False)}
    database = await written(tmp_path, Batch(keep=kept, hints=hints))
    engine = await opened(tmp_path)
    assert await scrubbed(engine) == []
    flip(database, b"the value that is kept aside", TABLE_LEAF)
    assert [rot.key for rot in await scrubbed(engine)] == [b"a record that is kept aside"]
    flip(database, b"the value of the hint", TABLE_LEAF)
    assert [rot.key for rot in await scrubbed(engine)] == [b"a record that is kept aside", b"a hint"]
    await engine.close()


async def test_an_error_that_is_no_damage_is_not_taken_for_damage(
    database: Path, engines: Callable[[Path], SqliteEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines(database.parent)
    await engine.open()

    async def busy(sql: str, parameters: object) -> list[tuple[object, ...]]:
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    assert engine._reader is not None
    monkeypatch.setattr(engine._reader, "sweep", busy)
    with pytest.raises(StorageError, match="can be tried again"):
        await engine.scrub(0, 10)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
async def test_any_bit_of_the_rows_or_their_indexes_is_found_or_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """After a sweep, what loads as sound is what was written, and what was not found to be damaged is all there."""
    if not _SOUND:
        source = await written(tmp_path_factory.mktemp("sound"), Batch(STATES))
        _SOUND.append(source.read_bytes())
    content = bytearray(_SOUND[0])
    pages = [page for page in range(0, len(content), PAGE) if content[page] in (TABLE_LEAF, INDEX_LEAF)]
    page = data.draw(st.sampled_from([page for page in pages if b"that is long enough" in content[page : page + PAGE]]))
    byte, bit = data.draw(st.integers(page, page + PAGE - 1)), data.draw(st.integers(0, 7))
    content[byte] ^= 1 << bit
    folder = tmp_path_factory.mktemp("flipped")
    (folder / "kvstore.db").write_bytes(content)
    engine = await opened(folder)
    loaded = await engine.load(list(STATES))
    wrong = {key for key, state in loaded.items() if state != STATES[key]}
    assert all(isinstance(loaded[key], Damaged) or loaded[key] == ReplicaState() for key in wrong), "bad bytes"
    rotten = await scrubbed(engine)
    known = {rot.key for rot in rotten}
    assert wrong <= known or None in known
    await engine.close()


_SOUND: list[bytes] = []
