"""A register in memory: it keeps the contract of cluster/locks/register.py, and fails as real ones do when told to."""

from __future__ import annotations

from cluster.clock import Clock
from cluster.locks.register import Changed, Function, MayBeChanged, NotChanged


class FakeClock:
    """A clock that stands until it is moved."""

    def __init__(self, wall_ms: int = 1_790_000_000_000) -> None:
        self.start_ms, self.now_s = wall_ms, 0.0

    def wall_ms(self) -> int:
        return self.start_ms + int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


class MemoryRegister:
    """One cell. Each step is atomic, for nothing in it is awaited."""

    def __init__(self, clock: Clock, value: bytes | None = None) -> None:
        self._clock = clock
        self.value = value
        self.changes = 0
        self.next_failure: NotChanged | MayBeChanged | None = None
        """Raised once, instead of what would have happened, or after it: see is_applied."""
        self.is_applied = False
        """Whether the change that fails with MayBeChanged is made nevertheless."""

    async def read(self, timeout_s: float) -> bytes | None:
        self._fail()
        return self.value

    async def change(self, function: Function, timeout_s: float) -> Changed:
        if not self.is_applied:
            self._fail()
        new = function(self.value, self._clock.wall_ms())
        if new is not None:
            self.value, self.changes = new, self.changes + 1
        self._fail()
        return Changed(self.value, new is not None)

    def _fail(self) -> None:
        failure, self.next_failure = self.next_failure, None
        if failure is not None:
            raise failure
