"""Glances: the strong reads that begin in one turn of the loop ask together whether replicas agree.

A strong read is answered once a majority holds the same ballot (protocol/reader.py). Where two are a majority, one of
them is this node, and its record is on its disk: then all that is missing is one ballot of one other replica, and for
all reads of a turn that ask the same one, a message and a reply. Whatever it says but "the same" is left to a
conversation of its own, as is its silence.

That this node looks at itself first does no harm: both have looked after the read began and before it ended.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from cluster.coordination.drive import PATIENCE_S, Context
from cluster.protocol.messages import Answer, Glance, Glimpsed
from cluster.tasks import safely
from storage.ballot import NONE
from storage.record import Record

KEYS_MAX = 1_000
"""In one message; keys of the longest kind make a megabyte of them."""


class Reading(Protocol):
    """One read: see coordinator.py."""

    deadline_s: float

    def agreed(self, record: Record | None, other: int) -> None:
        """That replica holds the same as this node."""
        ...

    def start(self) -> None:
        """It asks for itself."""
        ...


class Glances:
    """Gathers the reads of one turn of the loop."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._gathered: dict[int, _Glance] = {}

    def add(self, slot: int, key: bytes, record: Record | None, reading: Reading) -> None:
        """Asks that replica at the end of this turn whether it holds this record, too."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._send)
        glance = self._gathered.get(slot)
        if glance is None:
            glance = self._gathered[slot] = _Glance(self._context)
        glance.keys.append(key)
        glance.readings.append((reading, record))
        if len(glance.keys) >= KEYS_MAX:
            del self._gathered[slot]
            safely(glance.ask, slot)

    def _send(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for slot, glance in gathered.items():
            safely(glance.ask, slot)


class _Glance:
    """The question to one replica."""

    __slots__ = ("_context", "_is_over", "deadline_s", "keys", "patience_s", "readings")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._is_over = False
        self.keys: list[bytes] = []
        self.readings: list[tuple[Reading, Record | None]] = []
        self.deadline_s = self.patience_s = float("inf")

    def ask(self, slot: int) -> None:
        """Sends it."""
        context = self._context
        first_deadline_s = min(reading.deadline_s for reading, _ in self.readings)
        self.patience_s = min(context.clock.monotonic_s() + PATIENCE_S, first_deadline_s)
        context.sweeper.add(self)
        context.transport.send(slot, Glance(self.keys), self._answered)

    def _answered(self, slot: int, answer: Answer) -> None:
        if self._is_over:
            return
        if type(answer) is not Glimpsed or len(answer.ballots) != len(self.readings):
            self._give_up()
            return
        for (reading, record), ballot in zip(self._end(), answer.ballots, strict=True):
            if ballot == (NONE if record is None else record.ballot):
                safely(reading.agreed, record, slot)
            else:
                safely(reading.start)

    def _end(self) -> list[tuple[Reading, Record | None]]:
        """The readings, which nobody holds on to from now on: a slow replica's answer may be long in coming."""
        self._is_over = True
        self._context.sweeper.discard(self)
        readings, self.readings, self.keys = self.readings, [], []
        return readings

    def _give_up(self) -> None:
        for reading, _ in self._end():
            safely(reading.start)

    def expire(self) -> None:
        """Each read has a deadline of its own."""

    def hurry(self) -> None:
        """The replica is slow: others may be faster."""
        self._give_up()
