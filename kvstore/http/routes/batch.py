"""POST /v1/batch: many operations in one request. Not atomic: each has its own result, in order.

How they are carried out: batch_run.py.
"""

from __future__ import annotations

import msgspec
from aiohttp.web_request import BaseRequest

from kvstore.http.incoming.conditions import refuse_fence
from kvstore.http.incoming.media import refuse_encoding, require_acceptable, require_json
from kvstore.http.outgoing.answer import JSON, Answer
from kvstore.http.outgoing.problems import Problem
from kvstore.http.outgoing.receipts import HINTED, receipt_of_batch, receipt_of_refusal
from kvstore.http.routes.batch_run import BatchRun
from kvstore.http.routes.operations import BODY_BYTES_MAX, parse_batch
from kvstore.http.routes.service import Service


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
                results = await BatchRun(self._service, choice, request_id).results(operations)
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
