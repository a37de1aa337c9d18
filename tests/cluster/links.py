"""A cluster whose peer links a test can cut: a small proxy stands in front of each node's peer address.

It knows who dials by the first frame, a Hello, and cuts single links, in one direction or both. It runs on an event
loop in a thread of its own and needs no rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from cluster.link.frames import LENGTH_BYTES
from cluster.link.handshake import Hello, decode_greeting
from tests.cluster.harness import ClusterHarness
from tests.cluster.ports import BLOCK

CHUNK = 1 << 16


class Links(ClusterHarness):
    """A cluster behind proxies. `cut` and `heal` may be called at any time from the test's thread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._cut: set[tuple[str, str]] = set()
        self._open: dict[tuple[str, str], set[asyncio.StreamWriter]] = {}

    def start(self) -> None:
        self._thread.start()
        for name in self.names:
            asyncio.run_coroutine_threadsafe(self._listen(name), self._loop).result(10)
        super().start()

    def close(self) -> None:
        super().close()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)

    def cut(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """From now on nobody of the one group reaches anybody of the other, in either direction."""
        pairs = {pair for a in sources for b in targets for pair in ((a, b), (b, a))}
        self._on_loop(self._cut_now, pairs)

    def cut_one_way(self, source: str, target: str) -> None:
        """`source` can't open a connection to `target`; requests of `target` still reach it, and its answers return."""
        self._on_loop(self._cut_now, {(source, target)})

    def heal(self) -> None:
        """All links work again."""
        self._on_loop(self._cut.clear)

    def listen_address(self, name: str) -> str:
        """Where the node itself listens, behind the proxy."""
        return f"127.0.0.1:{self._ports.base + 3 * BLOCK // 4 + self.names.index(name)}"

    def _arguments(self, name: str) -> list[str]:
        return [*super()._arguments(name), "--peer-listen", self.listen_address(name)]

    def _on_loop(self, function: Any, *arguments: Any) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (function(*arguments), done.set()))
        assert done.wait(10), "the proxies' loop is stuck"

    def _cut_now(self, pairs: set[tuple[str, str]]) -> None:
        self._cut |= pairs
        for pair in pairs:
            for writer in self._open.pop(pair, ()):
                writer.transport.abort()

    async def _listen(self, target: str) -> None:
        host, _, port = self.peer_address(target).rpartition(":")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._forward(target, reader, writer)
            writer.transport.abort()

        await asyncio.start_server(serve, host, int(port))

    async def _forward(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(LENGTH_BYTES)
        hello = await reader.readexactly(int.from_bytes(head, "big"))
        greeting = decode_greeting(hello)
        assert isinstance(greeting, Hello)
        pair = greeting.identity.name, target
        if pair in self._cut:
            return
        host, _, port = self.listen_address(target).rpartition(":")
        behind_reader, behind_writer = await asyncio.open_connection(host, int(port))
        behind_writer.write(head + hello)
        mine = self._open.setdefault(pair, set())
        mine |= {writer, behind_writer}
        try:
            await asyncio.wait(
                [
                    asyncio.ensure_future(_pump(reader, behind_writer)),
                    asyncio.ensure_future(_pump(behind_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            mine -= {writer, behind_writer}
            behind_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
