"""The trace: one hash over all that happened, which two runs of a seed must share, and the last things for people."""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from struct import Struct

_MOMENT = Struct("<dBB").pack
LINES_KEPT = 400


class Trace:
    """What happened, in order."""

    def __init__(self, *, tells: bool = False) -> None:
        """tells: prints each line as it comes."""
        self._hash = blake2b(digest_size=16)
        self._tells = tells
        self.events = 0
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)

    def frame(self, now_s: float, source: int, target: int, frame: bytes) -> None:
        """A frame was delivered."""
        self.events += 1
        self._hash.update(_MOMENT(now_s, source, target))
        self._hash.update(frame)

    def note(self, now_s: float, what: str) -> None:
        """Something else happened: a crash, an answer to a client."""
        self.events += 1
        self._hash.update(f"{now_s!r} {what}".encode())
        line = f"{now_s:9.4f}  {what}"
        self.lines.append(line)
        if self._tells:
            print(line)

    @property
    def digest(self) -> str:
        """The hash so far."""
        return self._hash.hexdigest()
