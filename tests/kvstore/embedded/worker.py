"""A process that shares a file with others: `python -m tests.kvstore.embedded.worker TASK FILE LOG`.

    count   increments one counter inside a lock, reading it and then writing one more under the fence, until its stdin
            ends. If there is a file LOG.pause it stops itself (SIGSTOP) between reading and writing.
    fence   the same, reading under the fence, too
    change  increments a bare register, INCREMENTS times
    vote    proposes itself in one vote after another

Each line of LOG is one thing that it knows to have happened, as JSON, told before the next thing is begun: so one that
is killed has told all but its last step.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import kvstore
from cluster.clock import SystemClock
from kvstore.embedded.attempts import Attempts
from kvstore.embedded.file_register import FileRegister
from storage.shared_file.file import SharedFile

LOCK, COUNTER = "the lock", "counter"
TTL_S = 1.0
VOTES = 25
INCREMENTS = 40
REGISTER = b"\0count"


class Worker:
    """One process."""

    def __init__(self, file: Path, log: Path) -> None:
        self._file = file
        self._log = log.open("a", buffering=1)
        self._pause = log.with_suffix(".pause")
        self._db = kvstore.open(file, timeout=10.0)
        self._sections = 0

    def tell(self, what: str, **more: Any) -> None:
        """One line of the log."""
        self._log.write(json.dumps({"what": what, "at": time.monotonic(), "pid": os.getpid(), **more}) + "\n")

    def count(self, *, reads_fenced: bool = False) -> None:
        """Until stdin ends."""
        with self._db:
            self._db.get(COUNTER)
            self.tell("ready")
            while not select.select([sys.stdin], [], [], 0)[0]:
                self._section(reads_fenced)
        self.tell("done")

    def _section(self, reads_fenced: bool) -> None:
        self._sections += 1
        try:
            with self._db.lock(LOCK, ttl=TTL_S, wait=60) as lock:
                fence = lock.fenced
                self.tell("granted", fence=fence.fence)
                found = self._db.get(COUNTER, fence=fence if reads_fenced else None)
                number = int(found.text) + 1 if found else 1
                if self._pause.exists():
                    self._pause.unlink()
                    os.kill(os.getpid(), signal.SIGSTOP)
                self.tell("writing", fence=fence.fence, number=number)
                # The lock object knows that its lease is over; its bare fence does not, and the file has to refuse it.
                self._db.put(COUNTER, str(number), fence=lock if self._sections % 2 else fence)
                self.tell("wrote", fence=fence.fence, number=number)
        except (kvstore.Fenced, kvstore.LockLost) as refusal:
            self.tell("refused", why=type(refusal).__name__)

    def vote(self) -> None:
        """In all votes."""
        with self._db:
            for number in range(VOTES):
                decision = self._db.vote(f"vote {number}", str(os.getpid()), number)
                self.tell("voted", number=number, winner=decision.winner, is_new=decision.is_new)

    def change(self) -> None:
        """The register alone: no lock, no line, no fence."""
        asyncio.run(self._change())
        self.tell("done")

    async def _change(self) -> None:
        attempts = Attempts(SharedFile(self._file))
        register = FileRegister(REGISTER, attempts, SystemClock())
        for _ in range(INCREMENTS):
            await register.change(lambda value, _: b"%d" % (int(value or b"0") + 1), timeout_s=30)
        await attempts.close()


if __name__ == "__main__":
    worker = Worker(Path(sys.argv[2]), Path(sys.argv[3]))
    tasks = {
        "count": worker.count,
        "fence": partial(worker.count, reads_fenced=True),
        "change": worker.change,
        "vote": worker.vote,
    }
    tasks[sys.argv[1]]()
