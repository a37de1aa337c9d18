"""POST /v1/repair: compare a partition's replicas now, and bring them together."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp.web_request import BaseRequest

from kvstore.http.incoming.media import require_acceptable
from kvstore.http.outgoing.answer import JSON, Answer
from kvstore.http.outgoing.problems import Problem
from kvstore.http.routes.service import Service


class Convergence:
    """What people may do by hand of what nodes do by themselves."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def repair(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """POST /v1/repair."""
        view = self._service.view
        require_acceptable(request.headers, "application/json")
        choice = self._service.parameters.repair.parse(query, view.n)
        if choice.partition >= view.partitions:
            detail = f"Parameter 'partition': there is none of that number; they go from 0 to {view.partitions - 1}."
            raise Problem("bad-parameter", detail, parameter="partition", limit=view.partitions - 1)
        report = await self._service.backend.repair(choice.partition, choice.timeout_s)
        if isinstance(report, str):
            detail = f"The partition's replicas were not compared: {report}. Nothing is lost by that; try again later."
            raise Problem("quorum-unavailable", detail, outcome="none")
        page: dict[str, Any] = msgspec.to_builtins(report)
        return Answer(200, f"{JSON}Cache-Control: no-store\r\n", msgspec.json.encode(page))
