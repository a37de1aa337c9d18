"""A cluster whose peer links a test can cut and disturb, from its own thread: the proxies of kvstore/verify/faults.

They run on an event loop in a thread of their own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from kvstore.addresses import parse_address
from kvstore.verify.faults import links as proxies
from tests.cluster.harness import ClusterHarness
from tests.cluster.ports import BLOCK


class Links(ClusterHarness):
    """A cluster behind proxies. `cut`, `change` and `heal` may be called at any time from the test's thread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.proxies = proxies.Links(
            {
                name: proxies.Post(parse_address(self.peer_address(name)), parse_address(self.listen_address(name)))
                for name in self.names
            }
        )

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.proxies.start(), self._loop).result(10)
        super().start()

    def close(self) -> None:
        super().close()
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self.proxies.close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)

    def cut(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """From now on nobody of the one group reaches anybody of the other, in either direction."""
        self._on_loop(self.proxies.cut, list(sources), list(targets))

    def cut_one_way(self, source: str, target: str) -> None:
        """`source` can't open a connection to `target`; requests of `target` still reach it, and its answers return."""
        self._on_loop(self.proxies.cut_pairs, [(source, target)])

    def change(self, pairs: Iterable[proxies.Pair], **weather: Any) -> None:
        """From now on the weather on these links is like this (Weather)."""
        self._on_loop(lambda: self.proxies.change(pairs, **weather))

    def heal(self) -> None:
        """All links work again."""
        self._on_loop(self.proxies.heal)

    def listen_address(self, name: str) -> str:
        """Where the node itself listens, behind the proxy."""
        return f"127.0.0.1:{self._ports.base + 3 * BLOCK // 4 + self.names.index(name)}"

    def _arguments(self, name: str) -> list[str]:
        return [*super()._arguments(name), "--peer-listen", self.listen_address(name)]

    def _on_loop(self, function: Any, *arguments: Any) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (function(*arguments), done.set()))
        assert done.wait(10), "the proxies' loop is stuck"
