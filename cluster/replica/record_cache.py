"""The states in memory: bounded, least recently used out first, never one that is not yet on disk."""

from __future__ import annotations

from collections import OrderedDict

from storage.keyspace import hash_of
from storage.record import ReplicaState

ENTRY_OVERHEAD_BYTES = 780
"""Python's cost of one cached key: entry, state, record, key, dictionary slot; measured with a million entries."""
FENCE_BYTES = 200
"""About what one fence costs: the lock's name, its number, their slot."""


class Entry:
    """A key's state and the ticket of the commit that holds it (0: it came from disk)."""

    __slots__ = ("digest", "place", "size", "state", "ticket")

    def __init__(self, state: ReplicaState, ticket: int, size: int, place: int) -> None:
        self.state, self.ticket, self.size = state, ticket, size
        self.place = place
        """The key's, in the key space: what partition and leaf are worked out from."""
        self.digest: int | None = None
        """What stands for the state's record in the hash trees; None until somebody has worked it out."""


class RecordCache:
    """Key -> Entry."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.size_bytes = 0
        """Estimated memory of all entries."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        """The entry, now the most recently used."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, state: ReplicaState, ticket: int) -> None:
        """Sets a key's state; ticket is the commit that will hold it."""
        entry = self._entries.get(key)
        if entry is None:
            size = _size(key, state)
            self._entries[key] = Entry(state, ticket, size, hash_of(key))
            self.size_bytes += size
        else:
            self.replace(key, entry, state, ticket)
            self._entries.move_to_end(key)

    def replace(self, key: bytes, entry: Entry, state: ReplicaState, ticket: int, digest: int | None = None) -> None:
        """The same for an entry that get() has just given; digest: of the new record, if it is known."""
        size = _size(key, state)
        self.size_bytes += size - entry.size
        entry.state, entry.ticket, entry.size, entry.digest = state, ticket, size, digest

    def remove(self, key: bytes) -> None:
        """Forgets the key, if it is here."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size

    def entries(self) -> list[tuple[bytes, Entry]]:
        """All of them, for the rare case that all are to be looked at."""
        return list(self._entries.items())

    @property
    def is_too_large(self) -> bool:
        """Whether there is something to shrink."""
        return self.size_bytes > self._bytes_max

    def shrink(self, committed: int) -> None:
        """Drops the least recently used down to the bound; stops at one whose commit is still under way."""
        while self.size_bytes > self._bytes_max and self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.ticket > committed:
                return
            del self._entries[key]
            self.size_bytes -= entry.size


def _size(key: bytes, state: ReplicaState) -> int:
    size = ENTRY_OVERHEAD_BYTES + len(key)
    if (record := state.record) is not None:
        if record.value is not None:
            size += len(record.value)
        if record.fences is not None:
            size += FENCE_BYTES * len(record.fences)
    return size
