"""PunctualBackend: refuses the strong requests that can't make their deadline, before anything is done for them.

A strong write that is given up halfway has cost three nodes their work, and its client is told that it may be applied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.levels import Level
from cluster.pressure.admission import Admission
from cluster.requests import (
    FencedReadOutcome,
    ListOutcome,
    ListRequest,
    Overloaded,
    ReadOutcome,
    ReadRequest,
    WriteOutcome,
    WriteRequest,
)
from kvstore.http.backend import Backend


class PunctualBackend:
    """A Backend in front of another."""

    def __init__(self, backend: Backend, reads: Admission, writes: Admission) -> None:
        self._backend, self._reads, self._writes = backend, reads, writes
        self.versions, self.repair = backend.versions, backend.repair
        self.refused = 0

    async def read(self, request: ReadRequest) -> FencedReadOutcome:
        """See Backend."""
        return self._too_late(request, self._reads) or await self._backend.read(request)

    async def write(self, request: WriteRequest) -> WriteOutcome:
        """See Backend."""
        return self._too_late(request, self._writes) or await self._backend.write(request)

    def begin_read(self, request: ReadRequest, on_outcome: Callable[[ReadOutcome], None]) -> None:
        """See Backend."""
        if (refusal := self._too_late(request, self._reads)) is not None:
            on_outcome(refusal)
        else:
            self._backend.begin_read(request, on_outcome)

    def begin_write(self, request: WriteRequest, on_outcome: Callable[[WriteOutcome], None]) -> None:
        """See Backend."""
        if (refusal := self._too_late(request, self._writes)) is not None:
            on_outcome(refusal)
        else:
            self._backend.begin_write(request, on_outcome)

    def begin_writes(
        self, requests: Sequence[WriteRequest], timeout_s: float, on_outcome: Callable[[int, WriteOutcome], None]
    ) -> None:
        """See Backend."""
        if self._writes.can_make(timeout_s):
            self._backend.begin_writes(requests, timeout_s, on_outcome)
            return
        self.refused += len(requests)
        for place in range(len(requests)):
            on_outcome(place, Overloaded(self._writes.expected_s()))

    async def list(self, request: ListRequest) -> ListOutcome:
        """See Backend."""
        return await self._backend.list(request)

    def _too_late(self, request: ReadRequest | WriteRequest, admission: Admission) -> Overloaded | None:
        if request.level is not Level.STRONG or admission.can_make(request.timeout_s):
            return None
        self.refused += 1
        return Overloaded(admission.expected_s())
