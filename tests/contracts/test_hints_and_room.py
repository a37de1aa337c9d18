"""What every engine must do for hints, and about the room on its disk."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import Batch, DiskFull, Engine, Hint, MemoryEngine, Record, ReplicaState, SqliteEngine
from tests.contracts.folders import Folders, keys, records, run_in, value

lenient = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

hints = st.builds(Hint, keys, records, st.lists(st.integers(0, 1023), max_size=4).map(tuple), st.booleans())
numbered = st.dictionaries(st.integers(1, 1 << 62), hints, max_size=40)


def hint(content: bytes, *, sole: bool = False) -> Hint:
    return Hint(b"k", Record(5, 5, True, content), (1, 2), sole)


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@lenient
@given(kept=numbered, after=st.integers(0, 1 << 62), limit=st.integers(1, 40), value_bytes_max=st.integers(0, 2_000))
def test_hints_come_back_in_order_of_arrival_page_by_page(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    kept: dict[int, Hint],
    after: int,
    limit: int,
    value_bytes_max: int,
) -> None:
    async def body(folders: Folders) -> None:
        engine = await folders.opened()
        await engine.write(Batch(hints=kept))
        await engine.close()
        again = await folders.opened()
        behind = sorted(number for number in kept if number > after)
        expected: list[int] = []
        spent = 0
        for number in behind:
            if len(expected) == limit or (expected and spent >= value_bytes_max):
                break
            spent += len(kept[number].record.value or b"")
            expected.append(number)
        page = await again.hints(after, limit, value_bytes_max)
        assert page.hints == {number: kept[number] for number in expected}
        assert list(page.hints) == expected
        assert page.complete == (expected == behind)
        assert page.damaged == {}

    run_in(kind, tmp_path_factory.mktemp("folder"), body)


async def test_a_hint_stays_until_it_is_dropped_and_may_be_replaced(folders: Folders) -> None:
    engine = await folders.opened()
    await engine.write(Batch(hints={number: hint(b"%d" % number) for number in range(1, 200)}))
    fewer = Hint(b"k", Record(5, 5, True, b"7"), (2,), True)
    await engine.write(Batch(hints={7: fewer}, drop_hints={*range(8, 190), 5_000}))
    await engine.close()
    again = await folders.opened()
    page = await again.hints(5, 1_000, 1 << 20)
    assert page.hints == {6: hint(b"6"), 7: fewer, **{number: hint(b"%d" % number) for number in range(190, 200)}}
    assert await again.load([b"k"]) != {b"k": value(5, b"7")}, "a hint is not accepted here"


async def test_a_hint_that_rots_stops_no_other_and_can_be_dropped(folders: Folders) -> None:
    engine = await folders.opened()
    await engine.write(Batch(hints={number: hint(b"v" * 10) for number in range(1, 41)}))
    await engine.close()
    for number in (1, 2, 3, 20):
        await folders.rot_hint(engine, number)
    again = await folders.opened()
    page = await again.hints(0, 1, 1 << 20)
    assert (list(page.hints), page.complete, set(page.damaged)) == ([4], False, {1, 2, 3}), "at least one that is sound"
    page = await again.hints(4, 100, 1 << 20)
    assert (set(page.hints), page.complete, set(page.damaged)) == ({*range(5, 41)} - {20}, True, {20})
    await again.write(Batch(hints={20: hint(b"again")}, drop_hints={1, 2, 3}))
    page = await again.hints(0, 100, 1 << 20)
    assert (set(page.hints), page.damaged) == (set(range(4, 41)), {})


async def test_room_is_told_in_bytes_and_nothing_deleted_gives_none_back(engine: Engine) -> None:
    free, total = engine.free_bytes()
    assert 0 < free <= total
    await engine.write(Batch({b"k": value(5)}))
    assert await engine.reclaim(1 << 20) == 0
    assert await engine.load([b"k"]) == {b"k": value(5)}


async def set_room(engine: Engine, pages: int) -> None:
    """Room for a database of so many pages, or as many as there are: SQLite's own idea of a full disk."""
    if isinstance(engine, MemoryEngine):
        engine.folder.bytes_free = (pages - 1) * 4096
    else:
        assert isinstance(engine, SqliteEngine)
        connection = engine._writer._connection
        assert connection is not None
        await engine._in_thread(lambda: connection.execute(f"PRAGMA max_page_count = {pages}").fetchall())


async def test_a_full_disk_undoes_the_transaction_and_the_same_one_may_come_again(folders: Folders) -> None:
    engine = await folders.opened()
    before = {b"before": value(5), b"dropped": value(5)}
    await engine.write(Batch(before, hints={1: hint(b"before")}, leaves={1: 11, 2: 22}, facts={"f": b"1"}))
    batch = Batch(
        {b"before": value(6), b"large": value(6, b"." * 100_000)},
        {(b"kept", 7): Record(7, 7, True, b"kept")},
        drop={b"dropped"},
        leaves={2: 23, 3: 33},
        hints={2: hint(b"after")},
        drop_hints={1},
        facts={"f": b"2"},
    )
    await set_room(engine, 1)
    for _ in range(3):
        with pytest.raises(DiskFull, match="nothing"):
            await engine.write(batch)
    assert (engine.commit_sequence, dict(engine.facts)) == (1, {"f": b"1"})
    assert await engine.load([*batch.states, *before]) == {**before, b"large": ReplicaState()}
    assert (await engine.hints(0, 9, 9_999)).hints == {1: hint(b"before")}
    assert await engine.kept_aside() == {}
    await set_room(engine, 1_000_000)
    await engine.write(batch)
    await engine.write(Batch({b"last": value(7)}, leaves={4: 44}))
    assert engine.commit_sequence == 3
    await engine.close()
    again = await folders.opened()
    assert (again.commit_sequence, dict(again.facts), dict(again.leaves)) == (
        3,
        {"f": b"2"},
        {1: 11, 2: 23, 3: 33, 4: 44},
    )
    assert await again.load([b"dropped", *batch.states]) == {**batch.states, b"dropped": ReplicaState()}
    assert (await again.hints(0, 9, 9_999)).hints == {2: hint(b"after")}
    assert await again.kept_aside() == batch.keep


async def test_what_a_full_disk_refused_may_be_given_up(folders: Folders) -> None:
    engine = await folders.opened()
    await engine.write(Batch({b"k": value(5)}, leaves={1: 11}))
    await set_room(engine, 1)
    with pytest.raises(DiskFull):
        await engine.write(Batch({b"k": value(6, b"." * 100_000)}, leaves={1: 12}, facts={"f": b"1"}))
    await set_room(engine, 1_000_000)
    await engine.write(Batch({b"other": value(5)}, leaves={2: 22}))
    await engine.close()
    again = await folders.opened()
    assert (again.commit_sequence, dict(again.facts), dict(again.leaves)) == (2, {}, {1: 11, 2: 22})
    assert await again.load([b"k"]) == {b"k": value(5)}
