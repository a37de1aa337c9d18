"""/livez, /readyz and /metrics: for what runs the node rather than for those who use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from aiohttp.web_request import BaseRequest

from kvstore import metrics
from kvstore.http.outgoing.answer import JSON, Answer
from kvstore.http.routes.service import Service
from kvstore.metrics import Metrics


class Health:
    """Whether to restart this node, whether to send it requests, and how it has been."""

    def __init__(self, service: Service, metrics: Metrics, stopping: Callable[[], bool]) -> None:
        self._service = service
        self._metrics = metrics
        self._stopping = stopping

    async def live(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """GET /livez: it answers, so it lives."""
        self._refuse_parameters(query)
        return _report("live", ())

    async def ready(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """GET /readyz: 503 with reasons while requests had better go elsewhere."""
        self._refuse_parameters(query)
        draining = ("the node is stopping",) if self._stopping() else ()
        return _report("ready", (*draining, *self._service.view.unready()))

    async def measure(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """GET /metrics."""
        self._refuse_parameters(query)
        headers = f"Content-Type: {metrics.CONTENT_TYPE}\r\nCache-Control: no-store\r\n"
        return Answer(200, headers, self._metrics.exposition())

    def _refuse_parameters(self, query: str) -> None:
        self._service.parameters.none.parse(query, self._service.view.n)


def _report(good: str, reasons: Sequence[str]) -> Answer:
    body = msgspec.json.encode({"status": f"not {good}" if reasons else good, "reasons": reasons})
    return Answer(503 if reasons else 200, f"{JSON}Cache-Control: no-store\r\n", body)
