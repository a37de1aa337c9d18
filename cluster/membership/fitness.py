"""Fitness: what stands against a node's taking part just now, told to all in every heartbeat.

A node that is unfit refuses by itself; that others know it saves them the detour. As with liveness, no acknowledged
write rests on what others know, but all rests on what the node itself refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntFlag


class Bar(IntFlag):
    """What stands against a node."""

    READ_ONLY = 1
    """Its disk is full: it answers reads and takes no writes."""
    RECOVERING = 2
    """It lost what it had promised and accepted, all or some of it, and is learning it anew."""
    BAD_CLOCK = 4
    """Its wall clock is off by more than is allowed."""
    UNVERIFIED = 8
    """It has just started, and not enough peers have said yet that its memory is whole."""


WORDS = {
    Bar.READ_ONLY: "read-only: its disk is full",
    Bar.RECOVERING: "recovering: it lost some of what it had promised and accepted",
    Bar.BAD_CLOCK: "its wall clock is off",
    Bar.UNVERIFIED: "just started, and not yet sure that its memory is whole",
}
"""What a peer's bars mean, for those who see only the bars."""
WRITE_BARS = Bar.READ_ONLY | Bar.RECOVERING | Bar.BAD_CLOCK | Bar.UNVERIFIED
READ_BARS = Bar.RECOVERING | Bar.BAD_CLOCK | Bar.UNVERIFIED


class Fitness:
    """What stands against this node, each with its reason in words."""

    def __init__(self) -> None:
        self.bars = Bar(0)
        self.recovering: set[int] = set()
        """The partitions of which this node has still to learn what it holds."""
        self._reasons: dict[Bar, str] = {}
        self.on_fit: Callable[[], None] = lambda: None
        """Called when nothing stands against it any longer."""

    def bar(self, bar: Bar, reason: str) -> None:
        """From now on this stands against it."""
        self._reasons[bar] = reason
        self.bars |= bar

    def clear(self, bar: Bar) -> None:
        """It does no longer."""
        stood = self.bars
        self._reasons.pop(bar, None)
        self.bars &= ~bar
        if stood and not self.bars:
            self.on_fit()

    def why_no_reads(self) -> str | None:
        """Why this replica can't say what it holds; None when it can."""
        return self._reason(READ_BARS)

    def why_no_writes(self) -> str | None:
        """Why this node neither promises, accepts nor proposes; None when it does."""
        return self._reason(WRITE_BARS)

    def why_not(self, partition: int, reads: bool) -> str | None:
        """Why this replica can't answer a read, or a prepare or accept, of a key of the partition; None when it can."""
        bars = Bar.UNVERIFIED if reads else Bar.UNVERIFIED | Bar.BAD_CLOCK | Bar.READ_ONLY
        return self._reason(bars | Bar.RECOVERING if partition in self.recovering else bars)

    def why(self, bar: Bar) -> str | None:
        """The reason of this one; None when it does not stand."""
        return self._reasons.get(bar)

    @property
    def reasons(self) -> list[str]:
        """All that stands against it, in words."""
        return list(self._reasons.values())

    def _reason(self, bars: Bar) -> str | None:
        return next((reason for bar, reason in self._reasons.items() if bar & bars), None)


class Roster:
    """Whom to ask for what: who seems alive, less those who said that they are unfit."""

    def __init__(self, is_alive: Callable[[int], bool], own_slot: int, own: Fitness) -> None:
        self._is_alive, self._own_slot, self._own = is_alive, own_slot, own
        self._unreadable: set[int] = set()
        self._unwritable: set[int] = set()
        self.bars: dict[int, Bar] = {}
        """What each peer last said of itself, by slot."""

    def told(self, slot: int, bars: int) -> None:
        """A peer has said what stands against it."""
        said = Bar(bars)
        self.bars[slot] = said
        (self._unreadable.add if said & READ_BARS else self._unreadable.discard)(slot)
        (self._unwritable.add if said & WRITE_BARS else self._unwritable.discard)(slot)

    def is_readable(self, slot: int) -> bool:
        """Whether the node seems worth asking for what it holds."""
        if slot == self._own_slot:
            return not self._own.bars & READ_BARS
        return slot not in self._unreadable and self._is_alive(slot)

    def is_writable(self, slot: int) -> bool:
        """Whether the node seems worth asking for a promise or an accept, and may be a primary."""
        if slot == self._own_slot:
            return not self._own.bars
        return slot not in self._unwritable and self._is_alive(slot)

    @property
    def is_clock_right(self) -> bool:
        """Whether nothing is known against this node's own wall clock."""
        return not self._own.bars & Bar.BAD_CLOCK

    def readable(self, slots: Iterable[int]) -> list[int]:
        """Those of them that are, in order."""
        return [slot for slot in slots if self.is_readable(slot)]

    def writable(self, slots: Iterable[int]) -> list[int]:
        """Those of them that are, in order."""
        return [slot for slot in slots if self.is_writable(slot)]
