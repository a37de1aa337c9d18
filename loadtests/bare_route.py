"""The yardstick: one bare aiohttp handler that answers every request at once and keeps nothing.

What a request costs before any key-value store has done anything: `python -m loadtests.bare_route PORT`.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def answer(request: web.BaseRequest) -> web.Response:
    """Reads the body, as a store must, and answers as many bytes as a value has."""
    await request.read()
    return web.Response(body=b"x" * 255)


async def serve(port: int) -> None:
    """Serves until killed."""
    await asyncio.get_running_loop().create_server(web.Server(answer), "127.0.0.1", port)
    await asyncio.Event().wait()


def main() -> None:
    """Runs on uvloop, as the nodes do."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
