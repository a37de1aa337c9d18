"""What a workload is: a kind of steps that many workers take, and what they look at when all is over."""

from __future__ import annotations

import random
from itertools import count
from typing import Protocol

from kvstore.client.values import Value
from kvstore.verify.workloads.worker import Told, Worker


class Workload(Protocol):
    """Steps while faults act, final looks once all is well again. Its keys begin with the prefix it was made with."""

    name: str

    async def step(self, worker: Worker) -> None:
        """One call or a few. Never raises for what a cluster may do."""
        ...

    async def finish(self, worker: Worker) -> bool:
        """Everything is healed: the final looks of one worker. False when some had no answer."""
        ...


class Unique:
    """Values that are written once, so that whoever reads one knows who wrote it."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(self) -> str:
        return str(next(self._numbers))


class RotatingKeys:
    """A few keys at a time, and others after a while: a search for an order grows with the calls on one key."""

    def __init__(self, prefix: str, at_once: int, calls_each: int) -> None:
        self._prefix, self._at_once, self._calls_each = prefix, at_once, calls_each
        self._calls = 0

    def draw(self, dice: random.Random) -> str:
        """One of the present keys, for one call."""
        self._calls += 1
        return f"{self._prefix}{self._generation}-{dice.randrange(self._at_once)}"

    def all(self) -> list[str]:
        """Every key that may have been drawn so far."""
        return [f"{self._prefix}{one}-{place}" for one in range(self._generation + 1) for place in range(self._at_once)]

    @property
    def _generation(self) -> int:
        return self._calls // (self._at_once * self._calls_each)


def seen(value: Value | None) -> dict[str, str | None]:
    """A read's answer as histories have it."""
    if value is None:
        return {"value": None, "version": None}
    return {"value": value.text, "version": value.version}


def all_ok(tolds: list[Told[object]]) -> bool:
    """Whether each had an answer."""
    return all(told.is_ok for told in tolds)
