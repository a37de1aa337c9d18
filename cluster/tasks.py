"""Tasks: every background task has an owner that keeps it, hears of its failure and ends it.

The event loop holds only weak references to tasks, and a task nobody awaits dies in silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger()


def safely(callback: Callable[..., object], *arguments: object) -> None:
    """Calls back somebody whose fault must not become the caller's: what it raises is logged and goes no further."""
    try:
        callback(*arguments)
    except Exception:
        log.exception("a callback failed", callback=getattr(callback, "__qualname__", repr(callback)))


class Tasks:
    """The tasks of one node."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Starts the work; if it fails, that is logged under its name."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", task=task.get_name(), exc_info=error)

    async def cancel_all(self) -> None:
        """Cancels what still runs and waits for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
