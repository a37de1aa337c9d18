"""The journal of states: whatever is folded, undone, cut off or written past it, what was committed last is found."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import SqliteEngine
from storage.engine import Batch, CommitFailed, FolderDamaged, FolderUnusable
from storage.record import Record, ReplicaState
from storage.sqlite import leaf_sums, schema, state_journal
from storage.sqlite.engine import PACE_MAX, PACE_MIN
from storage.sqlite.state_journal import ROWS_MIN, VALUE_BYTES_MAX, Plan, StateJournal, decode_entry
from tests.contracts.folders import value
from tests.storage.test_places_and_leaves import opened

MANY = {b"key %03d" % number: value(5 + number, b"v%d" % number) for number in range(100)}


class Disk:
    """What transactions leave there: a table, and the entries of the journal."""

    def __init__(self) -> None:
        self.table: dict[bytes, ReplicaState] = {}
        self.entries: dict[int, bytes] = {}

    def play(self, batch: Batch, plan: Plan) -> None:
        self.table.update(plan.folded)
        self.table.update(plan.direct)
        for key in batch.drop:
            self.table.pop(key, None)
        if plan.encoded:
            assert plan.number not in self.entries
            self.entries[plan.number] = plan.encoded
        self.entries = {number: entry for number, entry in self.entries.items() if number > plan.emptied_to}

    def journalled(self) -> dict[bytes, ReplicaState]:
        """What a start makes of the entries."""
        states: dict[bytes, ReplicaState] = {}
        for number in sorted(self.entries):
            for key, state in decode_entry(self.entries[number])[0]:
                if state is None:
                    states.pop(key, None)
                else:
                    states[key] = state
        return states


keys = st.integers(0, 11).map(lambda number: b"key %d" % number)
values = st.sampled_from([b"small", b"x" * (VALUE_BYTES_MAX + 1)])
steps = st.one_of(
    st.tuples(st.just("write"), st.lists(st.tuples(keys, values), min_size=1, max_size=12), st.sets(keys, max_size=2)),
    st.tuples(st.just("fold"), st.none(), st.none()),
    st.tuples(st.just("undone"), st.lists(st.tuples(keys, values), min_size=1, max_size=12), st.none()),
    st.tuples(st.just("crash"), st.none(), st.none()),
)


@given(st.lists(steps, max_size=40), st.integers(1, 4))
def test_what_was_committed_last_is_what_is_found(story: list[tuple], step: int) -> None:  # type: ignore[type-arg]
    disk, truth, ballot = Disk(), dict[bytes, ReplicaState](), 0
    sequences = iter(range(1, 1_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_journal, "FOLD_STEP", step)
        patch.setattr(state_journal, "ROWS_MIN", 4)
        patch.setattr(state_journal, "FOLD_ROWS", 6)
        journal = StateJournal({}, 0)
        for what, written, dropped in story:
            if what == "fold":
                journal.fold()
            elif what == "crash":
                journal = StateJournal(disk.journalled(), max(disk.entries, default=0))
            else:
                batch = Batch()
                for key, content in written:
                    ballot += 1
                    batch.states[key] = ReplicaState(ballot, Record(ballot, ballot, False, content))
                batch.drop = set(dropped or ()) - set(batch.states)
                plan = journal.plan(batch, next(sequences))
                if what == "undone":
                    journal.is_tight = True
                    continue
                disk.play(batch, plan)
                journal.done(plan)
                truth.update(batch.states)
                for key in batch.drop:
                    truth.pop(key, None)
            assert {**disk.table, **disk.journalled()} == truth, "what a start would find"
            for key in {*truth, *disk.table}:
                assert (journal.get(key) or disk.table.get(key)) == truth.get(key), "what a load finds"
                if (state := journal.get(key)) is not None:
                    assert journal.may_promise_up_to(state.promised), "what a purge must know"
        for _ in range(2):
            journal.fold()
            while journal.is_folding:
                plan = journal.plan(Batch(), next(sequences))
                disk.play(Batch(), plan)
                journal.done(plan)
        assert disk.table == truth
        assert journal.is_empty
        assert not disk.entries


@pytest.mark.parametrize("pace", [0.6, 1.0, 1.4])
def test_rows_are_written_at_the_folders_own_pace(pace: float) -> None:
    """Not when those of the other replicas are."""
    journal, written = StateJournal({}, 0, pace), 0
    for sequence in range(1, 1_000):
        batch = Batch({b"%d" % key: ReplicaState(sequence) for key in range(written, written + 100)})
        plan = journal.plan(batch, sequence)
        if plan.folded:
            break
        journal.done(plan)
        written += 100
    assert written == pytest.approx(state_journal.FOLD_ROWS * pace, abs=100)


async def test_each_folder_has_its_own(tmp_path: Path) -> None:
    paces = set()
    for number in range(8):
        engine = await opened(tmp_path / str(number))
        paces.add(engine._pace)
        await engine.close()
        again = await opened(tmp_path / str(number))
        paces.add(again._pace)
        await again.close()
    assert len(paces) == 8
    assert PACE_MIN <= min(paces) < max(paces) <= PACE_MAX


async def in_table(folder: Path) -> int:
    def count() -> int:
        with sqlite3.connect(f"file:{folder / 'kvstore.db'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM records").fetchone()[0])

    return await asyncio.to_thread(count)


async def test_many_rows_are_journalled_and_written_when_somebody_looks_at_the_table(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    await engine.write(Batch(MANY))
    assert await in_table(tmp_path) == 0
    assert await engine.load([*MANY, b"absent"]) == {**MANY, b"absent": ReplicaState()}
    page = await engine.scan(b"", None, 1_000, True, 1 << 30)
    assert {entry.key: entry.record for entry in page.entries} == {key: state.record for key, state in MANY.items()}
    assert await in_table(tmp_path) == len(MANY)
    assert await engine.load(list(MANY)) == MANY
    await engine.close()


async def test_a_few_rows_are_written_at_once(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    await engine.write(Batch(dict(list(MANY.items())[: ROWS_MIN - 1])))
    assert await in_table(tmp_path) == ROWS_MIN - 1
    await engine.close()


async def test_where_nobody_writes_any_more_the_rows_follow_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.sqlite.engine.FOLD_AFTER_S", 0.01)
    monkeypatch.setattr(state_journal, "FOLD_STEP", 7)
    engine = await opened(tmp_path)
    await engine.write(Batch(MANY))
    async with asyncio.timeout(20):
        while await in_table(tmp_path) < len(MANY):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    await engine.close()


def left_behind(folder: Path, copy: Path) -> Path:
    """The folder as it would be after a kill at this moment."""
    shutil.copytree(folder, copy)
    return copy


async def test_after_a_kill_the_journal_says_what_the_rows_dont(tmp_path: Path) -> None:
    engine = await opened(tmp_path / "data")
    await engine.write(Batch(MANY))
    newer = {key: value(1_000, b"newer") for key in list(MANY)[:3]}
    large = {list(MANY)[4]: value(1_000, b"x" * (VALUE_BYTES_MAX + 1))}
    await engine.write(Batch({**newer, **large}, drop={list(MANY)[5]}))
    expected = {**MANY, **newer, **large, list(MANY)[5]: ReplicaState()}
    killed = await opened(left_behind(tmp_path / "data", tmp_path / "killed"))
    assert await killed.load(list(MANY)) == expected
    await killed.close()
    again = await opened(tmp_path / "killed")
    assert await in_table(tmp_path / "killed") == len(MANY) - 1, "a graceful end leaves no journal"
    assert await again.load(list(MANY)) == expected
    for one in (again, engine):
        await one.close()


@pytest.mark.parametrize("seed", range(6))
async def test_the_sums_of_the_leaves_are_found_whichever_journal_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Starts after a kill and after a graceful end, folding of either journal, sums that are written all at once."""
    monkeypatch.setattr(leaf_sums, "FOLD_AFTER", 3)
    monkeypatch.setattr(state_journal, "FOLD_ROWS", 30)
    monkeypatch.setattr(state_journal, "FOLD_STEP", 9)
    random, sums, states = Random(seed), dict[int, int](), dict[bytes, ReplicaState]()
    folder = tmp_path / "0"
    engine = await opened(folder)
    for number in range(1, 61):
        batch = Batch({key: value(number) for key in random.sample(list(MANY), random.choice([0, 3, ROWS_MIN, 20]))})
        batch.leaves = {random.randrange(20): random.randrange(1, 1 << 64) for _ in range(len(batch.states))}
        batch.leaves_are_all = random.random() < 0.05
        if batch.leaves_are_all:
            batch.leaves = sums = {**sums, **batch.leaves, 7: number}
        await engine.write(batch)
        sums.update(batch.leaves)
        states.update(batch.states)
        if random.random() < 0.1:
            await engine.fold()
        sequence = engine.commit_sequence
        if random.random() < 0.3:
            folder, left = tmp_path / str(number), folder
            if random.random() < 0.5:
                left_behind(left, folder)
                await engine.close()
            else:
                await engine.close()
                left_behind(left, folder)
            engine = await opened(folder)
            assert engine.commit_sequence >= sequence
            assert dict(engine.leaves) == sums
        assert await engine.load(list(MANY)) == {key: states.get(key, ReplicaState()) for key in MANY}
    await engine.close()
    engine = await opened(folder)
    assert not engine.leaves_are_lost
    assert dict(engine.leaves) == sums
    await engine.close()


