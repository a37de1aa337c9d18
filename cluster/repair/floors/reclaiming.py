"""Reclaiming: the room that purged rows leave behind goes back to the file system, a little at a time.

It goes through the writer, between two transactions, so a step must be short: a write that comes meanwhile waits.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from cluster.tasks import Tasks
from storage.engine import CommitFailed, Engine, StorageError
from storage.group_commit import GroupCommit

STEP_BYTES = 1 << 20
"""256 pages: some milliseconds."""
PAUSE_S = 0.25
log = structlog.get_logger()


class Reclaiming:
    """One node's; at most one task."""

    def __init__(self, engine: Engine, commits: GroupCommit, tasks: Tasks) -> None:
        self._engine, self._commits, self._tasks = engine, commits, tasks
        self._is_running = self._is_wanted = False

    def begin(self) -> None:
        """Rows have gone."""
        self._is_wanted = True
        if not self._is_running:
            self._is_running = True
            self._tasks.spawn(self._run(), "reclaim room")

    async def _run(self) -> None:
        """Until nothing is left to give back; a disk that is too full for it is left to the next purge."""
        try:
            while self._is_wanted:
                self._is_wanted, is_any_left = False, True
                while is_any_left:
                    await asyncio.sleep(PAUSE_S)
                    is_any_left = await self._commits.alone(partial(self._engine.reclaim, STEP_BYTES)) > 0
        except CommitFailed:
            raise
        except StorageError as error:
            log.warning("room that purged rows left behind can't be given back now", error=str(error))
        finally:
            self._is_running = False
