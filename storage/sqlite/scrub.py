"""Scrub: goes through all rows for what nobody meets by asking, and removes what has rotted.

A load verifies the checksums of the row that it finds. It can't notice a row that it does not find: a bit that flips
in a key, or in an index's copy of one, makes the row vanish for whoever asks for the key, and SQLite says nothing. So
the scrub goes by the rows' own numbers, and asks of each whether its key and its place lead back to it.

Which copy of a key has rotted, the row's or the index's, is told by the row's checksum, which covers the key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from storage.engine import CantMend, Damaged, Rot, ScrubPage, StorageError
from storage.keyspace import hash_of
from storage.sqlite import schema
from storage.sqlite.rows import SIZE, Row, damage_of, hint_of, shown, state_of

ROWS_PER_STEP = 16
"""Rows that are fetched at a time: few, as each may carry a megabyte."""

KEYS_PER_STEP = 256

OVERFLOW_BYTES_MIN = 400
"""A row this large may go on on other pages (a page of 4096 bytes keeps at least 489 of a row itself)."""

Fetch = Callable[[str, Sequence[Any]], Awaitable[list[Row]]]
"""Runs a query by itself, outside the event loop, and gives all its rows. Raises sqlite3.Error."""

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)
"""What SQLite says of a page that it can't read or make sense of: primary result codes."""

_UNREADABLE = "nothing mends that but a new database"


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether SQLite says that a page is damaged, as against that it is busy, or has no room."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


class _Look(NamedTuple):
    """A row, and what leads to it."""

    number: int
    found: int | None
    """The row that its key leads to."""
    place: Any
    is_by_place: int
    is_to_purge: int
    """Whether its place leads to it in either index; also 1 for one that need not be in it."""
    row: Row

    @classmethod
    def of(cls, columns: Row) -> _Look:
        number, found, place, is_by_place, is_to_purge = columns[:5]
        return cls(number, found, place, is_by_place, is_to_purge, columns[5:])

    @property
    def is_sound_itself(self) -> bool:
        return damage_of(self.row) is None

    @property
    def damage(self) -> str | None:
        """What is wrong with it; None for a row that is sound and is found."""
        of_row = damage_of(self.row)
        name = f"the record of key {shown(self.row[0])}"
        if of_row is not None:
            return f"{name} {of_row}"
        if self.found != self.number:
            return f"{name} is not found by its key: an index has changed on disk"
        if self.place != hash_of(self.row[0]) or not (self.is_by_place and self.is_to_purge):
            return f"{name} is not found by its place: an index has changed on disk"
        return None


async def scrub_step(fetch: Fetch, after: int, limit: int) -> ScrubPage:
    """See Engine.scrub."""
    rotten: list[Rot] = []
    checked, last = 0, after
    while checked < limit:
        count = min(ROWS_PER_STEP, limit - checked)
        step = await _look_at(fetch, last, count)
        rotten += step.rotten
        checked += step.checked
        if step.last is None:
            rotten += await _look_for_lost_rows(fetch)
            others = await _look_at_others(fetch)
            return ScrubPage(checked + others.checked, rotten + others.rotten, None)
        last = step.last
    return ScrubPage(checked, rotten, last)


async def _look_at(fetch: Fetch, after: int, count: int) -> ScrubPage:
    try:
        looks = [_Look.of(columns) for columns in await fetch(schema.LOOK_AT_RECORDS, (after, count + 1))]
    except sqlite3.DatabaseError as error:
        _refuse_unless_damage(error)
        return await _look_around_damage(fetch, after, count)
    # A number, or where it is read, may have rotted: to go on from it could leave out all the rows that it jumps over.
    # The row behind the last tells, too.
    if any(number >= behind for number, behind in pairwise([after, *(look.number for look in looks)])):
        return await _look_around_damage(fetch, after, count)
    has_more, looks = len(looks) > count, looks[:count]
    rotten = [await _rot_of(fetch, look, look.damage) for look in looks if look.damage is not None]
    return ScrubPage(len(looks), rotten, looks[-1].number if has_more else None)


