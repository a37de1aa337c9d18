"""What every engine must do for repair: rows by their place, what can be purged, the leaves' sums beside the rows."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import Batch, Engine, Record, ReplicaState, Row, RowPage, StorageError, bounds_of, hash_of
from storage.ballot import NONE
from storage.fences import digest_of
from tests.contracts.folders import Folders, keys, run_in, states, value

SPACE = 1 << 32
lenient = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def listed(written: dict[bytes, ReplicaState], first: int = 0, behind: int = SPACE) -> list[Row]:
    """The rows of these states in that range, as an engine should list them."""
    rows = []
    for key in sorted(written, key=lambda key: (hash_of(key), key)):
        if first <= hash_of(key) < behind:
            state = written[key]
            deleted = state.record is not None and state.record.value is None
            expires_at_ms = state.record.expires_at_ms if state.record is not None else 0
            fences = digest_of(state.record.fences) if state.record is not None else 0
            rows.append(Row(key, state.promised, state.ballot, state.origin, deleted, expires_at_ms, fences))
    return rows


async def all_rows(engine: Engine, first: int, behind: int, limit: int) -> list[Row]:
    """Page by page, as repair goes."""
    rows: list[Row] = []
    page = RowPage([], complete=False)
    while not page.complete:
        after = (hash_of(rows[-1].key), rows[-1].key) if rows else None
        page = await engine.rows(first, behind, after, limit)
        assert page.complete or len(page.rows) == limit
        assert page.rows or not rows, "no page is empty because the one before did not say that it was the last"
        rows += page.rows
    return rows


places = st.integers(0, SPACE)


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@lenient
@given(written=st.dictionaries(keys, states, max_size=30), bounds=st.tuples(places, places), limit=st.integers(1, 12))
def test_rows_are_listed_by_their_place_in_pages(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    written: dict[bytes, ReplicaState],
    bounds: tuple[int, int],
    limit: int,
) -> None:
    async def body(folders: Folders) -> None:
        engine = await folders.opened()
        await engine.write(Batch(written))
        assert listed(written) == await all_rows(engine, 0, SPACE, limit)
        first, behind = sorted(bounds)
        assert listed(written, first, behind) == await all_rows(engine, first, behind, limit)

    run_in(kind, tmp_path_factory.mktemp("folder"), body)


def neighbours() -> list[bytes]:
    """Keys of one and the same place: CRC-32 does not change when its own polynomial is added."""
    polynomial = 0x1_DB71_0641
    return sorted((0x01_0203_0405 ^ polynomial << shift).to_bytes(5, "little") for shift in range(7))


async def test_keys_of_one_place_are_parted_by_pages_too(engine: Engine) -> None:
    same = neighbours()
    assert len({hash_of(key) for key in same}) == 1
    await engine.write(Batch({key: value(5) for key in (*reversed(same), b"another")}))
    for limit in (1, 2, 7, 8):
        found = [row.key for row in await all_rows(engine, 0, SPACE, limit)]
        assert [key for key in found if key != b"another"] == same
        assert len(found) == 8


async def test_the_slices_of_the_key_space_hold_each_row_once(engine: Engine) -> None:
    written = {b"%d" % number: value(number + 1) for number in range(500)}
    await engine.write(Batch(written))
    found = [row.key for part in range(7) for row in await all_rows(engine, *bounds_of(part, 7), 64)]
    assert sorted(found) == sorted(written)


async def test_a_row_moves_nowhere_when_it_is_written_anew(engine: Engine) -> None:
    await engine.write(Batch({b"a": value(5), b"b": ReplicaState(4)}))
    new = {b"a": ReplicaState(9, Record(8, 7, True, None)), b"b": value(6, b"late", expires_at_ms=77)}
    await engine.write(Batch(new))
    assert listed(new) == await all_rows(engine, 0, SPACE, 10)


async def test_rows_tell_fences_apart_whatever_their_order(engine: Engine) -> None:
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    await engine.write(Batch({b"1": value(5, fences=one), b"2": value(5, fences=other), b"3": value(5)}))
    await engine.write(Batch({b"4": value(5, fences={"a": 2, "b": 2})}))

    rows = {row.key: row.fences for row in await all_rows(engine, 0, SPACE, 10)}
    assert rows[b"1"] == rows[b"2"] == digest_of(one) != 0
    assert rows[b"3"] == 0
    assert rows[b"4"] not in (rows[b"1"], 0)


async def test_what_bears_a_fence_is_never_to_be_purged(engine: Engine) -> None:
    fenced = {"fences": {"lock": 7}}
    deleted = ReplicaState(5, Record(5, 5, False, None))
    await engine.write(
        Batch(
            {
                b"deleted": deleted,
                b"deleted, fenced": ReplicaState(5, Record(5, 5, False, None, fences={"lock": 7})),
                b"expired": value(5, expires_at_ms=9),
                b"expired, fenced": value(5, expires_at_ms=9, **fenced),
            }
        )
    )
    assert sorted(await engine.purgeable(0, SPACE, 9, 10)) == [b"deleted", b"expired"]


async def test_a_damaged_row_is_listed_all_the_same(folders: Folders) -> None:
    engine = await folders.opened()
    written = {b"%d" % number: value(number + 1) for number in range(9)}
    await engine.write(Batch(written))
    await engine.close()
    await folders.rot(engine, b"5")
    again = await folders.opened()
    assert [row.key for row in listed(written)] == [row.key for row in await all_rows(again, 0, SPACE, 2)]


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@lenient
@given(
    written=st.dictionaries(keys, states, max_size=30),
    bounds=st.tuples(places, places),
    ballot_max=st.integers(0, 1 << 62),
    moment=st.integers(0, 1 << 62),
)
def test_what_can_be_purged_is_deleted_expired_or_empty_and_past(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    written: dict[bytes, ReplicaState],
    bounds: tuple[int, int],
    ballot_max: int,
    moment: int,
) -> None:
    first, behind = sorted(bounds)
    expected = {
        row.key
        for row in listed(written, first, behind)
        if row.ballot <= ballot_max
        and row.promised <= ballot_max
        and (row.ballot == NONE or row.tombstone or 0 < row.expires_at_ms < moment)
        and not row.fences
    }

    async def body(folders: Folders) -> None:
        engine = await folders.opened()
        await engine.write(Batch({key: ReplicaState(1, Record(1, 1, False, b"first")) for key in written}))
        await engine.write(Batch(written))
        found = await engine.purgeable(first, behind, ballot_max, moment)
        assert sorted(expected) == sorted(found)

    run_in(kind, tmp_path_factory.mktemp("folder"), body)


async def test_the_three_kinds_that_can_be_purged_and_the_bounds_of_each(engine: Engine) -> None:
    written = {
        b"promise": ReplicaState(5),
        b"promise above": ReplicaState(6),
        b"tombstone": ReplicaState(5, Record(5, 5, False, None)),
        b"tombstone promised above": ReplicaState(6, Record(5, 5, False, None)),
        b"expired": value(5, expires_at_ms=99),
        b"expires now": value(5, expires_at_ms=100),
        b"expired above": value(6, expires_at_ms=99),
        b"value": value(5),
        b"empty value": value(5, b""),
    }
    await engine.write(Batch(written))
    assert sorted(await engine.purgeable(0, SPACE, 5, 100)) == [b"expired", b"promise", b"tombstone"]


async def test_a_dropped_row_is_gone_promise_and_all(folders: Folders) -> None:
    engine = await folders.opened()
    written = {b"%d" % number: value(number + 1) for number in range(300)}
    await engine.write(Batch(written))
    dropped = {key for key in written if len(key) == 3}
    await engine.write(Batch({b"7": value(900)}, drop={*dropped, b"never there"}, facts={"floor": b"1"}))
    await engine.close()
    again = await folders.opened()
    left = {key: state for key, state in written.items() if key not in dropped} | {b"7": value(900)}
    assert await again.load(list(written)) == left | dict.fromkeys(dropped, ReplicaState())
    assert listed(left) == await all_rows(again, 0, SPACE, 64)
    assert [entry.key for entry in (await again.scan(b"", None, 1000, False, 0)).entries] == sorted(left)
    assert dict(again.facts) == {"floor": b"1"}
    await again.write(Batch({b"100": value(5)}))
    assert await again.load([b"100"]) == {b"100": value(5)}, "a key may come again"


async def test_leaves_are_found_as_they_were_committed(folders: Folders) -> None:
    engine = await folders.opened()
    assert (dict(engine.leaves), engine.leaves_are_lost) == ({}, False)
    highest = (1 << 64) - 1
    await engine.write(Batch({b"a": value(5)}, leaves={0: 1, 127: highest, 128: 3, 1 << 20: 4}))
    await engine.write(Batch({b"a": value(6)}, leaves={127: 2, 128: 0}))
    await engine.close()
    again = await folders.opened()
    assert dict(again.leaves) == {0: 1, 127: 2, 1 << 20: 4}
    await again.write(Batch({b"a": value(7)}, leaves={5: 5}))
    assert dict(again.leaves) == {0: 1, 127: 2, 1 << 20: 4}, "as they were when the folder was opened"
    await again.close()
    assert dict((await folders.opened()).leaves) == {0: 1, 5: 5, 127: 2, 1 << 20: 4}


async def test_leaves_that_are_lost_stay_so_until_all_are_written(folders: Folders) -> None:
    engine = await folders.opened()
    await engine.write(Batch({b"a": value(5)}, leaves={1: 11, 300: 33}))
    await engine.close()
    await folders.lose_leaves(engine)
    for _ in range(2):
        engine = await folders.opened()
        assert (dict(engine.leaves), engine.leaves_are_lost) == ({}, True)
        await engine.write(Batch({b"b": value(5)}, leaves={2: 22}))
        await engine.close()
    engine = await folders.opened()
    await engine.write(Batch(leaves={1: 12, 2: 22}, leaves_are_all=True))
    assert not engine.leaves_are_lost
    await engine.write(Batch(leaves={3: 33}))
    await engine.close()
    engine = await folders.opened()
    assert (dict(engine.leaves), engine.leaves_are_lost) == ({1: 12, 2: 22, 3: 33}, False)


async def test_an_engine_that_is_not_open_lists_nothing(folders: Folders) -> None:
    engine = folders.engine()
    for refused in (engine.rows(0, 1, None, 1), engine.purgeable(0, 1, 1, 1), engine.hints(0, 1, 1), engine.reclaim(1)):
        with pytest.raises(StorageError, match="nothing was read or written"):
            await refused
