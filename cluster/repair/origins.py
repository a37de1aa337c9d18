"""Origins by partition: how far back the oldest write lies that this node still owes to somebody.

A floor may rise only above what nobody keeps any more (floors/), so whoever keeps writes must be able to tell the
oldest of a partition without looking through all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable


class OldestOrigins:
    """What is kept of each partition, each under a name of its keeper's choice."""

    def __init__(self) -> None:
        self._of: defaultdict[int, dict[Hashable, int]] = defaultdict(dict)

    def add(self, partition: int, name: Hashable, origin: int) -> None:
        """From now on a write with this origin is kept."""
        self._of[partition][name] = origin

    def remove(self, partition: int, name: Hashable) -> None:
        """It is kept no longer."""
        self._of[partition].pop(name, None)

    def oldest(self, partition: int) -> int | None:
        """The lowest origin that is kept of the partition; None when there is none."""
        return min(self._of[partition].values(), default=None) if partition in self._of else None
