"""What a scrub finds and what mend leaves, in either engine."""

from __future__ import annotations

from storage import Batch, Damaged, Engine, Hint, Record, ReplicaState
from tests.contracts.folders import Folders, value


async def swept(engine: Engine, limit: int) -> tuple[int, list[tuple[int, bytes | None]]]:
    """How many rows a sweep looked at, and what it found."""
    checked, last = 0, 0
    found: list[tuple[int, bytes | None]] = []
    while True:
        page = await engine.scrub(last, limit)
        checked += page.checked
        found += [(rot.row, rot.key) for rot in page.rotten]
        if page.last is None:
            return checked, found
        assert page.last > last
        last = page.last


async def test_damaged_rows_are_found_by_number_and_mended(folders: Folders) -> None:
    engine = await folders.opened()
    states = {b"%d" % number: value(number) for number in range(1, 11)}
    await engine.write(Batch(dict(states)))
    await engine.write(Batch(drop={b"2"}))
    for limit in (1, 3, 9, 100):
        assert await swept(engine, limit) == (9, [])
    await engine.close()
    for key in (b"4", b"9"):
        await folders.rot(engine, key)
    engine = await folders.opened()
    for limit in (1, 3, 9, 100):
        assert await swept(engine, limit) == (9, [(4, b"4"), (9, b"9")])
    assert isinstance((await engine.load([b"4"]))[b"4"], Damaged)
    await engine.write(Batch({b"9": value(99)}))  # sound again
    sequence = engine.commit_sequence
    await engine.mend([4, 9, 5, 1000, 0, -1])
    assert engine.commit_sequence == sequence + 1
    expected = {**states, b"2": ReplicaState(), b"4": ReplicaState(), b"9": value(99)}
    assert await engine.load(list(expected)) == expected
    assert await swept(engine, 100) == (8, [])
    await engine.mend([4, 9])
    assert engine.commit_sequence == sequence + 1, "there was nothing left to mend"


async def test_damaged_hints_are_no_rows(folders: Folders) -> None:
    engine = await folders.opened()
    hint = Hint(b"h", Record(5, 5, True, b"v"), (1,), False)
    await engine.write(Batch({b"k": value(5)}, hints={1: hint, 2: hint}))
    await engine.close()
    await folders.rot_hint(engine, 2)
    engine = await folders.opened()
    assert await swept(engine, 10) == (3, [(0, b"h")])
