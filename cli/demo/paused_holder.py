"""Process A of the demo: takes a lock, waits for the word, and writes under its fence without looking at a clock.

A program of its own, so that the system can really stop it:

    python -m cli.demo.paused_holder ENDPOINTS LOCK KEY TTL_S
"""

from __future__ import annotations

import json
import sys
from typing import Any

import kvstore
from kvstore.client.values import Fence
from kvstore.errors import KvstoreError


def main(endpoints: str, lock_name: str, key: str, ttl_s: str) -> None:
    """Tells on stdout, a line of JSON each, what it holds and what became of its write."""
    with kvstore.connect(endpoints.split(",")) as client:
        lock = client.lock(lock_name, ttl=float(ttl_s), wait=0, owner="process A")
        lock.acquire()
        fence = Fence(lock_name, lock.fence)
        _tell("holds", fence=fence.fence)
        sys.stdin.readline()
        try:
            written = client.put(key, "written by A", fence=fence)
        except KvstoreError as error:
            _tell("wrote", status=error.status, code=error.code, outcome=error.outcome, fence=error.fields.get("fence"))
        else:
            _tell("wrote", status=None, version=written.version)


def _tell(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
