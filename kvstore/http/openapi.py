"""GET /openapi.json: what this node serves, as OpenAPI 3.1."""
from __future__ import annotations
from aiohttp.web_request import BaseRequest
from kvstore.http.answer import JSON, Answer
from kvstore.http.service import Service
class OpenApi:
    """The description."""
    def __init__(self, service: Service) -> None:
        self._service = service
    async def get(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """GET and HEAD."""
        return Answer(200, JSON, b"{}")
