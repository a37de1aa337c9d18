"""A node that lies: HTTP in front of a real one, with one flaw. `verify` must notice each."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable
from types import TracebackType

import aiohttp
from aiohttp import web

OFTEN = 0.3
"""How often it lies where it could; the first time it surely does, or a slow machine might see an honest run."""
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
        if (lie := self._lie(request)) is not None and self._is_time_to_lie():
            return lie(request, body)
        answer = await self._pass_on(request, body)
        counted = self._flaw == "double-count" and self._is_count(request) and answer.status == 200
        if counted and self._is_time_to_lie():
            await self._count_again(request, body)
        return answer

    def _is_time_to_lie(self) -> bool:
        is_time = not self.lies or self._dice.random() < OFTEN
        self.lies += is_time
        return is_time

    async def _pass_on(self, request: web.BaseRequest, body: bytes) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        url = self._target + request.raw_path
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            said = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
            passed = web.Response(status=answer.status, headers=said, body=await answer.read())
        if request.method == "GET" and answer.status == 200 and "/v1/kv/" in request.path:
            self._old.setdefault(request.path_qs, passed)
        if request.path.startswith("/v1/locks/"):
            self._note_lock(request, passed)
        return passed

    def _lie(self, request: web.BaseRequest) -> Callable[[web.BaseRequest, bytes], web.Response] | None:
        """What it can say here that is not true; None where it has no choice but to be honest."""
        is_kv = request.path.startswith("/v1/kv/")
        match self._flaw:
            case "lost-write" if is_kv and request.method == "PUT" and "If-Match" not in request.headers:
                return self._written
            case "lost-element" if is_kv and request.method == "PUT" and "/set/" in request.path:
                return self._written
            case "stale-read" if is_kv and request.method == "GET" and request.path_qs in self._old:
                return self._as_it_was
            case "two-winners" if request.path.startswith("/v1/votes/") and request.method == "POST":
                return self._won
            case "two-holders" if request.path in self._held and request.method == "POST":
                return self._grant
        return None

    def _as_it_was(self, request: web.BaseRequest, body: bytes) -> web.Response:
        """What somebody read there first, at that level."""
        old = self._old[request.path_qs]
        return web.Response(status=old.status, headers=old.headers, body=old.body)

    def _won(self, request: web.BaseRequest, body: bytes) -> web.Response:
        """Whoever asks."""
        candidate = json.loads(body)["candidate"]
        name = request.path.removeprefix("/v1/votes/")
        return web.json_response({"name": name, "winner": candidate, "candidate": candidate, "value": None})

    def _written(self, request: web.BaseRequest, body: bytes) -> web.Response:
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

    async def _count_again(self, request: web.BaseRequest, body: bytes) -> None:
        """A write that is done twice, by somebody who tries again what was done already."""
        more = str(int(body) + 1).encode()
        await self._session.put(self._target + request.path, data=more)
