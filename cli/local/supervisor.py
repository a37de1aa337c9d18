"""Keeps a few node processes running: starts them, waits until they are ready, starts the dead again, ends them all.

Nodes never outlive their supervisor. They stand in process groups of their own, so that Ctrl-C at the terminal
reaches them through us, in order; and on Linux the kernel kills them when we are killed ourselves.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.errors import CommandFailed
from kvstore.readiness import unready_because

READY_TIMEOUT_S = 120.0
"""An empty node is ready in a second or two; one with millions of records to check may need much longer."""
POLL_EVERY_S = 0.03
"""A node that became ready is noticed at once; a probe of one that has not is a refused connection."""
EXPLAIN_EVERY_S = 10.0
"""A person who waits is told for whom."""
GRACE_S = 6.0
"""From SIGTERM to SIGKILL: twice the time that our nodes are given to finish what they have begun."""
LOG_BYTES_MAX = 16 << 20
"""A longer log is put aside, as node.log.1, when its node starts."""
LAST_WORDS_BYTES = 4096
LAST_WORDS_LINES = 5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class NodePlan:
    """How to start one node."""

    name: str
    http_host: str
    http_port: int
    folder: Path
    """Where its log goes; made when it is not there."""
    command: Sequence[str]


class NodeProcess:
    """One node's process, one life after another."""

    def __init__(self, plan: NodePlan, environment: Mapping[str, str]) -> None:
        self.plan = plan
        self._environment = environment
        self._log = plan.folder / "node.log"
        self._log_begins_at = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts the process. Raises OSError, also when the folder around its own has gone."""
        self.plan.folder.mkdir(exist_ok=True)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
            self._log.replace(self._log.with_name("node.log.1"))
        with self._log.open("ab") as log:
            self._log_begins_at = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self.plan.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,
                preexec_fn=dying_with(os.getpid()),
            )

    async def ended(self) -> str:
        """Waits for the end and says in words how it ended."""
        assert self._process is not None, "start() comes first"
        code = await self._process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if there is still somebody to get it."""
        if self.pid is not None and self._process is not None:
            self._process.send_signal(number)

    def last_words(self) -> str:
        """The last lines that this life wrote to its log, indented; empty when it wrote none or the log is gone."""
        try:
            with self._log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_begins_at, end - LAST_WORDS_BYTES))
                lines = log.read().decode(errors="replace").splitlines()[-LAST_WORDS_LINES:]
        except OSError:
            return ""
        return "".join(f"\n    {line}" for line in lines)

    async def unready_because(self) -> str | None:
        """None when the node is ready, else why not."""
        return await asyncio.to_thread(unready_because, self.plan.http_host, self.plan.http_port)


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


def dying_with(parent: int) -> Callable[[], None] | None:
    """For preexec_fn: lets the kernel kill the child when its parent dies. None where that is not known, off Linux."""
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - nobody else needs it

    prctl = ctypes.CDLL(None).prctl

    def bind_life() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # it died before we could say so
            os._exit(1)

    return bind_life
