"""Blocks of free ports that no other test run on this machine uses at the same time.

A node must find its ports free again after it was killed, minutes later, so asking the kernel for any free port
and closing it is not enough. Blocks lie below the range that the kernel itself deals out from, and each is held by
a lock on a small file for as long as the process lives that claimed it, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

from kvstore.free_ports import is_free

BLOCK = 200
"""Room for HTTP ports at the start of the block and peer ports a hundred above."""
FIRST, END = 14_000, 32_000  # the kernel deals out from 32768 on


class PortBlock:
    """A block of ports, ours until release()."""

    def __init__(self) -> None:
        self._lock, self.base = _claim()

    def release(self) -> None:
        """Gives the block back."""
        self._lock.close()


def _claim() -> tuple[IO[bytes], int]:
    folder = Path(tempfile.gettempdir()) / f"kvstore-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for base in range(FIRST, END, BLOCK):
        lock = (folder / str(base)).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        if all(is_free("127.0.0.1", port) for first in (base, base + BLOCK // 2) for port in range(first, first + 8)):
            return lock, base
        lock.close()
    raise RuntimeError("no block of ports is free")
