"""LeafSums: the sums of the hash trees' leaves on disk, so that neither a commit nor a start pays much for them.

A commit appends what changed to a journal: one row, whatever the number of leaves; where it adds to that of states
(state_journal.py), to its entry there. After FOLD_AFTER commits, and before an entry goes, the chunks that changed are
written whole and the journal is emptied, in a transaction that is written anyway; a start reads the chunks and journals
of bounded length. What is in memory here is always what is committed, so a transaction that is
undone leaves nothing to undo.
"""

from __future__ import annotations

import sqlite3
import struct
from array import array
from collections.abc import Iterator, Mapping

from storage.sqlite import schema
from storage.sqlite.integrity import blob_checksum
from storage.sqlite.statements import Statement, in_sizes, many

FOLD_AFTER = 512
"""Commits between two foldings: at 48 changed leaves each, a journal of 400 KB at most, read within milliseconds."""
LEAVES_PER_CHUNK = 128
"""A chunk is 1 KiB, three to a page."""
_CHUNK = struct.Struct(f"<{LEAVES_PER_CHUNK}Q")
_PUTS = in_sizes(schema.put_trees)
_EMPTY = array("Q", bytes(_CHUNK.size))


class LeafSums:
    """The committed sums. Lives in the writer's thread."""

    def __init__(self) -> None:
        self.are_lost = False
        """Whether what is on disk is damaged. Then nothing of it is used, and nothing written until all is."""
        self._chunks: dict[int, array[int]] = {}
        self._changed: dict[int, int] = {}
        """What is on disk beyond the chunks, in this journal and in that of states."""
        self._journal_length = 0

    def read(self, connection: sqlite3.Connection, elsewhere: Mapping[int, bytes]) -> None:
        """Reads what is on disk. Rows whose checksum does not match make all of it lost; raises sqlite3.Error.

        elsewhere: what changed() gave, by commit, of those that stand in the journal of states.
        """
        changes, folded_to = dict(elsewhere), 0
        try:
            for chunk, packed, checksum in connection.execute(schema.SELECT_TREES):
                self._chunks[chunk] = array("Q", _CHUNK.unpack(_sound(chunk, packed, checksum)))
            for sequence, packed, checksum in connection.execute(schema.SELECT_TREE_JOURNAL):
                if _sound(sequence, packed, checksum):
                    changes[sequence] = packed
                    self._journal_length += 1
                else:
                    folded_to = sequence
            for sequence in sorted(changes):
                if sequence > folded_to:
                    self._changed.update(_unpacked(changes[sequence]))
        except (_Rotten, struct.error):
            self.are_lost = True
            self._chunks.clear()
            self._changed.clear()

    def current(self) -> dict[int, int]:
        """The sums by leaf number, without those that are 0."""
        sums = {
            chunk * LEAVES_PER_CHUNK + place: total
            for chunk, totals in self._chunks.items()
            for place, total in enumerate(totals)
        }
        return {leaf: total for leaf, total in (sums | self._changed).items() if total}

    def statements(
        self, sequence: int, changes: Mapping[int, int], *, are_all: bool, are_elsewhere: bool, fold: bool
    ) -> Iterator[Statement]:
        """What the commit of this sequence writes for these leaves.

        are_all: of any other, nothing is to be left. are_elsewhere: they stand in the journal of states already.
        fold: what stands there of earlier commits goes.
        """
        if are_all:
            yield schema.CLEAR_TREES, ()
            yield from _put(_merged({}, changes))
            yield from _only_after(sequence)
        elif not self.are_lost:
            is_own = bool(changes) and not are_elsewhere
            if fold or (is_own and self._journal_length >= FOLD_AFTER):
                chunks = _merged(self._chunks, self._changed)
                self._chunks.update(chunks)  # all of that is committed
                yield from _put(chunks)
                yield from _only_after(sequence - 1)
            if is_own:
                packed = packed_changes(changes)
                yield schema.ADD_TO_TREE_JOURNAL, (sequence, packed, blob_checksum(sequence, packed))

    def committed(self, changes: Mapping[int, int], *, are_all: bool, are_elsewhere: bool, fold: bool) -> None:
        """The transaction of the last statements() is on disk."""
        if are_all:
            self._chunks = _merged({}, changes)
            self._changed.clear()
            self._journal_length, self.are_lost = 0, False
        elif not self.are_lost:
            is_own = bool(changes) and not are_elsewhere
            if fold or (is_own and self._journal_length >= FOLD_AFTER):
                self._changed.clear()
                self._journal_length = 0
            self._changed.update(changes)
            self._journal_length += is_own


def packed_changes(changes: Mapping[int, int]) -> bytes:
    """Leaves and their sums, as they stand in a journal."""
    return struct.pack(f"<{2 * len(changes)}Q", *changes.keys(), *changes.values())


def _only_after(sequence: int) -> Iterator[Statement]:
    """The chunks have all up to this commit: empties the journal, and says so in it, for what stands elsewhere."""
    yield schema.CLEAR_TREE_JOURNAL, ()
    yield schema.ADD_TO_TREE_JOURNAL, (sequence, b"", blob_checksum(sequence, b""))


class _Rotten(Exception):
    """A row does not match its checksum."""


def _sound(number: int, content: bytes, checksum: int) -> bytes:
    try:
        if blob_checksum(number, content) == checksum:
            return content
    except (TypeError, struct.error):
        pass
    raise _Rotten


def _unpacked(changes: bytes) -> Iterator[tuple[int, int]]:
    numbers = struct.unpack(f"<{len(changes) // 8}Q", changes)
    half = len(numbers) // 2
    return zip(numbers[:half], numbers[half:], strict=True)


def _merged(chunks: Mapping[int, array[int]], changes: Mapping[int, int]) -> dict[int, array[int]]:
    """The chunks that the changes are in, as they are after them."""
    merged: dict[int, array[int]] = {}
    for leaf, total in changes.items():
        number, place = divmod(leaf, LEAVES_PER_CHUNK)
        chunk = merged.get(number)
        if chunk is None:
            chunk = merged[number] = array("Q", chunks.get(number, _EMPTY))
        chunk[place] = total
    return merged


def _put(chunks: Mapping[int, array[int]]) -> Iterator[Statement]:
    packed = [(number, _CHUNK.pack(*totals)) for number, totals in chunks.items()]
    return many(_PUTS, [(number, sums, blob_checksum(number, sums)) for number, sums in packed])