@pytest.mark.parametrize("is_asked", [True, False])
async def test_rows_that_cant_be_written_are_a_failed_commit_though_nobody_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked: bool
) -> None:
    told: list[BaseException] = []
    monkeypatch.setattr("storage.sqlite.engine.FOLD_AFTER_S", 1e6 if is_asked else 0.01)
    engine = SqliteEngine(tmp_path, on_failure=told.append)
    await engine.open()
    await engine.write(Batch(MANY))
    (tmp_path / "kvstore.db-wal").unlink()  # what the writer looks at after each commit
    if is_asked:
        with pytest.raises(CommitFailed):
            await engine.rows(0, 1 << 32, None, 1)
    async with asyncio.timeout(20):
        while not told:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert isinstance(told[0], CommitFailed)
    with pytest.raises(CommitFailed):
        await engine.load(list(MANY))
    await engine.close()


async def test_a_rotten_entry_is_never_passed_over(tmp_path: Path) -> None:
    engine = await opened(tmp_path / "data")
    await engine.write(Batch(MANY))
    killed = left_behind(tmp_path / "data", tmp_path / "killed")
    await engine.close()
    with sqlite3.connect(killed / "kvstore.db") as database:
        database.execute("UPDATE state_journal SET content = zeroblob(length(content))")
    database.close()
    with pytest.raises(FolderDamaged, match="journal of states"):
        await opened(killed)


async def test_a_folder_from_before_the_journal_is_given_one(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    await engine.write(Batch(MANY))
    await engine.close()
    with sqlite3.connect(tmp_path / "kvstore.db") as database:
        database.execute("DROP TABLE state_journal")
        database.execute(f"PRAGMA user_version = {schema.OLDEST_VERSION}")
    database.close()
    engine = await opened(tmp_path)
    assert await engine.load(list(MANY)) == MANY
    await engine.write(Batch(MANY))
    await engine.close()
    with sqlite3.connect(tmp_path / "kvstore.db") as database:
        database.execute(f"PRAGMA user_version = {schema.OLDEST_VERSION - 1}")
    database.close()
    with pytest.raises(FolderUnusable, match="schema version 1"):
        await SqliteEngine(tmp_path).open()
