"""Marks: what a replica holds true of all keys of a partition, held or not.

    floor     up to this ballot what is absent here is deleted for good: the origin and the promise of every absent key
    promise   nothing below this ballot is accepted for any key: the promise of a round over the whole partition

A key's state on disk does not have them; they are put on when it is loaded, and on what is in memory when they rise.
Both only rise. They are facts on disk, written in the transaction of what they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from storage.ballot import NONE
from storage.record import ReplicaState

_FLOOR, _PROMISE = "floor/", "promise/"


class PartitionMarks:
    """The marks of this node's partitions."""

    def __init__(self, partition_of: Callable[[bytes], int], facts: Mapping[str, bytes]) -> None:
        """facts: what is on disk."""
        self._partition_of = partition_of
        self.floors = _numbers(facts, _FLOOR)
        """Partition -> floor; absent is NONE."""
        self.promises = _numbers(facts, _PROMISE)
        """Partition -> promise; absent is NONE."""

    def put_on(self, key: bytes, state: ReplicaState) -> ReplicaState:
        """The key's state with its partition's marks; identical (`is`) where they say nothing new."""
        if not self.floors and not self.promises:
            return state
        partition = self._partition_of(key)
        promised = max(state.promised, self.promises.get(partition, NONE))
        floor = state.floor
        if state.record is None:
            floor = max(floor, self.floors.get(partition, NONE))
            promised = max(promised, floor)
        if (promised, floor) == (state.promised, state.floor):
            return state
        return ReplicaState(promised, state.record, floor)

    def raise_floor(self, partition: int, ballot: int) -> tuple[str, bytes]:
        """The new floor, and the fact that must go to disk with what it stands for."""
        self.floors[partition] = max(ballot, self.floors.get(partition, NONE))
        return _FLOOR + str(partition), str(self.floors[partition]).encode()

    def raise_promise(self, partition: int, ballot: int) -> tuple[str, bytes]:
        """The new promise, and the fact that must be on disk before anybody is told."""
        self.promises[partition] = max(ballot, self.promises.get(partition, NONE))
        return _PROMISE + str(partition), str(self.promises[partition]).encode()


def _numbers(facts: Mapping[str, bytes], prefix: str) -> dict[int, int]:
    return {int(name[len(prefix) :]): int(value) for name, value in facts.items() if name.startswith(prefix)}
