"""The states in memory: bounded, least recently used out first, never one that is not yet on disk."""

from __future__ import annotations

from collections import OrderedDict

from storage.record import ReplicaState

ENTRY_OVERHEAD_BYTES = 700
"""Python's cost of one cached key: entry, state, record, key, dictionary slot; measured with a million entries."""
FENCE_BYTES = 200
"""About what one fence costs: the lock's name, its number, their slot."""


class Entry:
    """A key's state and the ticket of the commit that holds it (0: it came from disk)."""

    __slots__ = ("size", "state", "ticket")

    def __init__(self, state: ReplicaState, ticket: int, size: int) -> None:
        self.state, self.ticket, self.size = state, ticket, size


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
        size = ENTRY_OVERHEAD_BYTES + len(key)
        if (record := state.record) is not None:
            if record.value is not None:
                size += len(record.value)
            if record.fences is not None:
                size += FENCE_BYTES * len(record.fences)
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = Entry(state, ticket, size)
            self.size_bytes += size
        else:
            self.size_bytes += size - entry.size
            entry.state, entry.ticket, entry.size = state, ticket, size
            self._entries.move_to_end(key)

    def remove(self, key: bytes) -> None:
        """Forgets the key, if it is here."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size

    def entries(self) -> list[tuple[bytes, Entry]]:
        """All of them, for the rare case that all are to be looked at."""
        return list(self._entries.items())

    def shrink(self, committed: int) -> None:
        """Drops the least recently used down to the bound; stops at one whose commit is still under way."""
        while self.size_bytes > self._bytes_max and self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.ticket > committed:
                return
            del self._entries[key]
            self.size_bytes -= entry.size
