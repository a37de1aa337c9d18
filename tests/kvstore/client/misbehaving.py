"""A node that does what a test tells it to: answers, keeps silent, hangs up before or after it has read the request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest


@dataclass(frozen=True)
class Says:
    """An answer. A dictionary is sent as JSON."""

    status: int = 200
    body: bytes | dict[str, Any] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class HangsUpUnread:
    """Ends the connection when the request's head has come, and reads nothing of its body."""


class HangsUp:
    """Reads the whole request and ends the connection."""


class KeepsSilent:
    """Reads the whole request and never answers."""


def name_of(value: object) -> str:
    """What a test with this deed, or this kind of error, is called."""
    if isinstance(value, Says):
        code = f"-{value.body['code']}" if isinstance(value.body, dict) and "code" in value.body else ""
        return f"{value.status}{code}"
    return value.__name__ if isinstance(value, type) else type(value).__name__


Deed = Says | HangsUpUnread | HangsUp | KeepsSilent
WRITTEN = Says(200, {"key": "k", "version": "1", "consistency": "strong", "acks": 2, "replicas": 3})
VALUE = Says(200, b"v", {"ETag": '"1"', "Content-Type": "text/plain"})
GRANTED = Says(201, {"name": "l", "owner": "me", "token": "secret", "fence": 7, "ttl": "10s"})


def problem(
    status: int, code: str, outcome: str = "not-applied", headers: Mapping[str, str] | None = None, **more: Any
) -> Says:
    """A problem document."""
    body = {"code": code, "detail": f"{code} it is", "outcome": outcome, "status": status, **more}
    return Says(status, body, headers or {})


UNAVAILABLE = problem(503, "quorum-unavailable", needed=2, got=1)
UNKNOWN = problem(504, "outcome-unknown", "unknown", needed=2, got=1, version="9")


@dataclass
class Heard:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    at: float

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Node:
    """Does one deed after another, the last of them for ever."""

    def __init__(self, *deeds: Deed | Callable[[Heard], Deed]) -> None:
        self._deeds = list(deeds)
        self.heard: list[Heard] = []
        self.url = ""

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        """One request."""
        now = asyncio.get_running_loop().time()
        deed = self._deeds.pop(0) if len(self._deeds) > 1 else self._deeds[0]
        body = b"" if isinstance(deed, HangsUpUnread) else await request.read()
        heard = Heard(request.method, request.rel_url.raw_path, dict(request.rel_url.query), request.headers, body, now)
        self.heard.append(heard)
        if callable(deed):
            deed = deed(heard)
        match deed:
            case Says(status, bytes() as content, headers):
                return web.Response(status=status, body=content, headers=headers)
            case Says(status, content, headers):
                return web.json_response(content, status=status, headers=headers)
            case KeepsSilent():
                await asyncio.Event().wait()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


@asynccontextmanager
async def nodes(*given: Node) -> AsyncIterator[list[str]]:
    """Serves them; their addresses."""
    runners: list[web.ServerRunner] = []
    try:
        for node in given:
            runner = web.ServerRunner(web.Server(node.handle, handler_cancellation=True), shutdown_timeout=0.1)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            node.url = f"http://{host}:{port}"
        yield [node.url for node in given]
    finally:
        for runner in runners:
            await runner.cleanup()