async def _look_around_damage(fetch: Fetch, after: int, count: int) -> ScrubPage:
    """Row by row, so that a bad page costs only those on it; their numbers from the table, or else from the index."""
    for sql in (schema.NUMBERS_IN_TABLE, schema.NUMBERS_IN_KEY_INDEX):
        try:
            numbers = await fetch(sql, (after, count + 1))
            if all(number < behind for (number, _), (behind, _) in pairwise([(after, None), *numbers])):
                break
            reason = f"the rows behind number {after} are not in order, nor is their index; {_UNREADABLE}"
        except sqlite3.DatabaseError as error:
            _refuse_unless_damage(error)
            reason = f"the rows behind number {after} can't be read, nor skipped ({error}); {_UNREADABLE}"
    else:
        return ScrubPage(0, [Rot(-1, None, reason)], None)
    has_more, numbers = len(numbers) > count, numbers[:count]
    rotten = []
    for number, key in numbers:
        rot = await _look_at_one(fetch, number, key)
        if rot is not None:
            rotten.append(rot)
    return ScrubPage(len(numbers), rotten, numbers[-1][0] if has_more else None)


async def _look_at_one(fetch: Fetch, number: int, key: bytes | None) -> Rot | None:
    """A row near damage; what is known of its key from elsewhere is given."""
    error: sqlite3.DatabaseError | None = None
    for sql in (schema.LOOK_AT_RECORD, schema.LOOK_AT_RECORD_ALONE):
        try:
            rows = await fetch(sql, (number,))
        except sqlite3.DatabaseError as failure:
            _refuse_unless_damage(failure)
            error = failure
            continue
        if not rows and key is None:
            return None  # deleted meanwhile
        look = _Look.of(rows[0]) if rows else None
        if look is None or (key not in (None, look.row[0]) and damage_of((key, *look.row[1 : SIZE + 1])) is not None):
            return Rot(-1, key, f"the record of key {shown(key)} is not where its index leads; {_UNREADABLE}")
        return await _rot_of(fetch, look, look.damage) if look.damage is not None else None
    known = key if key is not None else await _key_in_index(fetch, number)
    return Rot(-1, known, f"the record of key {shown(known)}, row {number}, can't be read ({error}); {_UNREADABLE}")


async def _rot_of(fetch: Fetch, look: _Look, reason: str | None) -> Rot:
    key = look.row[0]
    if damage_of(look.row[: SIZE + 1]) is not None and look.found != look.number:  # then its own key says nothing
        key = await _key_in_index(fetch, look.number)
        if damage_of((key, *look.row[1 : SIZE + 1])) is not None:
            key = None
    return Rot(look.number, key, reason or "")


async def _key_in_index(fetch: Fetch, number: int) -> bytes | None:
    """The key under which the index has this row; goes through all of the index."""
    try:
        rows = await fetch(schema.KEY_IN_INDEX, (number,))
    except sqlite3.DatabaseError as error:
        _refuse_unless_damage(error)
        return None
    return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None


async def _look_for_lost_rows(fetch: Fetch) -> list[Rot]:
    """The other way round: rows that the index of keys leads to, and that are not where they should be."""
    rotten: list[Rot] = []
    after = b""
    while True:
        try:
            rows = await fetch(schema.KEYS_AND_THEIR_ROWS, (after, KEYS_PER_STEP))
        except sqlite3.DatabaseError as error:
            _refuse_unless_damage(error)
            return rotten  # a page can't be read: the sweep has met it on its way
        lost = f"its index leads to where there is none; {_UNREADABLE}"
        rotten += [Rot(-1, key, f"the record of key {shown(key)} is lost: {lost}") for key, row in rows if row is None]
        if len(rows) < KEYS_PER_STEP or not isinstance(rows[-1][0], bytes) or rows[-1][0] <= after:
            return rotten
        after = rows[-1][0]


async def _look_at_others(fetch: Fetch) -> ScrubPage:
    """The records that are kept aside, and the hints."""
    rotten: list[Rot] = []
    checked = 0
    for what, sql, judge, key_at in (
        ("a record that is kept aside", schema.LOOK_AT_KEPT, _damage_of_kept, 1),
        ("a hint", schema.SELECT_HINTS, _damage_of_hint, 4),
    ):
        after = 0
        while True:
            try:
                rows = await fetch(sql, (after, ROWS_PER_STEP))
            except sqlite3.DatabaseError as error:
                _refuse_unless_damage(error)
                rotten.append(Rot(0, None, f"{what}, behind row {after}, can't be read: {error}"))
                break
            reasons = [(row[key_at], judge(row)) for row in rows]
            rotten += [Rot(0, key, f"{what} has rotted: {reason}") for key, reason in reasons if reason is not None]
            checked += len(rows)
            if len(rows) < ROWS_PER_STEP:
                break
            after = rows[-1][0]
    return ScrubPage(checked, rotten, None)


