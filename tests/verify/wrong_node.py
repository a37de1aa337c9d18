"""A node that lies: HTTP in front of a real one, with one flaw. `verify` must notice each."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from types import TracebackType

import aiohttp
from aiohttp import web

OFTEN = 0.1
HOP = {"content-length", "transfer-encoding", "connection", "host", "keep-alive"}
FLAWS = ("none", "lost-write", "lost-element", "stale-read", "two-winners", "two-holders", "double-count")


class WrongNode:
    """Passes requests on to a real node and, now and then, lies. A context manager with a thread of its own."""

    def __init__(self, target: str, flaw: str) -> None:
        """target: the real node, http://HOST:PORT."""
        assert flaw in FLAWS
        self._target, self._flaw = target, flaw
        self._dice = random.Random(5)
        self._old: dict[str, web.Response] = {}
        self._granted = 0
        self._held: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.lies = 0
        self.url = ""

    def __enter__(self) -> WrongNode:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.ServerRunner(web.Server(self._serve))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        lie = self._lie(request, body) if self._dice.random() < OFTEN else None
        if lie is not None:
            self.lies += 1
            return lie
        answer = await self._pass_on(request, body)
        if self._flaw == "double-count" and self._is_count(request) and answer.status == 200:
            answer = await self._count_again(request, body, answer)
        return answer

    async def _pass_on(self, request: web.BaseRequest, body: bytes) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        url = self._target + request.raw_path
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            said = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
            passed = web.Response(status=answer.status, headers=said, body=await answer.read())
        if request.method == "GET" and answer.status == 200 and "/v1/kv/" in request.path:
            self._old.setdefault(request.path, passed)
        if request.path.startswith("/v1/locks/"):
            self._note_lock(request, passed)
        return passed

    def _lie(self, request: web.BaseRequest, body: bytes) -> web.Response | None:
        is_kv = request.path.startswith("/v1/kv/")
        match self._flaw:
            case "lost-write" if is_kv and request.method == "PUT" and "If-Match" not in request.headers:
                return self._written(request)
            case "lost-element" if is_kv and request.method == "PUT" and "/set/" in request.path:
                return self._written(request)
            case "stale-read" if is_kv and request.method == "GET" and request.path in self._old:
                old = self._old[request.path]
                return web.Response(status=old.status, headers=old.headers, body=old.body)
            case "two-winners" if request.path.startswith("/v1/votes/") and request.method == "POST":
                candidate = json.loads(body)["candidate"]
                name = request.path.removeprefix("/v1/votes/")
                return web.json_response({"name": name, "winner": candidate, "candidate": candidate, "value": None})
            case "two-holders" if request.path in self._held and request.method == "POST":
                return self._grant(request, body)
        return None

    def _written(self, request: web.BaseRequest) -> web.Response:
        """It is not."""
        version = f"{self._dice.getrandbits(62):016x}"
        told = {"key": request.path.removeprefix("/v1/kv/"), "version": version, "consistency": "strong"}
        return web.json_response({**told, "acks": 2, "replicas": 3})

    def _note_lock(self, request: web.BaseRequest, answer: web.Response) -> None:
        if answer.status == 201:
            self._held.add(request.path)
            self._granted = max(self._granted, json.loads(answer.body or b"{}")["fence"])  # type: ignore[arg-type]
        elif request.method == "DELETE":
            self._held.discard(request.path)

    def _grant(self, request: web.BaseRequest, body: bytes) -> web.Response:
        """Somebody else holds it."""
        self._granted += 1
        wish = json.loads(body)
        told = {"name": request.path.removeprefix("/v1/locks/"), "owner": wish["owner"], "ttl": wish["ttl"]}
        return web.json_response({**told, "token": "0" * 32, "fence": self._granted}, status=201)

    def _is_count(self, request: web.BaseRequest) -> bool:
        return request.method == "PUT" and "/counter-" in request.path

    async def _count_again(self, request: web.BaseRequest, body: bytes, answer: web.Response) -> web.Response:
        """A write that is done twice, by somebody who tries again what was done already."""
        if self._dice.random() < OFTEN:
            self.lies += 1
            more = str(int(body) + 1).encode()
            await self._session.put(self._target + request.path, data=more)
        return answer
