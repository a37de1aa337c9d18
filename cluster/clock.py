"""Clock: the one place that reads time. Injected, so that a simulator can own it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Protocol

import structlog

TEST_CLOCK = "KVSTORE_TEST_CLOCK"
"""The environment variable that names the file of a BentClock."""
LOOK_AGAIN_S = 0.02
"""How often a BentClock reads its file."""
_OFFSET = re.compile(r"[+-]?[0-9]{1,15}", re.ASCII)

log = structlog.get_logger()


class Clock(Protocol):
    """Wall time may jump; monotonic time never goes back and says nothing about the date."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment of this process."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()


class BentClock:
    """A clock whose wall time is off by what a file says: for tests on real processes, and for nothing else.

    The file holds milliseconds, with a sign if need be, and is read again while the node runs. A missing, empty or
    unreadable file is no offset; one with anything else in it leaves the offset as it was. Write it by renaming a new
    one over it, or a moment without an offset may be seen. The monotonic clock is left alone, as it is by whatever
    sets a real machine's wall clock.
    """

    def __init__(self, file: Path, straight: Clock | None = None) -> None:
        """straight: the clock to bend; the machine's unless given."""
        self._file, self._straight = file, straight or SystemClock()
        self._looked_s = float("-inf")
        self._offset_ms = 0
        self._garbled = ""
        log.warning("the wall clock is bent for a test; never run a real cluster like this", file=str(file))

    def wall_ms(self) -> int:
        """Unix time in milliseconds, plus what the file says."""
        now_s = self._straight.monotonic_s()
        if now_s - self._looked_s >= LOOK_AGAIN_S:
            self._looked_s = now_s
            self._look()
        return self._straight.wall_ms() + self._offset_ms

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment."""
        return self._straight.monotonic_s()

    def _look(self) -> None:
        try:
            text = self._file.read_text(errors="replace").strip()
        except OSError:
            text = ""
        if text and not _OFFSET.fullmatch(text):
            if text != self._garbled:
                log.error("the file of the bent clock holds no milliseconds; the offset stays", text=text[:40])
            self._garbled = text
            return
        self._garbled = ""
        offset_ms = int(text or "0")
        if offset_ms != self._offset_ms:
            log.warning("the wall clock is bent anew", offset_ms=offset_ms, before_ms=self._offset_ms)
            self._offset_ms = offset_ms
