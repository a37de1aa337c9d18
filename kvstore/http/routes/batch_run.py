"""A batch under way: which of its operations begins when, and what becomes of each.

Operations on one key take effect in the order they stand in; different keys go side by side, a bounded number at
a time. One operation that is refused leaves the others alone.

They are begun as single requests are, by callback: a task and a future for each would cost more than the work itself.
What begins in one turn of the loop leaves this node together (cluster/coordination/writing/volley.py, glances.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import structlog
from msgspec.structs import replace

from cluster.levels import Level
from cluster.requests import FencedReadOutcome, Found, ReadRequest, WriteOutcome, WriteRequest, Written
from kvstore.http.incoming.parameters import BatchChoice
from kvstore.http.outgoing.outcomes import read_problem, write_problem
from kvstore.http.outgoing.problems import Extra, Outcome, Problem, document, overloaded
from kvstore.http.routes.listing import expiry_members, value_members
from kvstore.http.routes.operations import Sent, name_of, parse_operation
from kvstore.http.routes.service import Service
from kvstore.logs import escape_key
from storage.ballot import version_text

ANSWER_BYTES_MAX = 16 << 20
"""Values that one batch reads, together: a thousand values of 1 MiB would be a gigabyte of answer."""
SIDE_BY_SIDE = 128
"""Operations of one batch under way at once, and begun in one turn of the loop: enough to fill the shared messages and
commits, too few to starve other requests."""
MORE_AT = 0.5
"""More are begun once no more than this share of those is under way. Were each to make room for the next as it ends,
they would soon go out a few at a time, each few with messages and commits of their own."""

Result = dict[str, Extra]
Request = ReadRequest | WriteRequest
Steps = deque[tuple[int, Request]]
"""What is still to be done at one key: each operation's place in the batch, and what it asks."""
Begun = tuple[int, Request, Steps]
"""An operation that is begun: its place in the batch, what it asks, and what is to be done at its key after it."""
OnOutcome = Callable[[Any], None]

log = structlog.get_logger()


