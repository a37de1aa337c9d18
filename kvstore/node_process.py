"""A node as a process of this machine: started, signalled, waited for, started again on its folder.

Nodes never outlive who started them: on Linux the kernel kills them when their parent dies. They stand in process
groups of their own, so that Ctrl-C at the terminal reaches them through their parent, in order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvstore.readiness import unready_because

LOG_BYTES_MAX = 16 << 20
"""A longer log is put aside, as node.log.1, when its node starts."""
LAST_WORDS_BYTES = 4096
LAST_WORDS_LINES = 5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
