"""POST /v1/batch: many operations in one request. Not atomic: each has its own result, in order.

Operations on one key take effect in the order they stand in; different keys go side by side, a bounded number at
a time. One operation that is refused leaves the others alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import structlog
from aiohttp.web_request import BaseRequest
from msgspec import Raw
from msgspec.structs import replace

from cluster.requests import Found, ReadRequest, WriteRequest, Written
from kvstore.http.incoming.conditions import refuse_fence
from kvstore.http.incoming.media import refuse_encoding, require_acceptable, require_json
from kvstore.http.incoming.parameters import BatchChoice
from kvstore.http.outgoing.answer import JSON, Answer
from kvstore.http.outgoing.outcomes import read_problem, write_problem
from kvstore.http.outgoing.problems import Extra, Outcome, Problem, document, overloaded
from kvstore.http.outgoing.receipts import HINTED, receipt_of_batch, receipt_of_refusal
from kvstore.http.routes.listing import expiry_members, value_members
from kvstore.http.routes.operations import BODY_BYTES_MAX, name_of, parse_batch, parse_operation
from kvstore.http.routes.service import Service
from kvstore.logs import escape_key
from storage.ballot import version_text

ANSWER_BYTES_MAX = 16 << 20
"""Values that one batch reads, together: a thousand values of 1 MiB would be a gigabyte of answer."""
SIDE_BY_SIDE = 64
"""Operations of one batch under way at once: enough to fill the shared commits, too few to starve other requests."""

Result = dict[str, Extra]
Step = tuple[int, ReadRequest | WriteRequest]
"""An operation's place in the batch, and what it asks."""

log = structlog.get_logger()


class Batch:
    """Many operations in one request."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._parameters = service.parameters.batch

    async def post(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """POST."""
        view = self._service.view
        try:
            refuse_fence(request.headers)
            require_acceptable(request.headers, "application/json")
            require_json(request.headers)
            refuse_encoding(request.headers)
            choice = self._parameters.parse(query, view.n)
            body = await self._service.bodies.read(request, BODY_BYTES_MAX)
            try:
                operations = parse_batch(body)
                results = await _Run(self._service, choice, request_id).results(operations)
            finally:
                self._service.bodies.done(body)
        except Problem as problem:
            level = self._parameters.level_of(query)
            problem.level = level or ""
            problem.receipt = receipt_of_refusal(view, level, None)
            raise
        told = receipt_of_batch(view, choice.level)
        if any("hinted" in result for result in results):
            told += HINTED  # which of them, their own results say
        headers = f"{JSON}Cache-Control: no-store\r\nKV-Receipt: {told}\r\n"
        return Answer(200, headers, msgspec.json.encode({"results": results}), choice.level)


class _Run:
    """One batch under way."""

    def __init__(self, service: Service, choice: BatchChoice, request_id: str) -> None:
        self._service = service
        self._choice = choice
        self._request_id = request_id
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + choice.timeout_s
        self._bytes_left = ANSWER_BYTES_MAX
        self._results: list[Result] = []

    async def results(self, operations: list[Raw]) -> list[Result]:
        """Carries all operations out; their results, in order."""
        self._results = [{} for _ in operations]
        queues = iter(self._by_key(operations).values())
        async with asyncio.TaskGroup() as group:
            for _ in range(min(SIDE_BY_SIDE, len(operations))):
                group.create_task(self._work(queues))
        return self._results

    def _by_key(self, operations: list[Raw]) -> dict[bytes, list[Step]]:
        steps: dict[bytes, list[Step]] = {}
        for index, raw in enumerate(operations):
            try:
                request = parse_operation(raw, self._choice, self._service.value_bytes_max)
            except Problem as problem:
                self._results[index] = self._refused(raw, problem)
            else:
                steps.setdefault(request.key, []).append((index, request))
        return steps

    def _refused(self, raw: Raw, problem: Problem) -> Result:
        """The result of an operation that means nothing. Its key is told where it has a text for one."""
        named = name_of(raw)
        key: Result = {"key": named.key} if isinstance(named.key, str) else {}
        return key | document(problem, "none" if named.op == "get" else "not-applied", self._request_id)

    async def _work(self, queues: Iterator[list[Step]]) -> None:
        for queue in queues:  # shared: each worker takes the next key
            for index, request in queue:
                self._results[index] = await self._carry_out(request)

    async def _carry_out(self, request: ReadRequest | WriteRequest) -> Result:
        untouched: Outcome = "none" if isinstance(request, ReadRequest) else "not-applied"
        try:
            left_s = self._deadline - self._clock()
            if left_s <= 0:
                raise overloaded("The batch's time was up before this operation was begun; send it again.")
            if isinstance(request, ReadRequest):
                return await self._read(replace(request, timeout_s=left_s))
            return await self._write(replace(request, timeout_s=left_s))
        except Problem as problem:
            return {"key": request.key.decode(), **document(problem, untouched, self._request_id)}
        except Exception:
            log.exception("batch operation failed", request_id=self._request_id, key=escape_key(request.key))
            fault = Problem("internal", "This node failed; its log says why, under the request id.")
            unknown: Outcome = "none" if isinstance(request, ReadRequest) else "unknown"
            return {"key": request.key.decode(), **document(fault, unknown, self._request_id)}

    async def _read(self, request: ReadRequest) -> Result:
        outcome = await self._service.backend.read(request)
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

    async def _write(self, request: WriteRequest) -> Result:
        outcome = await self._service.backend.write(request)
        if not isinstance(outcome, Written):
            raise write_problem(self._service.view, request.level, request.needed, request.condition, outcome)
        version = version_text(outcome.version)
        told: Result = {"status": 200, "key": request.key.decode(), "version": version, "acks": outcome.acks}
        return told | {"hinted": 1} if outcome.hinted else told
