from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cluster.clock import SystemClock
from kvstore.client.asynchronous import AsyncClient
from kvstore.embedded.file_store import FileStore

Opened = Callable[[], Awaitable[AsyncClient]]


class ShiftedClock:
    """The machine's clocks, and what a test adds to them."""

    def __init__(self) -> None:
        self._straight = SystemClock()
        self.wall_shift_ms = 0
        self.monotonic_shift_s = 0.0

    def wall_ms(self) -> int:
        return self._straight.wall_ms() + self.wall_shift_ms

    def monotonic_s(self) -> float:
        return self._straight.monotonic_s() + self.monotonic_shift_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def opened(path: Path, clock: ShiftedClock) -> AsyncIterator[Opened]:
    """Opens the file once more, as another process would."""
    async with AsyncExitStack() as stack:

        async def another() -> AsyncClient:
            return await stack.enter_async_context(AsyncClient(FileStore(path, clock=clock), clock=clock.monotonic_s))

        yield another


@pytest.fixture
async def db(opened: Opened) -> AsyncClient:
    return await opened()