def _damage_of_kept(row: Row) -> str | None:
    state = state_of(row[1:])
    return state.reason if isinstance(state, Damaged) else None


def _damage_of_hint(row: Row) -> str | None:
    hint = hint_of(row)
    return hint.reason if isinstance(hint, Damaged) else None


def _refuse_unless_damage(error: sqlite3.DatabaseError) -> None:
    if not is_damage(error):
        raise StorageError(f"looking for damage failed, and can be tried again: {error}") from error


def mend(connection: sqlite3.Connection, numbers: Sequence[int], count_commit: tuple[str, Sequence[Any]]) -> bool:
    """See Engine.mend; whether there was anything to mend. Plays one transaction, with the statement that counts it.

    Raises CantMend, with the transaction undone; sqlite3.Error where it may or may not have been.
    """
    connection.execute(schema.FORGET_PAGES)  # it may have them from before they rotted, and find nothing to mend
    connection.execute("BEGIN IMMEDIATE")
    try:
        looks = [look for number in numbers if number > 0 for look in _still_damaged(connection, number)]
        if looks:
            _play_mending(connection, looks)
            connection.execute(*count_commit)
    except (CantMend, sqlite3.DatabaseError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise CantMend(
            f"damaged records can't be removed: {error}; nothing was changed. If the next scrub doesn't find more, "
            "which would be in the way, then move this folder away and start with a new one"
        ) from error
    connection.execute("COMMIT")
    return bool(looks)


def _still_damaged(connection: sqlite3.Connection, number: int) -> list[_Look]:
    """The row, unless it was written anew or has gone since it was found."""
    try:
        rows = connection.execute(schema.LOOK_AT_RECORD, (number,)).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        rows = connection.execute(schema.LOOK_AT_RECORD_ALONE, (number,)).fetchall()
    return [look for look in map(_Look.of, rows) if look.damage is not None]


def _play_mending(connection: sqlite3.Connection, looks: Sequence[_Look]) -> None:
    """Rows first, indexes then: made anew with a rotten row still there, an index may have one key twice."""
    # A sound row that its indexes don't lead to is only lost, and is found again. But if it was written anew while it
    # was lost, there is a later one of the same key, and it is out of date.
    lost = [look for look in looks if look.is_sound_itself and not _is_written_anew(connection, look)]
    latest = {look.row[0]: look for look in sorted(lost, key=lambda look: look.number)}
    kept = {look.number for look in latest.values()}
    gone = [look for look in looks if look.number not in kept]
    with _past_missing_index_entries(connection):
        connection.executemany(schema.DELETE_RECORD, [(look.number,) for look in gone])
        connection.executemany(
            schema.SET_PLACE, [(hash_of(look.row[0]), look.number) for look in latest.values() if not _has_place(look)]
        )
        connection.execute("REINDEX records")
    if any(not isinstance(look.row[SIZE], int) or look.row[SIZE] >= OVERFLOW_BYTES_MIN for look in gone):
        # Where a row goes on may be what has rotted; then its deletion gave pages away that belong to others.
        complaint = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if complaint != "ok":
            raise CantMend(f"their pages are damaged too ({complaint})")


def _is_written_anew(connection: sqlite3.Connection, look: _Look) -> bool:
    """Whether its key leads to another row that bears it, too."""
    if look.found in (None, look.number):
        return False
    rows = connection.execute(schema.LOOK_AT_RECORD_ALONE, (look.found,)).fetchall()
    return any(_Look.of(columns).row[0] == look.row[0] for columns in rows)


def _has_place(look: _Look) -> bool:
    return bool(look.place == hash_of(look.row[0]))


@contextmanager
def _past_missing_index_entries(connection: sqlite3.Connection) -> Iterator[None]:
    """Lets rows be deleted that their indexes don't have: SQLite calls that corruption, and here it is known.

    It takes it as harmless for whoever may write the schema. Nothing here does.
    """
    connection.execute("PRAGMA writable_schema = 1").fetchall()
    try:
        yield
    finally:
        connection.execute("PRAGMA writable_schema = 0").fetchall()
