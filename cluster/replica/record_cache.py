"""The states in memory: bounded, those that were not used for long out first, never one that is not yet on disk.

Corbato, "A Paging Experiment with the Multics System" (1968): a hand goes round over all of them, passes over what was
used since it came by last, and takes what was not. It leaves about what the exact order of use would, and a use costs
one mark in what is being looked at anyway; to keep the order costs a few far places of memory each time.
"""

from __future__ import annotations

from collections import deque

from storage.keyspace import hash_of
from storage.record import ReplicaState

ENTRY_OVERHEAD_BYTES = 720
"""Python's cost of one cached key: entry, state, record, key, dictionary slot; measured with a million entries."""
PASSED_MAX = 8
"""In a row; then one goes though it was used: where all are in use, to find that out must not take a whole round. As
many whose commit is under way are met at a time: a key that is written all the time must not keep all others here."""
STRAYS_MAX = 1_024
"""Keys of the round that are not here any more, beside as many as are here."""
FENCE_BYTES = 200
"""About what one fence costs: the lock's name, its number, their slot."""


class Entry:
    """A key's state and the ticket of the commit that holds it (0: it came from disk)."""

    __slots__ = ("digest", "is_used", "place", "size", "state", "ticket")

    def __init__(self, state: ReplicaState, ticket: int, size: int, place: int) -> None:
        self.state, self.ticket, self.size = state, ticket, size
        self.is_used = False
        """Since the hand came by."""
        self.place = place
        """The key's, in the key space: what partition and leaf are worked out from."""
        self.digest: int | None = None
        """What stands for the state's record in the hash trees; None until somebody has worked it out."""


class RecordCache:
    """Key -> Entry."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: dict[bytes, Entry] = {}
        self._round: deque[bytes] = deque()
        """All keys, the next one under the hand first; also some that are not here any more."""
        self.size_bytes = 0
        """Estimated memory of all entries."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        """The entry, which counts as used."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.is_used = True
        return entry

    def put(self, key: bytes, state: ReplicaState, ticket: int) -> None:
        """Sets a key's state; ticket is the commit that will hold it."""
        entry = self._entries.get(key)
        if entry is None:
            size = _size(key, state)
            self._entries[key] = Entry(state, ticket, size, hash_of(key))
            self._round.append(key)
            self.size_bytes += size
        else:
            self.replace(key, entry, state, ticket)
            entry.is_used = True

    def replace(self, key: bytes, entry: Entry, state: ReplicaState, ticket: int, digest: int | None = None) -> bool:
        """The same for an entry that get() has just given; whether there is something to shrink now.

        digest: of the new record, if it is known.
        """
        size = ENTRY_OVERHEAD_BYTES + len(key)  # _size(), written out: three times a put
        if (record := state.record) is not None:
            if record.value is not None:
                size += len(record.value)
            if record.fences is not None:
                size += FENCE_BYTES * len(record.fences)
        if size != entry.size:
            self.size_bytes += size - entry.size
            entry.size = size
        entry.state, entry.ticket, entry.digest = state, ticket, digest
        return self.size_bytes > self._bytes_max

    def remove(self, key: bytes) -> None:
        """Forgets the key, if it is here."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size
            if len(self._round) > 2 * len(self._entries) + STRAYS_MAX:
                self._round = deque(self._entries)

    def entries(self) -> list[tuple[bytes, Entry]]:
        """All of them, for the rare case that all are to be looked at."""
        return list(self._entries.items())

    def shrink(self, committed: int) -> None:
        """Drops what was not used, down to the bound; never one whose commit is still under way."""
        entries, hand, passed, waiting = self._entries, self._round, 0, 0
        while self.size_bytes > self._bytes_max and hand and waiting < PASSED_MAX:
            key = hand.popleft()
            entry = entries.get(key)
            if entry is None:
                continue
            if entry.ticket > committed:
                hand.append(key)
                waiting += 1
            elif entry.is_used and passed < PASSED_MAX:
                entry.is_used = False
                hand.append(key)
                passed += 1
            else:
                del entries[key]
                self.size_bytes -= entry.size
                passed = 0


def _size(key: bytes, state: ReplicaState) -> int:
    size = ENTRY_OVERHEAD_BYTES + len(key)
    if (record := state.record) is not None:
        if record.value is not None:
            size += len(record.value)
        if record.fences is not None:
            size += FENCE_BYTES * len(record.fences)
    return size
