"""Monotonic strong reads: who has seen a version never sees an older one afterwards.

All users of one process are held to that together, as a strong read promises it to all: a read that begins after
another read, or after a strong write, was answered shows that version or a newer one. Versions are text of one
length, whose order is the order of the writes.
"""

from __future__ import annotations

ABSENT = ""
"""Of a key that is not there; older than all versions, where nobody deletes."""


class StrongReads:
    """The newest version of each key that somebody of this process was told under `strong`."""

    def __init__(self) -> None:
        self._newest: dict[str, str] = {}

    def floor(self, key: str) -> str:
        """What a strong read that begins now must show, or newer."""
        return self._newest.get(key, ABSENT)

    def seen(self, key: str, version: str, floor: str = ABSENT) -> str | None:
        """Takes note of an answer; the violation if it is older than the floor at which its request began."""
        if version > self.floor(key):
            self._newest[key] = version
        if version >= floor:
            return None
        told = version or "no value"
        return f"stale strong read: {key} gave {told} after {floor} had been told"