class BatchRun:
    """The operations of one batch."""

    def __init__(self, service: Service, choice: BatchChoice, request_id: str) -> None:
        self._service, self._choice, self._request_id = service, choice, request_id
        self._backend = service.backend
        loop = asyncio.get_running_loop()
        self._call_soon, self._clock = loop.call_soon, loop.time
        self._began_s = self._clock()
        self._bytes_left = ANSWER_BYTES_MAX
        self._results: list[Result] = []
        self._steps: Iterator[Steps] = iter(())
        """Of the keys of which nothing was begun yet."""
        self._next: deque[Steps] = deque()
        """Of keys that were begun, of which nothing is under way now."""
        self._under_way = 0
        self._left = 0
        """Operations without a result."""
        self._is_beginning = False
        self._all_ended: asyncio.Future[None] = loop.create_future()
        """Done, too, once the one who waits for it is cancelled."""
        self._fenced = asyncio.TaskGroup()

    async def results(self, operations: Sequence[Sent]) -> list[Result]:
        """Carries all operations out; their results, in order.

        Cancelled, it begins no more of them; what was begun goes on, and nobody hears of its end.
        """
        self._results = [{} for _ in operations]
        steps = self._by_key(operations)
        self._left = sum(map(len, steps.values()))
        if self._left:
            self._steps = iter(steps.values())
            async with self._fenced:
                try:
                    self._begin_some()
                    await self._all_ended
                finally:
                    self._all_ended.cancel()  # should the first of them have failed
        return self._results

    def _by_key(self, operations: Sequence[Sent]) -> dict[bytes, Steps]:
        steps: dict[bytes, Steps] = {}
        for index, operation in enumerate(operations):
            try:
                request = parse_operation(operation, self._choice, self._service.value_bytes_max)
            except Problem as problem:
                self._results[index] = self._refused(operation, problem)
            else:
                steps.setdefault(request.key, deque()).append((index, request))
        return steps

    def _refused(self, operation: Sent, problem: Problem) -> Result:
        """The result of an operation that means nothing. Its key is told where it has a text for one."""
        named = name_of(operation)
        key: Result = {"key": named.key} if isinstance(named.key, str) else {}
        return key | document(problem, "none" if named.op == "get" else "not-applied", self._request_id)

    # -- one after another, and side by side -------------------------------------------------------------------------

    def _begin_some(self) -> None:
        """Begins as many as there is room for.

        What ends before it is begun to the end makes room at once: of those, too, no more than SIDE_BY_SIDE a turn.
        """
        if self._is_beginning:
            return  # it is the loop below that made room
        self._is_beginning = True
        begun = 0
        while (room := SIDE_BY_SIDE - self._under_way) > 0 and not self._all_ended.done():
            if begun >= SIDE_BY_SIDE:
                self._call_soon(self._begin_some)
                break
            some = self._take(min(room, SIDE_BY_SIDE - begun))
            if not some:
                break
            begun += len(some)
            self._under_way += len(some)
            self._begin(some)
        self._is_beginning = False

    def _take(self, count: int) -> list[Begun]:
        """The next operation of so many keys, or of fewer where there are no more that could begin."""
        some: list[Begun] = []
        while len(some) < count:
            steps = self._next.popleft() if self._next else next(self._steps, None)
            if steps is None:
                break
            index, request = steps.popleft()
            some.append((index, request, steps))
        return some

    def _begin(self, some: list[Begun]) -> None:
        """Begins them: strong writes together, all else each by itself."""
        left_s = self._choice.timeout_s - (self._clock() - self._began_s)
        together: list[Begun] = []
        for begun in some:
            request = begun[1]
            if left_s <= 0:
                late = overloaded("The batch's time was up before this operation was begun; send it again.")
                self._ended(begun, late)
            elif type(request) is WriteRequest and request.level is Level.STRONG and request.fence is None:
                together.append(begun)
            else:
                self._begin_alone(begun, left_s)
        if together:
            self._begin_together(together, left_s)

    def _begin_together(self, some: list[Begun], left_s: float) -> None:
        def on_outcome(place: int, outcome: Any) -> None:
            self._ended(some[place], outcome)

        try:
            self._backend.begin_writes([request for _, request, _ in some], left_s, on_outcome)  # type: ignore[misc]
        except Exception as fault:
            for begun in some:
                self._ended(begun, fault)

    def _begin_alone(self, begun: Begun, left_s: float) -> None:
        _, request, _ = begun
        on_outcome = partial(self._ended, begun)
        if left_s < request.timeout_s:
            request = replace(request, timeout_s=left_s)
        try:
            if request.fence is not None:
                self._fenced.create_task(self._carry_out(request, on_outcome))
            elif isinstance(request, ReadRequest):
                self._backend.begin_read(request, on_outcome)
            else:
                self._backend.begin_write(request, on_outcome)
        except Exception as fault:
            on_outcome(fault)

    async def _carry_out(self, request: Request, on_outcome: OnOutcome) -> None:
        """An operation with a fence, whose lock is asked first."""
        outcome: FencedReadOutcome | WriteOutcome | Exception
        try:
            if isinstance(request, ReadRequest):
                outcome = await self._backend.read(request)
            else:
                outcome = await self._backend.write(request)
        except Exception as fault:
            outcome = fault
        on_outcome(outcome)

    def _ended(self, begun: Begun, outcome: Any) -> None:
        """An operation is over. outcome: what the backend said, or the exception that came instead."""
        index, request, steps = begun
        if self._results[index] or self._all_ended.done():
            if isinstance(outcome, Exception):
                self._log_fault(request, outcome)  # it comes behind the outcome, or nobody waits for one any more
            return
        self._results[index] = self._result(request, outcome)
        self._under_way -= 1
        self._left -= 1
        if not self._left:
            self._all_ended.set_result(None)
            return
        if steps:
            self._next.append(steps)
        if self._under_way <= SIDE_BY_SIDE * MORE_AT:
            self._begin_some()

    # -- what became of one ------------------------------------------------------------------------------------------

    def _result(self, request: Request, outcome: Any) -> Result:
        is_read = isinstance(request, ReadRequest)
        try:
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(request, ReadRequest):
                return self._found(request, outcome)
            return self._written(request, outcome)
        except Problem as problem:
            untouched: Outcome = "none" if is_read else "not-applied"
            return {"key": request.key.decode(), **document(problem, untouched, self._request_id)}
        except Exception as error:
            self._log_fault(request, error)
            fault = Problem("internal", "This node failed; its log says why, under the request id.")
            unknown: Outcome = "none" if is_read else "unknown"
            return {"key": request.key.decode(), **document(fault, unknown, self._request_id)}

    def _log_fault(self, request: Request, fault: Exception) -> None:
        log.error("batch operation failed", request_id=self._request_id, key=escape_key(request.key), exc_info=fault)

    def _found(self, request: ReadRequest, outcome: FencedReadOutcome) -> Result:
        if not isinstance(outcome, Found):
            raise read_problem(self._service.view, request.level, request.needed, outcome, request.fence)
        record = outcome.record
        if record is None or record.value is None:
            raise Problem("not-found", "The key has no value.", outcome="none")
        self._bytes_left -= len(record.value)
        if self._bytes_left < 0:
            detail = f"The batch's values are larger than {ANSWER_BYTES_MAX:,} bytes together; get this one alone."
            raise Problem("too-large", detail, outcome="none", limit=ANSWER_BYTES_MAX)
        told: Result = {"status": 200, "key": request.key.decode(), "version": version_text(record.origin)}
        told |= {"acks": outcome.acks, "content_type": record.content_type}
        return told | expiry_members(record, self._service.wall_ms()) | value_members(record.value)

    def _written(self, request: WriteRequest, outcome: WriteOutcome) -> Result:
        if not isinstance(outcome, Written):
            raise write_problem(self._service.view, request.level, request.needed, request.condition, outcome)
        version = version_text(outcome.version)
        told: Result = {"status": 200, "key": request.key.decode(), "version": version, "acks": outcome.acks}
        return told | {"hinted": 1} if outcome.hinted else told
