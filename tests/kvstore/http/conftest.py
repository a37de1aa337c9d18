"""A real HTTP server on a free port, in front of an honest store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from yarl import URL

from kvstore.config import Address, MemberAddress, NodeConfig
from kvstore.http.server import HttpServer
from kvstore.metrics import Metrics
from tests.kvstore.http.honest_backend import NOW_MS, HonestBackend, ThreeNodes
from tests.kvstore.http.honest_locks import HonestLocks

CONFIG: dict[str, Any] = {
    "name": "n1",
    "data": Path("unused"),
    "http": Address("127.0.0.1", 0),
    "peer": Address("127.0.0.1", 7101),
    "members": (MemberAddress("n1", "127.0.0.1", 7101), MemberAddress("n2", "db2.example", 7102)),
}


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A module that says BOTH_LOOPS is run on both kinds; their transports pause and close in different ways."""
    both = getattr(getattr(item, "module", None), "BOTH_LOOPS", False)
    return {"asyncio": asyncio.new_event_loop} | ({"uvloop": uvloop.new_event_loop} if both else {})


@dataclass
class Reply:
    status: int
    headers: Any
    body: bytes
    json: Any


@dataclass
class Node:
    """A server under test, what stands behind it, and a client."""

    server: HttpServer
    backend: HonestBackend
    locks: HonestLocks
    view: ThreeNodes
    metrics: Metrics
    session: aiohttp.ClientSession

    @property
    def port(self) -> int:
        return self.server.address.port

    async def ask(self, method: str, path: str, **options: Any) -> Reply:
        """One request; the path goes out as it is written."""
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        async with self.session.request(method, url, **options) as answer:
            body = await answer.read()
            decoded = await answer.json() if "json" in answer.content_type and body else None
            return Reply(answer.status, answer.headers, body, decoded)


Start = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts nodes with other settings than the usual; they are stopped with the test."""
    async with AsyncExitStack() as stack:

        async def start_node(body_timeout_s: float = 30.0, **settings: Any) -> Node:
            backend, locks, view, metrics = HonestBackend(), HonestLocks(), ThreeNodes(), Metrics()
            config = NodeConfig(**(CONFIG | settings))
            server = HttpServer(config, backend, locks, view, metrics, lambda: NOW_MS, body_timeout_s)
            await server.start()
            stack.push_async_callback(server.stop, 1.0)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Node(server, backend, locks, view, metrics, session)

        yield start_node


@pytest.fixture
async def node(start: Start) -> Node:
    return await start()
