"""Some at once: work on many things, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Thing = TypeVar("Thing")


async def at_once(limit: int, things: Iterable[Thing], work: Callable[[Thing], Awaitable[None]]) -> None:
    """Does the work on all things, in order, at most `limit` at a time. What one raises ends all, as a group."""
    waiting = iter(things)

    async def go_on() -> None:
        for thing in waiting:
            await work(thing)

    async with asyncio.TaskGroup() as group:
        for _ in range(limit):
            group.create_task(go_on())
