"""A worker process that increments one counter inside a lock: reads it, and writes one more under its fence.

    python -m tests.cluster.lock_worker LOG LOCK KEY TTL READS ADDRESS...

READS is `plainly`, or `under-the-fence`, so that no earlier holder writes from the read on.

It goes on until its stdin ends. Each line of LOG is one thing that it knows to have happened, as JSON; the line is
written before the next request is sent, so that a worker that is killed has told all but its last step. A worker that
finds a file LOG.pause stops itself (SIGSTOP) between reading and writing, until somebody continues it.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.cluster.client import Answer, Client, NoAnswer

WAIT = "20s"


class Worker:
    """One process."""

    def __init__(self, log: Path, lock: str, key: str, ttl: str, reads: str, addresses: list[str]) -> None:
        self._log = log.open("a", buffering=1)
        self._pause = log.with_suffix(".pause")
        self._lock, self._key, self._ttl, self._reads_fenced = lock, key, ttl, reads == "under-the-fence"
        self._clients = [Client(address) for address in addresses]
        self._turn = os.getpid() % len(addresses)
        self._name = f"w{os.getpid()}"

    def run(self) -> None:
        """Until stdin ends."""
        while not select.select([sys.stdin], [], [], 0)[0]:
            self._section()
        self.tell("done")

    def tell(self, what: str, **more: Any) -> None:
        """One line of the log."""
        self._log.write(json.dumps({"what": what, "at": time.monotonic(), "pid": os.getpid(), **more}) + "\n")

    def _call(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Through one node; through the next one the next time, if that one did not answer."""
        try:
            return self._clients[self._turn].call(method, path, body, headers)
        except NoAnswer:
            self._turn = (self._turn + 1) % len(self._clients)
            raise

    def _section(self) -> None:
        path = "/v1/locks/" + quote(self._lock, safe="")
        wish = json.dumps({"owner": self._name, "ttl": self._ttl, "wait": WAIT}).encode()
        try:
            answer = self._call("POST", path, wish, {"Content-Type": "application/json"})
        except NoAnswer:
            self.tell("no-lock")
            return
        if answer.status != 201:
            self.tell("no-lock", status=answer.status)
            self._turn = (self._turn + 1) % len(self._clients)
            time.sleep(random.random() / 20)  # so that eight workers don't knock at a dead majority in a busy loop
            return
        grant = answer.json()
        self.tell("granted", fence=grant["fence"])
        try:
            self._increment(grant["fence"])
        finally:
            self._release(path, grant["token"])

    def _increment(self, fence: int) -> None:
        fenced = {"KV-Fence": f"{quote(self._lock, safe='')}={fence}"}
        try:
            found = self._call("GET", f"/v1/kv/{self._key}", headers=fenced if self._reads_fenced else None)
        except NoAnswer:
            return
        if found.status not in (200, 404):
            return
        value = int(found.body) + 1 if found.status == 200 else 1
        self.tell("writes", fence=fence, value=value)
        if self._pause.exists():
            self._pause.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            written = self._call("PUT", f"/v1/kv/{self._key}", str(value).encode(), fenced)
        except NoAnswer as silence:
            self.tell("unknown" if silence.sent else "refused", fence=fence, value=value)
            return
        if written.status == 200:
            self.tell("written", fence=fence, value=value)
        else:
            problem = written.json()
            what = "unknown" if problem["outcome"] == "unknown" else "refused"
            self.tell(what, fence=fence, value=value, code=problem["code"])

    def _release(self, path: str, token: str) -> None:
        try:
            self._call("DELETE", path, headers={"KV-Lock-Token": token})
        except NoAnswer:
            self.tell("release-lost")


if __name__ == "__main__":
    _, log, lock, key, ttl, reads, *addresses = sys.argv
    Worker(Path(log), lock, key, ttl, reads, addresses).run()
