"""A program that counts up a number with strong writes while nodes die, and remembers what it was told."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore.client.asynchronous import AsyncClient

PAUSE_S = 0.02
"""After a write that was not acknowledged, so that nobody spins while all nodes are away."""


class Writer:
    """The only writer of its key, one write at a time. An async context manager."""

    KEY = "counter"

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.acknowledged: list[int] = []
        self.unknown: list[int] = []
        """Those that may be applied, or not."""
        self.longest_wait_s = 0.0
        """From one acknowledged write to the next."""

    async def __aenter__(self) -> Writer:
        self._task = asyncio.get_running_loop().create_task(self._write())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._task is not None
        self._over.set()
        if kind is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            return
        await self._task

    async def has_acknowledged(self, count: int) -> bool | None:
        """True once so many writes were acknowledged, None before. Raises what ended the writer."""
        assert self._task is not None
        if self._task.done():
            self._task.result()
        return True if len(self.acknowledged) >= count else None

    def may_be_read(self, number: int) -> bool:
        """Whether a strong read after the last write may show this number: the last acknowledged, or an unknown one."""
        return number in self.acknowledged[-1:] or number in self.unknown

    async def _write(self) -> None:
        from kvstore.errors import NotApplied, OutcomeUnknown  # noqa: PLC0415

        number, last_at = 0, time.monotonic()
        while not self._over.is_set():
            number += 1
            try:
                await self._client.put(self.KEY, str(number), consistency="strong")
            except OutcomeUnknown:
                self.unknown.append(number)
                await asyncio.sleep(PAUSE_S)
            except NotApplied:
                await asyncio.sleep(PAUSE_S)
            else:
                self.acknowledged.append(number)
                self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - last_at)
                last_at = time.monotonic()
