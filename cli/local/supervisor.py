"""Keeps a few node processes running: starts them, waits until they are ready, starts the dead again, ends them all.

Nodes never outlive their supervisor (kvstore/node_process.py).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from cli.errors import CommandFailed
from kvstore.node_process import NodePlan, NodeProcess

READY_TIMEOUT_S = 120.0
"""An empty node is ready in a second or two; one with millions of records to check may need much longer."""
POLL_EVERY_S = 0.03
"""A node that became ready is noticed at once; a probe of one that has not is a refused connection."""
EXPLAIN_EVERY_S = 10.0
"""A person who waits is told for whom."""
GRACE_S = 6.0
"""From SIGTERM to SIGKILL: twice the time that our nodes are given to finish what they have begun."""

Say = Callable[[str], None]


class Supervisor:
    """A set of nodes that live and end together."""

    def __init__(
        self,
        plans: Sequence[NodePlan],
        environment: Mapping[str, str],
        *,
        restart_after_s: float | None,
        say: Say,
    ) -> None:
        """restart_after_s is None when the dead shall stay dead."""
        self.nodes = [NodeProcess(plan, environment) for plan in plans]
        self._restart_after_s = restart_after_s
        self._say = say

    async def start(self) -> None:
        """Starts all nodes and waits until each is ready. Raises CommandFailed when one dies or time runs out."""
        try:
            for node in self.nodes:
                await node.start()
        except OSError as error:
            raise CommandFailed(f"a node can't be started: {error}") from error
        try:
            async with asyncio.timeout(READY_TIMEOUT_S), asyncio.TaskGroup() as group:
                watchers = [group.create_task(self._fail_if_it_ends(node)) for node in self.nodes]
                await self._all_ready()
                for watcher in watchers:
                    watcher.cancel()
        except ExceptionGroup as errors:
            raise _first(errors) from None
        except TimeoutError as error:
            raise CommandFailed(
                f"the nodes were not ready within {READY_TIMEOUT_S:g} s; their logs say more"
            ) from error

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Starts again who dies, until no node is left that could live; calls on_change after each start.

        Raises CommandFailed when one can't be started again.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for node in self.nodes:
                    group.create_task(self._keep_alive(node, on_change))
        except ExceptionGroup as errors:
            raise _first(errors) from None

    async def stop(self) -> None:
        """Ends all nodes: asks, waits GRACE_S, then kills. Cancelling it kills at once."""
        for node in self.nodes:
            node.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE_S):
                await self._all_ended()
        except (TimeoutError, asyncio.CancelledError):
            for node in self.nodes:
                node.send(signal.SIGKILL)
            await self._all_ended()

    async def _all_ended(self) -> None:
        for node in self.nodes:
            if node.pid is not None:
                await node.ended()

    async def _fail_if_it_ends(self, node: NodeProcess) -> None:
        how = await node.ended()
        raise CommandFailed(f"{node.plan.name} ended before it was ready: {how}{node.last_words()}")

    async def _all_ready(self) -> None:
        explained_at = time.monotonic()
        for node in self.nodes:
            while (reason := await node.unready_because()) is not None:
                if time.monotonic() - explained_at > EXPLAIN_EVERY_S:
                    explained_at = time.monotonic()
                    self._say(f"waiting for {node.plan.name}: {reason}")
                await asyncio.sleep(POLL_EVERY_S)

    async def _keep_alive(self, node: NodeProcess, on_change: Callable[[], None]) -> None:
        name = node.plan.name
        while True:
            pid = node.pid
            how = await node.ended()
            self._say(f"{name} (pid {pid}) died: {how}; it wrote last:{node.last_words() or ' nothing'}")
            if self._restart_after_s is None:
                self._say(f"{name} stays dead, as --restart-after never wishes")
                return
            self._say(f"{name} starts again in {self._restart_after_s:g} s")
            await asyncio.sleep(self._restart_after_s)
            try:
                await node.start()
                on_change()
            except OSError as error:
                raise CommandFailed(f"{name} can't be started again, so the nodes are ended: {error}") from error
            self._say(f"{name} is started again (pid {node.pid})")


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """One error says what went wrong; the others followed from it or came at the same moment."""
    return errors.exceptions[0]
